import dataclasses
import math

import msgspec
import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.evaluation.assess import CONFIDENCES, Assessment, assess, effect
from lobsmith.evaluation.calibration import calibration_floor
from lobsmith.evaluation.metrics import OUTPUTS, expected_calibration_error
from lobsmith.evaluation.results import DIRECTIONS, MAJORITY, MODEL, Evaluation
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT, NAMES
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


def said(labels: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """Probabilities float32 [N, H, 3] that know the labels more or less."""
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
    predictions = {MODEL: said(labels, 2.0, 2), MAJORITY: base, GUESS: said(labels, 0.0, 3)}
    predictions[MODEL][:40] = np.nan
    predictions[GUESS][100:130, 1, 2] = np.nan
    outlook = generator.uniform(0.01, 0.99, (len(rows), len(HORIZONS), 5)).astype(np.float32)
    outlook[:40] = np.nan
    kept = labels != UNKNOWN
    kept[:40] = False
    kept[100:130, 1] = False
    return Case(dataset, rows, predictions, outlook, np.full((len(HORIZONS), 5), 0.25, np.float32), kept)


@pytest.fixture(scope="module")
def found(case: Case) -> Assessment:
    return case.assess()


def test_the_case_has_unknown_labels(case: Case) -> None:
    assert (case.dataset.labels[case.rows] == UNKNOWN).any(axis=0).all()


def test_all_predictors_are_scored_on_the_same_rows(case: Case, found: Assessment) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    assert [(one.horizon_ms, one.predictor) for one in found.scores] == [
        (horizon, name) for horizon in HORIZONS for name in (MODEL, MAJORITY, GUESS)
    ]
    for one in found.scores:
        h = HORIZONS.index(one.horizon_ms)
        kept = case.kept[:, h]
        y = case.dataset.labels[case.rows[kept], h]
        p = case.predictions[one.predictor][kept, h].astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        assert one.rows == kept.sum()
        assert one.accuracy == pytest.approx(reference.accuracy_score(y, p.argmax(axis=1)))
        assert one.log_loss.value == pytest.approx(reference.log_loss(y, p), abs=1e-6)
        assert one.macro_f1.value == pytest.approx(reference.f1_score(y, p.argmax(axis=1), average="macro"))
        assert one.mcc.value == pytest.approx(reference.matthews_corrcoef(y, p.argmax(axis=1)))
        for c, direction in enumerate(DIRECTIONS):
            expected = reference.average_precision_score(y == c, case.predictions[one.predictor][kept, h, c])
            assert one.pr_auc[direction] == pytest.approx(expected)
        if one.predictor != MAJORITY:
            for interval in (one.log_loss, one.macro_f1, one.mcc):
                assert interval.low < interval.value < interval.high


def test_comparisons_are_differences_on_the_same_draws(found: Assessment) -> None:
    loss = {(one.horizon_ms, one.predictor): one.log_loss for one in found.scores}
    assert [(one.horizon_ms, one.against) for one in found.comparisons] == [
        (horizon, name) for horizon in HORIZONS for name in (MAJORITY, GUESS)
    ]
    for one in found.comparisons:
        mine, theirs = loss[one.horizon_ms, MODEL], loss[one.horizon_ms, one.against]
        assert one.difference.value == pytest.approx(mine.value - theirs.value)
        assert one.difference.low < one.difference.value < one.difference.high < 0


def test_a_predictor_does_not_differ_from_itself(case: Case) -> None:
    twice = {MODEL: case.predictions[GUESS], "same": case.predictions[GUESS]}
    for one in case.assess(predictions=twice).comparisons:
        assert (one.difference.value, one.difference.low, one.difference.high) == (0.0, 0.0, 0.0)


def test_blocks_are_longer_than_the_losses_memory(case: Case, found: Assessment) -> None:
    for one in found.dependence:
        assert one.block_s > max(one.correlation_s, one.horizon_ms / 1000)
        assert one.block_s >= 1.0
        assert 10 < one.blocks < 200
    longer = case.assess(minimum_block_s=10.0).dependence
    assert [one.block_s for one in longer] == [10.0, 10.0]
    assert longer[0].blocks < found.dependence[0].blocks


def test_calibration(case: Case, found: Assessment) -> None:
    for h, horizon in enumerate(HORIZONS):
        kept = case.kept[:, h]
        rows = case.rows[kept]
        part = [one for one in found.calibration if one.horizon_ms == horizon]
        assert [one.predictor for one in part] == list(case.predictions)
        floors = calibration_floor(
            [p[kept, h] for p in case.predictions.values()], case.dataset.rows.time[rows], horizon * MS
        )
        for one, floor in zip(part, floors, strict=True):
            p, y = case.predictions[one.predictor][kept, h], case.dataset.labels[rows, h]
            assert one.ece == pytest.approx(expected_calibration_error(p, y))
            assert (one.floor, one.floor_95) == (floor.median, floor.high)
            assert sum(point.rows for point in one.points) == kept.sum()


def test_rows_of_a_confidence_by_brute_force(case: Case, found: Assessment) -> None:
    assert len(found.confidence) == len(HORIZONS) * len(DIRECTIONS) * len(CONFIDENCES)
    memory = {one.horizon_ms: one.correlation_s for one in found.dependence}
    for one in found.confidence:
        h, c = HORIZONS.index(one.horizon_ms), DIRECTIONS.index(one.direction)
        y = case.dataset.labels[case.rows, h]
        p = case.predictions[MODEL][:, h, c]
        chosen = case.kept[:, h] & (p >= np.float32(one.confidence))
        hits = (chosen & (y == c)).sum()
        assert one.rows == chosen.sum()
        assert one.precision == pytest.approx(hits / max(one.rows, 1))
        assert one.recall == pytest.approx(hits / (case.kept[:, h] & (y == c)).sum())
        assert one.mean_confidence == pytest.approx(p[chosen].mean() if one.rows else 0.0)
        long_ns = max(one.horizon_ms * MS, memory[one.horizon_ms] * 1e9)
        windows, until, part = 0, -math.inf, -1
        for row in case.rows[chosen]:
            now, segment = case.dataset.rows.time[row], case.dataset.rows.segment[row]
            if segment != part or now >= until:
                windows, until, part = windows + 1, now + int(long_ns), segment
        assert one.blocks == windows <= one.rows
    assert any(one.blocks < one.rows / 3 for one in found.confidence if one.rows)


def test_confusion_is_of_the_model(case: Case, found: Assessment) -> None:
    for h, one in enumerate(found.confusion):
        expected = np.zeros((3, 3), int)
        for row in np.flatnonzero(case.kept[:, h]):
            expected[case.dataset.labels[case.rows[row], h], case.predictions[MODEL][row, h].argmax()] += 1
        assert one.counts == expected.tolist()


def test_effects_are_of_the_model(case: Case, found: Assessment) -> None:
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
    assert found.effects == expected
    assert expected[0].trades > 100
    assert expected[0].gross_bps > 0


def test_class_shares_are_of_the_scored_rows(case: Case, found: Assessment) -> None:
    for h, horizon in enumerate(HORIZONS):
        y = case.dataset.labels[case.rows[case.kept[:, h]], h]
        assert found.class_shares[str(horizon)] == pytest.approx([(y == c).mean() for c in range(3)])


def test_heads(case: Case, found: Assessment) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    assert [(one.horizon_ms, one.output) for one in found.heads] == [
        (horizon, output) for horizon in HORIZONS for output in OUTPUTS
    ]
    truth = case.dataset.targets
    for one in found.heads:
        h, index = HORIZONS.index(one.horizon_ms), OUTPUTS.index(one.output)
        columns = [truth.significant[:, h], truth.withdrawal[:, h, 0], truth.withdrawal[:, h, 1]]
        true = [*columns, truth.move[:, h], truth.volatility[:, h]][index][case.rows].astype(np.float64)
        known = (case.dataset.labels[case.rows, h] != UNKNOWN) & (np.arange(len(case.rows)) >= 40)
        true, p = true[known], case.outlook[known, h, index].astype(np.float64)
        assert one.rows == known.sum()
        assert one.mean == pytest.approx(true.mean())
        if index < 3:
            assert 0 < one.mean < 1
            assert one.loss == pytest.approx(reference.log_loss(true, p))
            assert one.reference == pytest.approx(reference.log_loss(true, np.full(len(true), 0.25)))
            assert one.pr_auc == pytest.approx(reference.average_precision_score(true, p))
        else:
            assert one.loss == pytest.approx(((true - p) ** 2).mean())
            assert one.reference == pytest.approx(((true - 0.25) ** 2).mean())
            assert one.pr_auc is None


def test_a_model_without_other_outputs_has_no_heads(case: Case, found: Assessment) -> None:
    bare = case.assess(outlook=None)
    assert bare.heads == []
    assert bare._replace(heads=found.heads) == found


def test_other_rows_do_not_matter(case: Case, found: Assessment) -> None:
    """Labels of rows that are not held out are not looked at."""
    labels = case.dataset.labels.copy()
    others = np.setdiff1d(np.arange(len(labels)), case.rows)
    labels[others] = 2 - labels[others]
    assert case.assess(dataset=dataclasses.replace(case.dataset, labels=labels)) == found


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
    assert [one.trades for one in result.effects if one.confidence > 0.9] == [0, 0]


def test_a_horizon_without_any_row_is_refused(case: Case) -> None:
    empty = {**case.predictions, GUESS: np.full_like(case.predictions[GUESS], np.nan)}
    with pytest.raises(DataError, match="at 50 ms"):
        case.assess(predictions=empty)
