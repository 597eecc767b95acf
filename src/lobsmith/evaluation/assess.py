"""All figures of an evaluation from predictions on held-out rows, net profit after fees and spread included."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.errors import DataError
from lobsmith.evaluation.bootstrap import apart, block_length, block_sums, blocks, bootstrap_intervals, correlation_time
from lobsmith.evaluation.calibration import calibration_floor
from lobsmith.evaluation.metrics import (
    average_precision,
    confusion,
    expected_calibration_error,
    log_losses,
    macro_f1,
    mcc,
    measure_heads,
    reliability,
)
from lobsmith.evaluation.results import (
    MODEL,
    AtConfidence,
    Calibration,
    Comparison,
    Confusion,
    Dependence,
    Effect,
    Head,
    HorizonMetrics,
    Interval,
)
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import DIRECTIONS, NAMES
from lobsmith.features.labels import DOWN, UNKNOWN, UP
from lobsmith.units import NS_PER_MS, NS_PER_S

CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_MINIMUM_BLOCK_S = 1.0
_SPREAD = NAMES.index("spread")
_CLASSES = len(DIRECTIONS)
Probabilities = dict[str, npt.NDArray[np.floating[Any]]]
_BASIS_POINTS = 1e4


class Assessment(NamedTuple):
    """The fields of an `Evaluation` that follow from predictions, under the same names.

    Class shares are of the evaluated rows, keyed by the horizon in milliseconds.
    """

    class_shares: dict[str, list[float]]
    dependence: list[Dependence]
    horizon_metrics: list[HorizonMetrics]
    comparisons: list[Comparison]
    calibration: list[Calibration]
    confidence: list[AtConfidence]
    confusion: list[Confusion]
    effects: list[Effect]
    heads: list[Head]


def assess(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    predictions: Mapping[str, npt.NDArray[np.float32]],
    outlook: npt.NDArray[np.float32] | None,
    reference: npt.NDArray[np.float32],
    fees_bps: float,
    confidences: Sequence[float] = CONFIDENCES,
    *,
    minimum_block_s: float = _MINIMUM_BLOCK_S,
    seed: int = 0,
) -> Assessment:
    """Measure predictions on held-out rows; at each horizon on rows with a known label and finite probabilities of all
    predictors.

    Args:
        dataset: all rows with their labels.
        rows: int64 [N], rising: the held-out rows.
        predictions: name to probabilities, float32 [N, H, 3]; `MODEL` is one of them.
        outlook: auxiliary outputs (`metrics.OUTPUTS`), float32 [N, H, 5], moves and volatility in basis points, NaN
            where missing; None without such heads.
        reference: float32 [H, 5], means of the same over the training rows.
        fees_bps: fee of one side of a trade, basis points.
        confidences: least probabilities to report on and to trade at.
        minimum_block_s: least length of the bootstrap's blocks.
        seed: of the bootstraps and of the calibration floor.

    Raises:
        DataError: no row can be measured at some horizon.
    """
    result = Assessment({}, [], [], [], [], [], [], [], [])
    for h, horizon_ms in enumerate(dataset.horizons_ms):
        kept = dataset.labels[rows, h] != UNKNOWN
        for p in predictions.values():
            kept &= np.isfinite(p[:, h]).all(axis=1)
        if not kept.any():
            raise DataError(
                f"{dataset.instrument}: no held-out row has a known label and finite probabilities at {horizon_ms} ms; "
                "give more data"
            )
        probabilities: Probabilities = {name: p[kept, h] for name, p in predictions.items()}
        measured = _HorizonRows(dataset, rows[kept], h, horizon_ms, probabilities, seed)
        measured.add_direction(result, minimum_block_s)
        measured.add_confidences(result, confidences, fees_bps)
        if outlook is not None:
            result.heads.extend(measure_heads(dataset, rows, h, outlook[:, h], reference[h]))
    return result


class _HorizonRows:
    """The evaluated rows of one horizon."""

    def __init__(
        self,
        dataset: Dataset,
        rows: npt.NDArray[np.int64],
        h: int,
        horizon_ms: int,
        probabilities: Probabilities,
        seed: int,
    ) -> None:
        self.rows, self.probabilities, self.horizon_ms, self.seed = rows, probabilities, horizon_ms, seed
        self.market = dataset.rows
        self.y = dataset.labels[rows, h]
        self.time, self.segment = dataset.rows.time[rows], dataset.rows.segment[rows]
        self.losses = {name: log_losses(p, self.y) for name, p in probabilities.items()}
        self.horizon_ns = horizon_ms * NS_PER_MS
        self.correlation_s = correlation_time(self.losses[MODEL], self.time, self.segment, horizon_ns=self.horizon_ns)

    def add_direction(self, result: Assessment, minimum_block_s: float) -> None:
        """Add the metrics of each predictor and the model's confusion."""
        length = block_length(self.correlation_s, self.horizon_ns, minimum_block_s)
        block = blocks(self.time, self.segment, length)
        shares = np.bincount(self.y, minlength=_CLASSES) / len(self.y)
        result.class_shares[str(self.horizon_ms)] = shares.tolist()
        result.dependence.append(
            Dependence(
                horizon_ms=self.horizon_ms,
                correlation_s=self.correlation_s,
                block_s=length,
                blocks=int(block[-1]) + 1,
            )
        )
        self._add_metrics(result, block)
        floors = calibration_floor(list(self.probabilities.values()), self.time, self.horizon_ns, seed=self.seed)
        result.calibration.extend(
            Calibration(
                predictor=name,
                horizon_ms=self.horizon_ms,
                ece=expected_calibration_error(p, self.y),
                floor=floor.median,
                floor_95=floor.high,
                points=reliability(p, self.y),
            )
            for (name, p), floor in zip(self.probabilities.items(), floors, strict=True)
        )
        result.confusion.append(
            Confusion(horizon_ms=self.horizon_ms, counts=confusion(self.probabilities[MODEL], self.y).tolist())
        )

    def _add_metrics(self, result: Assessment, block: npt.NDArray[np.int64]) -> None:
        """Add metrics and comparisons; one bootstrap serves all, so that they share its draws."""
        names = list(self.probabilities)
        cells = _CLASSES * _CLASSES
        columns = [np.ones(len(self.y)), *self.losses.values()]
        for p in self.probabilities.values():
            cell = self.y.astype(np.int64) * _CLASSES + p.argmax(axis=1)
            columns.extend((cell == index).astype(np.float64) for index in range(cells))
        model = names.index(MODEL)

        def statistic(drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            loss = drawn[:, 1 : 1 + len(names)] / drawn[:, :1]
            tables = drawn[:, 1 + len(names) :].reshape(len(drawn), len(names), _CLASSES, _CLASSES)
            return np.concatenate([loss, macro_f1(tables), mcc(tables), loss[:, model : model + 1] - loss], axis=1)

        sums = block_sums(np.stack(columns, axis=1), block)
        intervals = iter(bootstrap_intervals(sums, statistic, seed=self.seed))
        loss, f1, correlation, less = ({name: next(intervals) for name in names} for _ in range(4))
        for name, p in self.probabilities.items():
            result.horizon_metrics.append(
                HorizonMetrics(
                    predictor=name,
                    horizon_ms=self.horizon_ms,
                    rows=len(self.y),
                    accuracy=float((p.argmax(axis=1) == self.y).mean()),
                    log_loss=loss[name],
                    macro_f1=f1[name],
                    mcc=correlation[name],
                    pr_auc={
                        direction: average_precision(p[:, c], self.y == c) for c, direction in enumerate(DIRECTIONS)
                    },
                )
            )
            if name != MODEL:
                result.comparisons.append(Comparison(against=name, horizon_ms=self.horizon_ms, difference=less[name]))

    def add_confidences(self, result: Assessment, confidences: Sequence[float], fee_bps: float) -> None:
        """Add precision and recall of the model's confident rows, by direction, and what trading on them would earn."""
        p = self.probabilities[MODEL]
        length = int(max(self.horizon_ns, self.correlation_s * NS_PER_S))
        for c, direction in enumerate(DIRECTIONS):
            hit = self.y == c
            for confidence in confidences:
                chosen = p[:, c] >= confidence
                rows, right = int(chosen.sum()), int((chosen & hit).sum())
                result.confidence.append(
                    AtConfidence(
                        horizon_ms=self.horizon_ms,
                        direction=direction,
                        confidence=confidence,
                        rows=rows,
                        blocks=len(apart(self.time[chosen], self.segment[chosen], length)),
                        precision=right / max(rows, 1),
                        mean_confidence=float(p[chosen, c].astype(np.float64).sum()) / max(rows, 1),
                        recall=right / max(int(hit.sum()), 1),
                    )
                )
        result.effects.extend(
            effect(
                p,
                self.rows,
                self.market.time,
                self.market.segment,
                self.market.mid,
                self.market.raw[:, _SPREAD],
                horizon_ms=self.horizon_ms,
                confidence=confidence,
                fee_bps=fee_bps,
                seed=self.seed,
            )
            for confidence in confidences
        )


def horizon_rows(
    time_ns: npt.NDArray[np.int64], segment: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], horizon_ns: int
) -> npt.NDArray[np.int64]:
    """Return the last row received within the horizon of each of `rows`, int64 [N]; -1 where its segment ends before.

    `time_ns` and `segment`, int64 [M], are of all consecutive rows; `rows`, int64 [N], are rising indices into them.
    """
    edges = np.concatenate([[0], np.flatnonzero(np.diff(segment)) + 1, [len(segment)]])
    result = np.full(len(rows), -1, np.int64)
    cuts = np.searchsorted(rows, edges)
    for k in np.flatnonzero(np.diff(cuts)):
        inside = slice(cuts[k], cuts[k + 1])
        times = time_ns[edges[k] : edges[k + 1]]
        target = time_ns[rows[inside]] + horizon_ns
        last = edges[k] + np.searchsorted(times, target, side="right") - 1
        result[inside] = np.where(target <= times[-1], last, -1)
    return result


def effect(
    probabilities: npt.NDArray[np.floating[Any]],
    rows: npt.NDArray[np.int64],
    time_ns: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    mid: npt.NDArray[np.int64],
    spread_bps: npt.NDArray[np.floating[Any]],
    *,
    horizon_ms: int,
    confidence: float,
    fee_bps: float,
    seed: int = 0,
) -> Effect:
    """Trade on every row with enough confidence, one position at a time.

    A row buys where P(up) is at least `confidence` and above P(down); sells likewise. It is skipped while a trade is
    open, and where its segment ends before the horizon.

    Args:
        probabilities: float [N, 3] at `rows`; NaN does not trade.
        rows: int64 [N], rising indices into the arrays of all rows.
        time_ns: int64 [M], ns.
        segment: int64 [M].
        mid: int64 [M], twice the mid, ticks.
        spread_bps: float [M], whole spread, basis points.
        horizon_ms: how long a position is held.
        confidence: least probability.
        fee_bps: fee of one side of a trade.
        seed: of the bootstrap over trades.

    Returns:
        Means over the trades, 0 without a trade: `gross_bps` the move of the mid in the trade's direction, `spread_bps`
        half the spread at either end, `fees_bps` twice the fee.
    """
    horizon_ns = horizon_ms * NS_PER_MS
    down, up = probabilities[:, DOWN], probabilities[:, UP]
    side = np.where((up >= confidence) & (up > down), 1, 0) - np.where((down >= confidence) & (down > up), 1, 0)
    end = horizon_rows(time_ns, segment, rows, horizon_ns)
    able = np.flatnonzero((side != 0) & (end >= 0))
    trades = able[apart(time_ns[rows[able]], segment[rows[able]], horizon_ns)]
    if not len(trades):
        nothing = Interval(0.0, 0.0, 0.0)
        return Effect(
            horizon_ms=horizon_ms,
            confidence=confidence,
            trades=0,
            gross_bps=0.0,
            spread_bps=0.0,
            fees_bps=0.0,
            net_bps=nothing,
        )
    begin, finish = rows[trades], end[trades]
    gross = _BASIS_POINTS * side[trades] * (mid[finish] - mid[begin]) / mid[begin]
    spread = (spread_bps[begin].astype(np.float64) + spread_bps[finish].astype(np.float64)) / 2
    net = gross - spread - 2 * fee_bps
    sums = np.stack([net, np.ones(len(net))], axis=1)
    (interval,) = bootstrap_intervals(sums, lambda drawn: drawn[:, :1] / drawn[:, 1:], seed=seed)
    return Effect(
        horizon_ms=horizon_ms,
        confidence=confidence,
        trades=len(trades),
        gross_bps=float(gross.mean()),
        spread_bps=float(spread.mean()),
        fees_bps=2 * fee_bps,
        net_bps=interval,
    )
