"""A manifest names what a run has trained on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from msgspec import structs

from lobsmith.features.dataset import DATASET, FEATURES, file_stem, save_dataset
from lobsmith.market.instrument import SIMULATED
from tests.small import small_params


def test_a_pooled_model_is_trained_on_all_instruments_the_evaluated_one_first(tmp_path: Path, simulated) -> None:
    from lobsmith.pipelines.retrain import trained_instruments

    chosen, other = simulated(3, 60), structs.replace(SIMULATED, symbol="OTHER")
    (tmp_path / FEATURES).mkdir()
    save_dataset(chosen, tmp_path / DATASET)
    for dataset in (chosen, replace(chosen, instrument=other)):
        save_dataset(dataset, tmp_path / FEATURES / f"{file_stem(dataset.instrument)}.safetensors")
    evaluated = SimpleNamespace(instrument=SIMULATED)
    for pool, trained in ((False, (SIMULATED,)), (True, (SIMULATED, other))):
        assert trained_instruments(small_params(**{"train.pool": pool}), evaluated, tmp_path) == trained
