from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from lobsmith.drift import REFERENCE, SCORE
from lobsmith.drift.reference import load_reference
from lobsmith.errors import DataError
from lobsmith.features.dataset import DATASET, FEATURES, Dataset, save_dataset
from lobsmith.market.instrument import Instrument
from lobsmith.params import Params
from lobsmith.release.checks.score_validation import check_score
from lobsmith.release.version.contract import wire_contract
from lobsmith.stages.reference import describe_window
from tests.drift.drifting import simulated
from tests.small import small_params

OTHER = Instrument(venue="simulator", symbol="OTHER", tick_size=0.1, lot_size=0.001)


def run_folder(folder: Path) -> Path:
    """The datasets of two instruments, as the features stage leaves them."""
    chosen = simulated(3, 60)
    save_dataset(chosen, folder / DATASET)
    for dataset in (chosen, replace(chosen, instrument=OTHER)):
        save_dataset(dataset, folder / FEATURES / f"simulator-{dataset.instrument.symbol}.safetensors")
    return folder


def pooled(pool: bool) -> Params:
    params = small_params()
    return structs.replace(params, train=structs.replace(params.train, pool=pool))


@pytest.mark.parametrize("pool", [False, True])
def test_what_was_trained_on_is_described_so_that_it_can_be_published(pool: bool, tmp_path: Path) -> None:
    params = pooled(pool)
    described = describe_window(params, run_folder(tmp_path))
    names = ["simulator:SIM", "simulator:OTHER"] if pool else ["simulator:SIM"]
    reference = load_reference(tmp_path / REFERENCE)
    assert list(reference.rows) == list(described.instruments) == names
    assert [len(rows) for rows in reference.rows.values()] == [fitted.rows for fitted in described.instruments.values()]
    assert all(name in str(described) for name in names)
    check_score(tmp_path, wire_contract(params))

    before = [(tmp_path / name).read_bytes() for name in (REFERENCE, SCORE)]
    describe_window(params, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in (REFERENCE, SCORE)] == before


def test_a_window_of_seconds_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    whole: Dataset = simulated(3, 60)
    few = len(whole.rows) // 2
    cut = replace(whole, rows=whole.rows.slice(0, few), labels=whole.labels[:few], targets=whole.targets.slice(0, few))
    save_dataset(cut, tmp_path / DATASET)
    with pytest.raises(DataError, match="simulator:SIM: .* give more data"):
        describe_window(small_params(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DATASET]
