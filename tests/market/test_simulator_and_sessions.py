from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.features.labels import UNKNOWN
from lobsmith.market.events import TICKER
from lobsmith.market.ingest import ingest
from lobsmith.market.session import Session, fingerprint, load_session, save_session
from lobsmith.market.simulator import simulate
from tests.small import small_params


@pytest.fixture(scope="module")
def session() -> Session:
    return simulate(seed=4, seconds=120)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(session: Session) -> None:
    assert fingerprint(simulate(seed=4, seconds=120)) == fingerprint(session)
    assert fingerprint(simulate(seed=5, seconds=120)) != fingerprint(session)


def test_speaks_like_a_venue(session: Session) -> None:
    events = session.events
    assert session.accounting.crossed == 0
    assert (np.diff(events.local_time) >= 0).all()
    assert (events.local_time >= events.exchange_time).all()
    rate = (events.kind == TICKER).sum() / 2 / 120
    assert 20 < rate < 120
    assert session.accounting.messages == session.accounting.kept


def test_imbalance_predicts_the_mid(session: Session) -> None:
    from lobsmith.features.dataset import build_dataset
    from lobsmith.features.definitions import NAMES

    dataset = build_dataset(session, small_params())
    labels = dataset.labels[:, 0]
    imbalance = dataset.rows.raw[:, NAMES.index("imbalance_1")]
    up, down = imbalance[labels == 2].mean(), imbalance[labels == 0].mean()
    assert up - down > 0.2
    assert min(np.bincount(labels[labels != UNKNOWN], minlength=3)) > 0.05 * len(labels)


def test_saved_and_loaded_again_it_is_the_same(session: Session, tmp_path: Path) -> None:
    save_session(session, tmp_path / "s.parquet")
    loaded = load_session(tmp_path / "s.parquet")
    assert (loaded.instrument, loaded.accounting, loaded.sources) == (
        session.instrument,
        session.accounting,
        session.sources,
    )
    for field in fields(session.events):
        np.testing.assert_array_equal(getattr(loaded.events, field.name), getattr(session.events, field.name))


def test_a_changed_or_broken_file_is_refused(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    save_session(session, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"s\.parquet"):
        load_session(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"s\.parquet"):
        load_session(path)
    with pytest.raises(DataError, match="nowhere"):
        load_session(tmp_path / "nowhere")


def test_ingest_takes_what_the_parameters_name(tmp_path: Path) -> None:
    made = ingest(small_params(), None, tmp_path / "s.parquet")
    assert fingerprint(load_session(tmp_path / "s.parquet")) == fingerprint(made)
    with pytest.raises(DataError, match=r"data\.source"):
        ingest(small_params(**{"data.source": "moon"}), None, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"data\.captures"):
        ingest(small_params(**{"data.source": "captures"}), None, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()
