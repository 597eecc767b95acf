"""What is found where there is nothing to find, and whether the same training gives the same file."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lobsmith.evaluation.assess import Assessment, assess
from lobsmith.evaluation.baselines import base_rate, mean_outlook
from lobsmith.evaluation.results import MAJORITY, MODEL, Interval
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.labels import UNKNOWN, Targets
from lobsmith.files import sha256_file
from lobsmith.gates.skill import skill
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.dynamics import Dynamics
from lobsmith.models.train import predict, train
from lobsmith.models.training_data import parts_of
from lobsmith.params import Params
from tests.small import small_params

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SECONDS = 300


def params_of(network: str) -> Params:
    return small_params(
        **{
            "model.network": network,
            "labels.horizons_ms": [100, 1000, 10_000],
            "train.horizon_weights": [1, 1, 1],
            "train.epochs": 4,
            "gates.skill": 1.0,
        }
    )


def assessed(dataset: Dataset, params: Params) -> Assessment:
    parts = parts_of([dataset], params.split)
    rows = parts[0].split.test
    probabilities, outlook = predict(train(parts, params).network, dataset, rows)
    base = base_rate(parts, len(rows))
    return assess(dataset, rows, {MODEL: probabilities, MAJORITY: base}, outlook, mean_outlook(parts), 1.0, (0.5,))


def gain(assessment: Assessment, horizon_ms: int) -> Interval:
    """The model's log-loss less the base rate's: below zero it is better."""
    chosen = (
        comparison
        for comparison in assessment.comparisons
        if (comparison.horizon_ms, comparison.against) == (horizon_ms, MAJORITY)
    )
    return next(chosen).difference


@pytest.mark.parametrize("seed", [5, 6, 7])
@pytest.mark.parametrize("network", ["logistic", "cnn_lstm_attention"])
def test_a_market_without_a_direction_is_not_predicted(network: str, seed: int) -> None:
    """No latent direction, no lean on the imbalance, no trends, no trades that call for others.

    A queue-reactive book foretells the next tenth of a second all the same, because the shorter of two queues is used
    up first: that is no leak, and is not asked about. After a second and more nothing of it is left to be found.
    """
    silent = Dynamics(direction=0, imbalance=0, excitement=0, trend=0)
    params = params_of(network)
    assessment = assessed(build_dataset(simulate(seed=seed, seconds=SECONDS, dynamics=silent), params), params)
    for horizon in (1000, 10_000):
        assert gain(assessment, horizon).high >= 0, horizon


STEADY = Dynamics(calm=1, trending=1, volatile=1, turbulence=1, trend=0)
"""A market whose classes have the same shares all day long."""


def placebo(seed: int, params: Params) -> Dataset:
    """The features of one market with the labels of another: as bursty and overlapping as real ones, and foreign.

    Both are steady. Where the classes' shares drift, a model whose calibration has seen newer rows than the base rate
    knows them better: the gate then lets it pass although it foretells nothing, of five minutes with regimes several of
    twenty. That is a gain over the base rate, and none to trade on.
    """
    market, other = (build_dataset(simulate(each, SECONDS, STEADY), params) for each in (seed, 1000 + seed))
    # A row takes the label of the other market's next one.
    row = np.searchsorted(other.rows.time, market.rows.time)
    inside = row < len(other.rows)
    row = np.minimum(row, len(other.rows) - 1)
    known = inside & (market.labels != UNKNOWN).all(axis=1) & (other.labels[row] != UNKNOWN).all(axis=1)
    columns = {name: column[row] for name, column in vars(other.targets).items()}
    return replace(market, labels=np.where(known[:, None], other.labels[row], UNKNOWN), targets=Targets(**columns))


@pytest.mark.parametrize("network", ["queue_imbalance", "cnn_lstm_attention"])
def test_the_labels_of_another_market_are_not_predicted(network: str) -> None:
    """Intervals that took dependent rows for independent ones would let many of these pass."""
    params = params_of(network)
    passed = [skill(assessed(placebo(seed, params), params), params.gates.skill).passed for seed in range(20)]
    # One in forty passes by chance; four of twenty have a probability of 0.2 %.
    assert sum(passed) <= 3


def test_its_own_labels_are() -> None:
    params = params_of("logistic")
    for seed in (3, 4):
        verdict = skill(assessed(build_dataset(simulate(seed, SECONDS, STEADY), params), params), params.gates.skill)
        assert verdict.passed, seed


CODE = """
import sys
from pathlib import Path
from lobsmith.features.dataset import build_dataset, save_dataset
from lobsmith.market.simulator import simulate
from lobsmith.stages.compress import compress
from lobsmith.stages.train import train_stage
from tests.evaluation.test_honesty import SECONDS, params_of

for network in sys.argv[2:]:
    params, directory = params_of(network), Path(sys.argv[1]) / network
    dataset = directory / "dataset.safetensors"
    save_dataset(build_dataset(simulate(seed=3, seconds=SECONDS), params), dataset)
    train_stage(params, [dataset], directory)
    compress(params, directory)
"""
NETWORKS = ["cnn_lstm_attention", "lstm", "volatility", "logistic", "bin_ctabl"]


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All networks trained in one process, and in another one the other way round."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    directories = []
    for number, networks in enumerate((NETWORKS, NETWORKS[::-1])):
        directories.append(tmp_path_factory.mktemp(f"trained-{number}-"))
        subprocess.run(
            [sys.executable, "-c", CODE, str(directories[-1]), *networks],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(number), "CUDA_VISIBLE_DEVICES": ""},
            timeout=600,
        )
    return directories


@pytest.mark.timeout(1250)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_window_trained_twice_gives_the_same_file(network: str, trained_twice: list[Path]) -> None:
    """F27."""
    names = ("dataset.safetensors", "weights.safetensors", "model.onnx", "golden.safetensors")
    first, second = ({name: sha256_file(folder / network / name) for name in names} for folder in trained_twice)
    assert first == second
    assert len(set(first.values())) == 4
