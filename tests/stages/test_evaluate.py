import itertools
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.evaluation.baselines import load_baselines, predict_baselines, train_baselines
from lobsmith.evaluation.results import EVALUATION, REPORT, Evaluation
from lobsmith.evaluation.walk_forward import folds, regime_names, walk_forward
from lobsmith.features.dataset import DATASET, Dataset, load_dataset
from lobsmith.models.train import train
from lobsmith.models.training_data import parts_of
from lobsmith.stages.compress import compress
from lobsmith.stages.evaluate import CALIBRATION, HISTORY, evaluate
from lobsmith.stages.features import build_features
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.train import train_stage
from lobsmith.verdict import Verdict
from tests.small import small_params


@pytest.fixture(scope="module")
def dataset(simulated: Callable[[int, int], Dataset]) -> Dataset:
    return simulated(5, 60)


def test_folds_follow_each_other_over_the_newest_half(dataset: Dataset) -> None:
    params = small_params(**{"walk_forward.folds": 3})
    cuts = folds(dataset, params)
    usable, time = np.flatnonzero(dataset.usable), dataset.rows.time
    embargo, horizon = params.split.embargo_ms * 1_000_000, max(dataset.horizons_ms) * 1_000_000
    assert len(cuts) == 3
    assert cuts[0].test[0] >= usable[len(usable) // 2]
    assert cuts[-1].test[-1] == usable[-1]
    for split in cuts:
        assert time[split.train[-1]] + horizon < time[split.validation[0]]
        assert time[split.train[-1]] + embargo <= time[split.validation[0]]
        assert time[split.validation[-1]] + horizon < time[split.test[0]]
        assert split.train[0] == usable[0]
    for split, following in itertools.pairwise(cuts):
        assert split.test[-1] < following.test[0]


def test_each_span_of_the_market_has_one_name(dataset: Dataset) -> None:
    rows = np.flatnonzero(dataset.usable)
    names = regime_names(dataset, rows, 5.0)
    assert set(names) <= {"calm", "trending", "volatile"}
    span = (dataset.rows.time[rows] - dataset.rows.time[rows[0]]) // 5_000_000_000
    assert all(len(set(names[span == number])) == 1 for number in np.unique(span))


def test_where_no_market_epoch_has_enough_rows_nothing_passes(dataset: Dataset) -> None:
    params = small_params(**{"walk_forward.minimum_rows": 10**6, "model.network": "queue_imbalance"})
    parts = parts_of([dataset], params.split)
    verdict = walk_forward(parts, train(parts, params).network, params, [dataset])
    assert (verdict.passed, verdict.value) == (False, None)
    assert str(verdict) == "walk_forward refused: nothing to measure against a threshold of 10"
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    assert {regime["judged"] for regime in verdict.evidence["epochs"]} == {False}


def test_the_worst_market_epoch_decides(dataset: Dataset) -> None:
    params = small_params(**{"model.network": "queue_imbalance", "walk_forward.epoch_s": 5.0})
    parts = parts_of([dataset], params.split)
    verdict = walk_forward(parts, train(parts, params).network, params, [dataset])
    epochs = {regime["epoch"]: regime for regime in verdict.evidence["epochs"]}
    shares = {name: regime["log_loss"] / regime["base"] for name, regime in epochs.items() if regime["judged"]}
    assert f"instrument {dataset.instrument}" in shares
    assert len(shares) > 1
    assert verdict.value == max(shares.values()) == shares[verdict.evidence["worst"]]


@pytest.mark.slow
def test_the_stages_from_files_to_files(tmp_path: Path) -> None:
    params = small_params()
    ingest(params.data, None, tmp_path / MARKET)
    build_features(params, tmp_path / MARKET, tmp_path)
    train_stage(params, [tmp_path / DATASET], tmp_path)
    made: list[str] = []
    summary = compress(params, tmp_path, on_progress=made.append)
    count = len(summary.candidates)
    assert [re.sub(r", \d+ s$", "", text) for text in made if not text.startswith("fine-tune")] == [
        f"{verb} {row.name}, {number} of {count}"
        for verb in ("make", "measure")
        for number, row in enumerate(summary.candidates, start=1)
    ]
    assert summary.bytes == (tmp_path / "model.onnx").stat().st_size
    trained: list[str] = []
    result = evaluate(params, tmp_path, on_train=trained.append)
    assert trained == ["fold 1 of 1", "queue imbalance"]
    assert msgspec.json.decode((tmp_path / EVALUATION).read_bytes(), type=Evaluation) == result
    gates = ["parity", "skill", "calibration", "compression", "walk_forward"]
    assert [verdict.gate for verdict in result.verdicts] == gates
    assert result.verdicts[0].passed
    predictors = {metrics.predictor for metrics in result.horizon_metrics}
    assert predictors == {"model", "base rate", "recent base rate", "queue imbalance"}
    assert {metrics.horizon_ms for metrics in result.horizon_metrics} == {100, 1000}
    parts = parts_of([load_dataset(tmp_path / DATASET)], params.split)
    saved, rows = load_baselines(params, tmp_path), parts[0].split.test
    predicted, again = (
        predict_baselines(networks, parts, parts[0].dataset, rows)["queue imbalance"]
        for networks in (saved, train_baselines(parts, params))
    )
    np.testing.assert_array_equal(predicted, again)
    assert {head.output for head in result.heads} == {
        "significant",
        "bid_withdrawal",
        "ask_withdrawal",
        "move",
        "volatility",
    }
    assert len(result.attention) == params.model.ring
    assert sum(result.attention) == pytest.approx(1, abs=1e-4)
    page = (tmp_path / REPORT).read_text()
    # Differences, reliability and confidence of each horizon; attention and training once.
    assert page.count("<svg") == 2 * 3 + 2
    assert "base rate" in page
    assert not re.search(r"""(src|href)=["']?http""", page)
    assert len(msgspec.json.decode((tmp_path / HISTORY).read_bytes())) == params.train.epochs
    assert msgspec.json.decode((tmp_path / CALIBRATION).read_bytes())
