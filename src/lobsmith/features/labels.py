"""Labels: the market within a horizon of local receive time.

A horizon past its segment's last row is unknown: no label crosses a gap or the session's end.
"""

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from lobsmith.features.definitions import LEVELS
from lobsmith.params import LabelParams
from lobsmith.units import NS_PER_MS

UNKNOWN = -1
DOWN, UNCHANGED, UP = 0, 1, 2
_BASIS_POINTS = 1e4


def direction_labels(
    time: npt.NDArray[np.int64],
    mid: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    horizons_ms: tuple[int, ...],
) -> npt.NDArray[np.int8]:
    """Label rows with the mid's direction at each horizon, by the last row received by then.

    Args:
        time: int64 [N], local receive time, ns, never decreasing within a segment.
        mid: int64 [N], in any unit.
        segment: int64 [N], constant over gap-free rows.
        horizons_ms: the H horizons, milliseconds.

    Returns:
        int8 [N, H]: 0 down, 1 unchanged, 2 up, -1 unknown.
    """
    labels = np.full((len(time), len(horizons_ms)), UNKNOWN, np.int8)
    last = np.empty(len(time), np.int64)
    for index, horizon in enumerate(horizons_ms):
        _horizon_rows(time, segment, horizon * NS_PER_MS, last)
        known = last >= 0
        labels[known, index] = UNCHANGED + np.sign(mid[last[known]] - mid[known])
    return labels


@dataclass(frozen=True)
class Targets:
    """The auxiliary heads' labels; -1 and NaN where unknown.

    | column        | type              | meaning |
    |---------------|-------------------|---------|
    | `significant` | int8 [N, H]       | 1 if the mid is `significant_bps` or more away at the horizon |
    | `withdrawal`  | int8 [N, H, 2]    | 1 if the visible depth of bids, asks falls by `withdrawal` within it |
    | `move`        | float32 [N, H]    | the mid's change at the horizon, basis points |
    | `volatility`  | float32 [N, H]    | root of the mid's summed squared changes within it, basis points |

    Visible depth: the ten best levels' sizes; cancellations, trades and moves reduce it.
    """

    significant: npt.NDArray[np.int8]
    withdrawal: npt.NDArray[np.int8]
    move: npt.NDArray[np.float32]
    volatility: npt.NDArray[np.float32]

    @property
    def flags(self) -> npt.NDArray[np.int8]:
        """int8 [N, H, 3]: significant move, bids withdrawn, asks withdrawn."""
        return np.concatenate([self.significant[:, :, None], self.withdrawal], axis=2)

    def slice(self, start: int, stop: int) -> "Targets":
        """Return rows `start` to `stop` as views."""
        return Targets(
            self.significant[start:stop],
            self.withdrawal[start:stop],
            self.move[start:stop],
            self.volatility[start:stop],
        )


@numba.njit(cache=True)
def _horizon_rows(
    time: npt.NDArray[np.int64], segment: npt.NDArray[np.int64], horizon: int, out: npt.NDArray[np.int64]
) -> None:
    """Write the last row within each row's horizon; -1 past the segment's end."""
    ahead = 0
    end = 0
    count = time.shape[0]
    for row in range(count):
        if end <= row:
            end = row + 1
            while end < count and segment[end] == segment[row]:
                end += 1
        ahead = max(ahead, row)
        target = time[row] + horizon
        if target > time[end - 1]:
            out[row] = -1
            continue
        while ahead + 1 < end and time[ahead + 1] <= target:
            ahead += 1
        out[row] = ahead


@numba.njit(cache=True)
def _lowest_within(values: npt.NDArray[np.float64], last: npt.NDArray[np.int64], out: npt.NDArray[np.float64]) -> None:
    """Write the smallest value from each row to its last one (monotonic queue)."""
    count = values.shape[0]
    queue = np.empty(count, np.int64)
    head = 0
    tail = 0
    entered = 0
    for row in range(count):
        if last[row] < 0:
            out[row] = np.nan
            continue
        entered = max(entered, row)
        while head < tail and queue[head] < row:
            head += 1
        while entered <= last[row]:
            while head < tail and values[queue[tail - 1]] >= values[entered]:
                tail -= 1
            queue[tail] = entered
            tail += 1
            entered += 1
        out[row] = values[queue[head]]


def targets(
    time: npt.NDArray[np.int64],
    mid: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    raw: npt.NDArray[np.float32],
    params: LabelParams,
) -> Targets:
    """Compute the auxiliary heads' labels.

    Args:
        time: int64 [N], local receive time, ns.
        mid: int64 [N], twice the mid, ticks.
        segment: int64 [N].
        raw: float32 [N, F].
        params: horizons and thresholds.
    """
    rows, horizons = len(time), len(params.horizons_ms)
    move = np.full((rows, horizons), np.nan, np.float32)
    volatility = np.full((rows, horizons), np.nan, np.float32)
    significant = np.full((rows, horizons), UNKNOWN, np.int8)
    withdrawal = np.full((rows, horizons, 2), UNKNOWN, np.int8)
    level = np.log(mid)
    returns = np.diff(level, prepend=level[:1])
    returns[np.diff(segment, prepend=segment[:1]) != 0] = 0.0
    squares = np.cumsum(returns * returns)
    depth = [np.expm1(raw[:, 2 * side + 1 : 4 * LEVELS : 4].astype(np.float64)).sum(axis=1) for side in range(2)]
    last = np.empty(rows, np.int64)
    lowest = np.empty(rows)
    for h, horizon in enumerate(params.horizons_ms):
        _horizon_rows(time, segment, horizon * NS_PER_MS, last)
        known = last >= 0
        end = last[known]
        change = _BASIS_POINTS * (level[end] - level[known])
        move[known, h] = change
        significant[known, h] = np.abs(change) >= params.significant_bps
        volatility[known, h] = _BASIS_POINTS * np.sqrt(np.maximum(squares[end] - squares[known], 0.0))
        for side in range(2):
            _lowest_within(depth[side], last, lowest)
            withdrawal[known, h, side] = lowest[known] <= (1 - params.withdrawal) * depth[side][known]
    return Targets(significant, withdrawal, move, volatility)
