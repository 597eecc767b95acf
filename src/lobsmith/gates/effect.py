"""What acting on a prediction would earn after fees and spread.

A row with enough confidence buys or sells at the touch, at once and without moving the market, and the position is
closed at the touch when the horizon ends: a trade pays half the spread twice and the fee twice.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.features.labels import DOWN, UP
from lobsmith.gates.dependence import apart, bootstrap_intervals
from lobsmith.gates.evaluation import Effect, Interval

_BASIS_POINTS = 1e4
_NS_PER_MS = 1_000_000


def horizon_rows(
    time_ns: npt.NDArray[np.int64], segment: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], horizon_ns: int
) -> npt.NDArray[np.int64]:
    """Return the last row received within the horizon of each of `rows`, int64 [N]; -1 where its segment ends before.

    Args:
        time_ns: int64 [M], of all consecutive rows, never decreasing within a segment.
        segment: int64 [M].
        rows: int64 [N], rising indices into them.
        horizon_ns: the horizon.
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

    A row buys where P(up) is at least `confidence` and the larger, and sells likewise. It is skipped while the trade
    before it is open, and where its segment ends before the horizon does.

    Args:
        probabilities: float [N, 3] at `rows`; a row of NaN does not trade.
        rows: int64 [N], rising indices into the following arrays.
        time_ns: int64 [M], of all consecutive rows.
        segment: int64 [M].
        mid: int64 [M], twice the mid, ticks.
        spread_bps: float [M], whole spread, basis points.
        horizon_ms: how long a position is held.
        confidence: least probability.
        fee_bps: fee of one side of a trade.
        seed: of the bootstrap over trades.

    Returns:
        Means over the trades: `gross_bps` is the move of the mid in the direction of the trade, `spread_bps` half the
        spread at its beginning plus half at its end, `fees_bps` twice the fee. Without a trade all are 0.
    """
    horizon_ns = horizon_ms * _NS_PER_MS
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
