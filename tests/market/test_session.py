from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.market.ingest import ingest
from lobsmith.market.session import Session, fingerprint, load_session, save_session
from lobsmith.market.simulator import simulate
from lobsmith.params import Params, load_params
from tests.market.captured import SPOT, write

PARAMS = Path(__file__).parents[2] / "params.yaml"


def params(**changes: object) -> Params:
    return load_params(PARAMS, {f"data.{name.replace('__', '.')}": value for name, value in changes.items()})


def assert_equal(a: Session, b: Session) -> None:
    assert (a.instrument, a.accounting, a.sources) == (b.instrument, b.accounting, b.sources)
    for field in fields(a.events):
        one, other = getattr(a.events, field.name), getattr(b.events, field.name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_round_trip(tmp_path: Path) -> None:
    session = simulate(5, 20)
    save_session(session, tmp_path / "deep" / "session.parquet")
    assert_equal(load_session(tmp_path / "deep" / "session.parquet"), session)


def test_fingerprint_covers_instrument_and_columns() -> None:
    session = simulate(5, 2)
    other = session.events.size.copy()
    other[3] += 1
    prints = {
        fingerprint(session),
        fingerprint(replace(session, events=replace(session.events, size=other))),
        fingerprint(
            replace(session, instrument=type(session.instrument)(venue="x", symbol="y", tick_size=1, lot_size=1))
        ),
    }
    assert len(prints) == 3
    assert fingerprint(simulate(5, 2)) in prints


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "s.parquet"
    save_session(simulate(5, 2), path)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(DataError, match="fingerprint"):
        load_session(path)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no more", b"x" * 100])
def test_what_is_no_session_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.parquet"):
        load_session(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_session(tmp_path)


def test_ingest_simulates(tmp_path: Path) -> None:
    session = ingest(params(simulator__seed=3, simulator__seconds=10), None, tmp_path / "s.parquet")
    assert_equal(load_session(tmp_path / "s.parquet"), session)
    assert_equal(session, simulate(3, 10))


def test_ingest_takes_captures_over_the_parameters(tmp_path: Path) -> None:
    session = ingest(params(), [write(tmp_path / "a.gz", *SPOT)], tmp_path / "s.parquet")
    assert session.sources == ("a.gz",)
    assert_equal(load_session(tmp_path / "s.parquet"), session)


def test_ingest_expands_patterns_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a-1.gz", *SPOT[:4])
    write(tmp_path / "a-2.gz", *SPOT[4:6])
    write(tmp_path / "[b].gz", *SPOT[6:])
    patterns = (str(tmp_path / "a-*.gz"), str(tmp_path / "[b].gz"))
    session = ingest(params(source="captures", captures=patterns), None, tmp_path / "s.parquet")
    assert session.sources == ("a-1.gz", "a-2.gz", "[b].gz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "captures"}, "data.captures"),
        ({"source": "captures", "captures": ("absent-*.gz",)}, "absent-"),
        ({"source": "magic"}, "data.source"),
    ],
)
def test_ingest_names_the_parameter_that_is_wrong(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        ingest(params(**changes), None, tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()
