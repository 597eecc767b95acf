import dataclasses
import math

import msgspec
import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.evaluation.assess import CONFIDENCES, Assessment, assess, effect
from lobsmith.evaluation.calibration import calibration_floor
from lobsmith.evaluation.metrics import OUTPUTS, expected_calibration_error
from lobsmith.evaluation.results import MAJORITY, MODEL, Evaluation
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT, DIRECTIONS, NAMES
from lobsmith.features.labels import UNKNOWN, direction_labels, targets
from lobsmith.features.stream import Rows
from lobsmith.market.instrument import Instrument
from tests.small import small_params

MS = 1_000_000
HORIZONS = (50, 1000)
INSTRUMENT = Instrument(venue="venue", symbol="symbol", tick_size=0.1, lot_size=0.001)
GUESS = "guess"


def dataset_of(count: int, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    time = 1_700_000_000_000 * MS + np.cumsum(generator.exponential(40.0, count) * MS).astype(np.int64)
    mid = 200_000 + np.cumsum(generator.choice([-20, -1, 0, 0, 0, 1, 20], count)).astype(np.int64)
    segment = (np.arange(count) // 1_500).astype(np.int64)
    raw = np.abs(generator.normal(size=(count, COUNT))).astype(np.float32)
    params = msgspec.structs.replace(small_params().labels, horizons_ms=HORIZONS)
    return Dataset(
        INSTRUMENT,
        Rows(raw, raw, time, mid, segment, np.ones(count, bool)),
        direction_labels(time, mid, segment, HORIZONS),
        targets(time, mid, segment, raw, params),
        HORIZONS,
        "0" * 64,
        "1" * 64,
    )


def probabilities_of(labels: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """Probabilities float32 [N, H, 3] that agree with the labels more or less."""
    logits = np.random.default_rng(seed).normal(size=(*labels.shape, 3)) + skill * np.eye(3)[np.maximum(labels, 0)]
    return (np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)).astype(np.float32)


@dataclasses.dataclass
class Case:
    dataset: Dataset
    rows: np.ndarray
    predictions: dict[str, np.ndarray]
    outlook: np.ndarray
    reference: np.ndarray
    kept: np.ndarray

    def assess(self, **changes: object) -> Assessment:
        return assess(**{**self.arguments(), **changes})

    def arguments(self) -> dict:
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "predictions": self.predictions,
            "outlook": self.outlook,
            "reference": self.reference,
            "fees_bps": 0.5,
        }


@pytest.fixture(scope="module")
def case() -> Case:
    dataset = dataset_of(6_000)
    generator = np.random.default_rng(1)
    rows = np.sort(generator.choice(np.arange(2_000, 6_000), 3_500, replace=False))
    labels = dataset.labels[rows]
    base = np.broadcast_to(np.array([0.3, 0.4, 0.3], np.float32), (len(rows), len(HORIZONS), 3))
    predictions = {MODEL: probabilities_of(labels, 2.0, 2), MAJORITY: base, GUESS: probabilities_of(labels, 0.0, 3)}
    predictions[MODEL][:40] = np.nan
    predictions[GUESS][100:130, 1, 2] = np.nan
    outlook = generator.uniform(0.01, 0.99, (len(rows), len(HORIZONS), 5)).astype(np.float32)
    outlook[:40] = np.nan
    kept = labels != UNKNOWN
    kept[:40] = False
    kept[100:130, 1] = False
    return Case(dataset, rows, predictions, outlook, np.full((len(HORIZONS), 5), 0.25, np.float32), kept)


@pytest.fixture(scope="module")
def assessment(case: Case) -> Assessment:
    return case.assess()


def test_the_case_has_unknown_labels(case: Case) -> None:
    assert (case.dataset.labels[case.rows] == UNKNOWN).any(axis=0).all()


def test_all_predictors_are_scored_on_the_same_rows(case: Case, assessment: Assessment) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    assert [(metrics.horizon_ms, metrics.predictor) for metrics in assessment.horizon_metrics] == [
        (horizon, name) for horizon in HORIZONS for name in (MODEL, MAJORITY, GUESS)
    ]
    for metrics in assessment.horizon_metrics:
        h = HORIZONS.index(metrics.horizon_ms)
        kept = case.kept[:, h]
        y = case.dataset.labels[case.rows[kept], h]
        p = case.predictions[metrics.predictor][kept, h].astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        assert metrics.rows == kept.sum()
        assert metrics.accuracy == pytest.approx(reference.accuracy_score(y, p.argmax(axis=1)))
        assert metrics.log_loss.value == pytest.approx(reference.log_loss(y, p), abs=1e-6)
        assert metrics.macro_f1.value == pytest.approx(reference.f1_score(y, p.argmax(axis=1), average="macro"))
        assert metrics.mcc.value == pytest.approx(reference.matthews_corrcoef(y, p.argmax(axis=1)))
        for c, direction in enumerate(DIRECTIONS):
            expected = reference.average_precision_score(y == c, case.predictions[metrics.predictor][kept, h, c])
            assert metrics.pr_auc[direction] == pytest.approx(expected)
        if metrics.predictor != MAJORITY:
            for interval in (metrics.log_loss, metrics.macro_f1, metrics.mcc):
                assert interval.low < interval.value < interval.high


def test_comparisons_are_differences_on_the_same_draws(assessment: Assessment) -> None:
    loss = {(metrics.horizon_ms, metrics.predictor): metrics.log_loss for metrics in assessment.horizon_metrics}
    assert [(comparison.horizon_ms, comparison.against) for comparison in assessment.comparisons] == [
        (horizon, name) for horizon in HORIZONS for name in (MAJORITY, GUESS)
    ]
    for comparison in assessment.comparisons:
        own, baseline = loss[comparison.horizon_ms, MODEL], loss[comparison.horizon_ms, comparison.against]
        assert comparison.difference.value == pytest.approx(own.value - baseline.value)
        assert comparison.difference.low < comparison.difference.value < comparison.difference.high < 0


def test_a_predictor_does_not_differ_from_itself(case: Case) -> None:
    twice = {MODEL: case.predictions[GUESS], "same": case.predictions[GUESS]}
    for comparison in case.assess(predictions=twice).comparisons:
        assert (comparison.difference.value, comparison.difference.low, comparison.difference.high) == (0.0, 0.0, 0.0)


def test_blocks_are_longer_than_the_losses_memory(case: Case, assessment: Assessment) -> None:
    for dependence in assessment.dependence:
        assert dependence.block_s > max(dependence.correlation_s, dependence.horizon_ms / 1000)
        assert dependence.block_s >= 1.0
        assert 10 < dependence.blocks < 200
    longer = case.assess(minimum_block_s=10.0).dependence
    assert [dependence.block_s for dependence in longer] == [10.0, 10.0]
    assert longer[0].blocks < assessment.dependence[0].blocks


def test_calibration(case: Case, assessment: Assessment) -> None:
    for h, horizon in enumerate(HORIZONS):
        kept = case.kept[:, h]
        rows = case.rows[kept]
        part = [calibration for calibration in assessment.calibration if calibration.horizon_ms == horizon]
        assert [calibration.predictor for calibration in part] == list(case.predictions)
        floors = calibration_floor(
            [p[kept, h] for p in case.predictions.values()], case.dataset.rows.time[rows], horizon * MS
        )
        for calibration, floor in zip(part, floors, strict=True):
            p, y = case.predictions[calibration.predictor][kept, h], case.dataset.labels[rows, h]
            assert calibration.ece == pytest.approx(expected_calibration_error(p, y))
            assert (calibration.floor, calibration.floor_95) == (floor.median, floor.high)
            assert sum(point.rows for point in calibration.points) == kept.sum()


def test_rows_of_a_confidence_by_brute_force(case: Case, assessment: Assessment) -> None:
    assert len(assessment.confidence) == len(HORIZONS) * len(DIRECTIONS) * len(CONFIDENCES)
    memory = {dependence.horizon_ms: dependence.correlation_s for dependence in assessment.dependence}
    for point in assessment.confidence:
        h, c = HORIZONS.index(point.horizon_ms), DIRECTIONS.index(point.direction)
        y = case.dataset.labels[case.rows, h]
        p = case.predictions[MODEL][:, h, c]
        chosen = case.kept[:, h] & (p >= np.float32(point.confidence))
        hits = (chosen & (y == c)).sum()
        assert point.rows == chosen.sum()
        assert point.precision == pytest.approx(hits / max(point.rows, 1))
        assert point.recall == pytest.approx(hits / (case.kept[:, h] & (y == c)).sum())
        assert point.mean_confidence == pytest.approx(p[chosen].mean() if point.rows else 0.0)
        long_ns = max(point.horizon_ms * MS, memory[point.horizon_ms] * 1e9)
        windows, until, part = 0, -math.inf, -1
        for row in case.rows[chosen]:
            now, segment = case.dataset.rows.time[row], case.dataset.rows.segment[row]
            if segment != part or now >= until:
                windows, until, part = windows + 1, now + int(long_ns), segment
        assert point.blocks == windows <= point.rows
    assert any(point.blocks < point.rows / 3 for point in assessment.confidence if point.rows)


def test_confusion_is_of_the_model(case: Case, assessment: Assessment) -> None:
    for h, matrix in enumerate(assessment.confusion):
        expected = np.zeros((3, 3), int)
        for row in np.flatnonzero(case.kept[:, h]):
            expected[case.dataset.labels[case.rows[row], h], case.predictions[MODEL][row, h].argmax()] += 1
        assert matrix.counts == expected.tolist()


def test_effects_are_of_the_model(case: Case, assessment: Assessment) -> None:
    rows = case.dataset.rows
    expected = [
        effect(
            case.predictions[MODEL][case.kept[:, h], h],
            case.rows[case.kept[:, h]],
            rows.time,
            rows.segment,
            rows.mid,
            rows.raw[:, NAMES.index("spread")],
            horizon_ms=horizon,
            confidence=confidence,
            fee_bps=0.5,
        )
        for h, horizon in enumerate(HORIZONS)
        for confidence in CONFIDENCES
    ]
    assert assessment.effects == expected
    assert expected[0].trades > 100
    assert expected[0].gross_bps > 0


def test_class_shares_are_of_the_scored_rows(case: Case, assessment: Assessment) -> None:
    for h, horizon in enumerate(HORIZONS):
        y = case.dataset.labels[case.rows[case.kept[:, h]], h]
        assert assessment.class_shares[str(horizon)] == pytest.approx([(y == c).mean() for c in range(3)])


def test_heads(case: Case, assessment: Assessment) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    assert [(head.horizon_ms, head.output) for head in assessment.heads] == [
        (horizon, output) for horizon in HORIZONS for output in OUTPUTS
    ]
    truth = case.dataset.targets
    for head in assessment.heads:
        h, index = HORIZONS.index(head.horizon_ms), OUTPUTS.index(head.output)
        columns = [truth.significant[:, h], truth.withdrawal[:, h, 0], truth.withdrawal[:, h, 1]]
        true = [*columns, truth.move[:, h], truth.volatility[:, h]][index][case.rows].astype(np.float64)
        known = (case.dataset.labels[case.rows, h] != UNKNOWN) & (np.arange(len(case.rows)) >= 40)
        true, p = true[known], case.outlook[known, h, index].astype(np.float64)
        assert head.rows == known.sum()
        assert head.mean == pytest.approx(true.mean())
        if index < 3:
            assert 0 < head.mean < 1
            assert head.loss == pytest.approx(reference.log_loss(true, p))
            assert head.reference == pytest.approx(reference.log_loss(true, np.full(len(true), 0.25)))
            assert head.pr_auc == pytest.approx(reference.average_precision_score(true, p))
        else:
            assert head.loss == pytest.approx(((true - p) ** 2).mean())
            assert head.reference == pytest.approx(((true - 0.25) ** 2).mean())
            assert head.pr_auc is None


def test_a_model_without_other_outputs_has_no_heads(case: Case, assessment: Assessment) -> None:
    bare = case.assess(outlook=None)
    assert bare.heads == []
    assert bare._replace(heads=assessment.heads) == assessment


def test_other_rows_do_not_matter(case: Case, assessment: Assessment) -> None:
    """Labels of rows that are not held out do not count."""
    labels = case.dataset.labels.copy()
    others = np.setdiff1d(np.arange(len(labels)), case.rows)
    labels[others] = 2 - labels[others]
    assert case.assess(dataset=dataclasses.replace(case.dataset, labels=labels)) == assessment


def test_it_fills_an_evaluation_that_can_be_written(case: Case) -> None:
    result = Evaluation(
        instrument=INSTRUMENT,
        network="network",
        protocol="protocol",
        data_fingerprint="0" * 64,
        seeds=[1],
        rows={"test": len(case.rows)},
        test_start_ns=int(case.dataset.rows.time[case.rows[0]]),
        attention=[],
        verdicts=(),
        **case.assess(confidences=(0.5, 0.999999))._asdict(),
    )
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result
    assert all(math.isfinite(value) for value in result.metrics().values())
    assert [effect.trades for effect in result.effects if effect.confidence > 0.9] == [0, 0]


def test_a_horizon_without_any_row_is_refused(case: Case) -> None:
    empty = {**case.predictions, GUESS: np.full_like(case.predictions[GUESS], np.nan)}
    with pytest.raises(DataError, match="at 50 ms"):
        case.assess(predictions=empty)
