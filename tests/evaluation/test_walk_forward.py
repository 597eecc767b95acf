"""Walk-forward validation: folds in order, regimes, and no pass without skill."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lobsmith.errors import TrainingError
from lobsmith.evaluation.assess import assess
from lobsmith.evaluation.baselines import base_rate, mean_outlook
from lobsmith.evaluation.metrics import log_losses
from lobsmith.evaluation.results import MAJORITY, MODEL
from lobsmith.evaluation.walk_forward import Regime, _verdict, folds, regime_names, walk_forward
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.gates.skill import skill
from lobsmith.market.instrument import Instrument
from lobsmith.market.simulator import simulate
from lobsmith.models.split import split_beside, usable_rows
from lobsmith.models.train import Trained, predict, train
from lobsmith.models.training_data import Part, parts_of
from lobsmith.params import Params
from lobsmith.verdict import Verdict
from tests.small import small_params

S = 1_000_000_000
MS = 1_000_000


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params(
        **{
            "model.network": "queue_imbalance",
            "walk_forward.folds": 3,
            "walk_forward.epoch_s": 20,
            "walk_forward.minimum_rows": 100,
            "gates.walk_forward": 1.0,
            "gates.skill": 1.0,
        }
    )


@pytest.fixture(scope="module")
def dataset(params: Params) -> Dataset:
    return build_dataset(simulate(seed=5, seconds=240), params)


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> list[Part]:
    return parts_of([dataset], params.split)


@pytest.fixture(scope="module")
def trained(parts: list[Part], params: Params) -> Trained:
    return train(parts, params)


def shuffled(dataset: Dataset, seed: int) -> Dataset:
    """The dataset with its known labels in another order: nothing foretells them."""
    labels, usable = dataset.labels.copy(), usable_rows(dataset)
    labels[usable] = np.random.default_rng(seed).permutation(labels[usable])
    return replace(dataset, labels=labels)


def test_folds_follow_each_other_and_are_purged(dataset: Dataset, params: Params) -> None:
    splits = folds(dataset, params)
    assert len(splits) == 3
    time, horizon, embargo = dataset.rows.time, max(dataset.horizons_ms) * MS, params.split.embargo_ms * MS
    usable = usable_rows(dataset)
    assert embargo > 0
    for fold in splits:
        train_rows, validation, test = fold.train, fold.validation, fold.test
        assert time[train_rows].max() + horizon < time[validation].min()
        assert time[validation].max() + horizon < time[test].min()
        for earlier, later in ((train_rows, validation), (validation, test)):
            boundary = usable[np.searchsorted(usable, earlier[-1]) :]
            first = time[boundary[time[boundary] > time[earlier[-1]] + horizon][0]]
            assert time[later[0]] >= first + embargo
        # Everything before trains.
        assert train_rows[0] == usable[0]
        assert set(np.concatenate([train_rows, validation, test])) <= set(usable)
    tested = np.concatenate([fold.test for fold in splits])
    assert (np.diff(tested) > 0).all()
    assert (tested >= usable[len(usable) // 2]).all()
    assert usable[-1] - tested[-1] < 5
    # The newest half, less what is purged and embargoed.
    assert len(tested) > 0.9 * len(usable) / 2
    assert [len(fold.train) for fold in splits] == sorted(len(fold.train) for fold in splits)


def test_too_few_rows_for_so_many_folds_is_one_clear_error(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match="simulator:SIM: a part of the split has no row left"):
        folds(dataset, small_params(**{"walk_forward.folds": 50, "split.embargo_ms": 5000}))


def scripted(dataset: Dataset, mids: list[np.ndarray]) -> Dataset:
    """A dataset that has a row each half second, a span of twenty seconds for each of the given 40 mids."""
    mid = np.concatenate(mids)
    time = 1_700_000_000 * S + np.arange(len(mid), dtype=np.int64) * S // 2
    none = np.zeros((len(mid), 0), np.float32)
    rows = replace(
        dataset.rows,
        raw=none,
        features=none,
        time=time,
        mid=mid,
        segment=np.zeros(len(mid), np.int64),
        complete=np.ones(len(mid), bool),
    )
    return replace(dataset, rows=rows)


def swing(height: int) -> np.ndarray:
    """Up and down from one second to the next."""
    return 1_000_000 + height * (np.arange(40, dtype=np.int64) // 2 % 2)


CALM, WILD = swing(2), swing(200)
UP = 1_000_000 + 50 * np.arange(40, dtype=np.int64)
STILL = np.full(40, 1_000_000, np.int64)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([CALM, WILD], ["calm", "volatile"], id="calm and volatile"),
        pytest.param([CALM, UP, WILD], ["calm", "trending", "volatile"], id="each of them"),
        pytest.param([UP[::-1], CALM, CALM, WILD], ["trending", "calm", "calm", "volatile"], id="down is a trend too"),
        pytest.param([STILL, CALM], ["calm", "volatile"], id="what stands still is calm"),
        pytest.param([STILL, STILL], ["calm", "calm"], id="nothing happens"),
        pytest.param([UP, UP], ["trending", "trending"], id="nothing but trends"),
        pytest.param([WILD], ["calm"], id="alone it is compared with itself"),
        pytest.param(
            [WILD + (UP - 1_000_000) // 10, CALM], ["volatile", "calm"], id="a trend that is lost in the noise"
        ),
    ],
)
def test_kinds_of_markets(dataset: Dataset, spans: list[np.ndarray], expected: list[str]) -> None:
    market = scripted(dataset, spans)
    names = regime_names(market, np.arange(len(market.rows)), 20.0)
    assert names.tolist() == [name for name in expected for _ in range(40)]


def test_only_the_given_rows_count(dataset: Dataset) -> None:
    market = scripted(dataset, [CALM, WILD, CALM, WILD])
    chosen = np.concatenate([np.arange(40), np.arange(120, 160)])
    names = regime_names(market, chosen, 20.0)
    assert names.tolist() == ["calm"] * 40 + ["volatile"] * 40


def regime_of(name: str, log_loss: float, base: float, *, judged: bool = True, rows: int = 1000) -> Regime:
    return Regime(regime=name, rows=rows, log_loss=log_loss, base=base, judged=judged)


@pytest.mark.parametrize(
    ("regimes", "passed", "worst", "value"),
    [
        pytest.param(
            [regime_of("calm", 0.5, 1.0, rows=9000), regime_of("volatile", 1.01, 1.0, rows=300)],
            False,
            "volatile",
            1.01,
            id="one is worse, the mean is better",
        ),
        pytest.param(
            [regime_of("calm", 0.9, 1.0), regime_of("volatile", 1.5, 2.0)], True, "calm", 0.9, id="all are better"
        ),
        pytest.param([regime_of("calm", 1.0, 1.0)], False, "calm", 1.0, id="as good is not better"),
        pytest.param(
            [regime_of("calm", 0.9, 1.0), regime_of("volatile", 9.0, 1.0, judged=False)],
            True,
            "calm",
            0.9,
            id="too few rows",
        ),
        pytest.param(
            [regime_of("calm", 0.9, 1.0, judged=False)],
            False,
            "no regime has enough rows",
            None,
            id="none has enough rows",
        ),
        pytest.param([], False, "no regime has enough rows", None, id="none at all"),
    ],
)
def test_the_worst_regime_decides(regimes: list[Regime], passed: bool, worst: str, value: float | None) -> None:
    verdict = _verdict([], regimes, 1.0)
    assert (verdict.passed, verdict.evidence["worst"], verdict.value) == (
        passed,
        worst,
        value if value is None else pytest.approx(value),
    )
    assert len(verdict.evidence["epochs"]) == len(regimes)


@pytest.fixture(scope="module")
def walked(parts: list[Part], trained: Trained, params: Params) -> Verdict:
    return walk_forward(parts, trained.network, params)


def test_what_the_simulator_holds_passes(walked: Verdict, dataset: Dataset) -> None:
    evidence = walked.evidence
    assert [fold["fold"] for fold in evidence["folds"]] == [1, 2, 3]
    starts = [fold["start_ns"] for fold in evidence["folds"]]
    assert starts == sorted(starts)
    names = {regime["epoch"] for regime in evidence["epochs"]}
    assert names <= {"calm", "trending", "volatile"}
    assert sum(regime["rows"] for regime in evidence["epochs"]) == sum(fold["test_rows"] for fold in evidence["folds"])
    mean = sum(fold["log_loss"] * fold["test_rows"] for fold in evidence["folds"])
    again = sum(regime["log_loss"] * regime["rows"] for regime in evidence["epochs"])
    assert mean == pytest.approx(again)
    shares = {regime["epoch"]: regime["log_loss"] / regime["base"] for regime in evidence["epochs"] if regime["judged"]}
    assert walked.value == pytest.approx(max(shares.values()))
    assert shares[evidence["worst"]] == walked.value
    assert walked.passed == (walked.value < 1.0)


def test_no_fold_learns_from_the_rows_it_is_tested_on(dataset: Dataset, params: Params) -> None:
    fold = folds(dataset, params)[-1]
    labels = dataset.labels.copy()
    labels[fold.test] = 2 - labels[fold.test]
    changed = replace(dataset, labels=labels)
    network = train([Part(dataset, fold)], params).network
    probabilities = predict(network, dataset, fold.test)[0]
    expected = np.mean([log_losses(probabilities[:, h], labels[fold.test, h]) for h in range(2)])
    parts = parts_of([changed], params.split)
    walked = walk_forward(parts, train(parts, params).network, params)
    assert walked.evidence["folds"][-1]["log_loss"] == pytest.approx(expected, rel=1e-6)
    before = np.mean([log_losses(probabilities[:, h], dataset.labels[fold.test, h]) for h in range(2)])
    assert abs(expected - before) > 1e-3


def test_a_market_of_another_kind_on_which_it_fails_refuses_it(
    parts: list[Part], trained: Trained, params: Params, dataset: Dataset, walked: Verdict
) -> None:
    elsewhere = replace(
        dataset,
        instrument=Instrument(venue="other", symbol="ELSE", tick_size=0.1, lot_size=0.001),
        labels=np.where(dataset.labels == UNKNOWN, UNKNOWN, 2 - dataset.labels),
    )
    generous = small_params(
        **{
            "model.network": "queue_imbalance",
            "walk_forward.folds": 3,
            "walk_forward.epoch_s": 20,
            "walk_forward.minimum_rows": 100,
            "gates.walk_forward": walked.value + 1e-6,
        }
    )
    assert walk_forward(parts, trained.network, generous).passed
    verdict = walk_forward(parts, trained.network, generous, [elsewhere])
    assert not verdict.passed
    assert verdict.evidence["worst"] == "instrument other:ELSE"
    # Only the minutes that the model was not trained in.
    held_out = split_beside(elsewhere, dataset, parts[0].split, params.split.embargo_ms)
    assert held_out is not None
    assert verdict.evidence["epochs"][-1]["rows"] == len(held_out.test) < len(usable_rows(elsewhere))


def test_no_kind_of_market_with_enough_rows_refuses(parts: list[Part], trained: Trained) -> None:
    verdict = walk_forward(
        parts,
        trained.network,
        small_params(
            **{
                "model.network": "queue_imbalance",
                "walk_forward.folds": 2,
                "walk_forward.minimum_rows": 10_000_000,
                "gates.walk_forward": 1e9,
            }
        ),
    )
    assert not verdict.passed
    assert verdict.value is None
    assert verdict.evidence["epochs"]
    assert not any(regime["judged"] for regime in verdict.evidence["epochs"])


Judge = Callable[[Dataset, Params], tuple[Verdict, np.ndarray]]


@pytest.fixture(scope="module")
def judged() -> Judge:
    def run(dataset: Dataset, params: Params) -> tuple[Verdict, np.ndarray]:
        """Return the gate's verdict, and each test row's log-loss beyond the base rate's at each horizon."""
        parts = parts_of([dataset], params.split)
        rows = parts[0].split.test
        p, outlook = predict(train(parts, params).network, dataset, rows)
        base, labels = base_rate(parts, len(rows)), dataset.labels[rows]
        assessment = assess(dataset, rows, {MODEL: p, MAJORITY: base}, outlook, mean_outlook(parts), 1.0, (0.5,))
        excess = [log_losses(p[:, h], labels[:, h]) - log_losses(base[:, h], labels[:, h]) for h in range(2)]
        return skill(assessment, params.gates.skill), np.stack(excess, axis=1)

    return run


def standard_error(values: np.ndarray, blocks: int = 20) -> np.ndarray:
    means = np.stack([part.mean(axis=0) for part in np.array_split(values, blocks)])
    return means.std(axis=0, ddof=1) / np.sqrt(blocks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", ["logistic", "queue_imbalance", "cnn_lstm_attention"])
def test_shuffled_labels_give_no_skill_and_the_gate_refuses(
    dataset: Dataset, judged: Judge, network: str, seed: int
) -> None:
    changes: dict[str, Any] = {"model.network": network, "gates.skill": 1.0, "train.epochs": 3}
    verdict, excess = judged(shuffled(dataset, seed), small_params(**changes))
    assert not verdict.passed
    assert verdict.value >= 1.0
    assert (excess.mean(axis=0) > -4 * standard_error(excess)).all()


def test_where_they_are_not_it_learns_and_the_gate_lets_it_pass(
    dataset: Dataset, judged: Judge, params: Params
) -> None:
    verdict, excess = judged(dataset, params)
    assert verdict.passed
    assert verdict.value < 1.0
    assert excess[:, 0].mean() < -4 * standard_error(excess)[0]
