"""Labels: the direction of the mid after a horizon of local receive time."""

import numba
import numpy as np
import numpy.typing as npt

UNKNOWN = -1
DOWN, UNCHANGED, UP = 0, 1, 2

_NS_PER_MS = 1_000_000


@numba.njit(cache=True)
def _direction(
    time: npt.NDArray[np.int64],
    mid: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    horizon: int,
    out: npt.NDArray[np.int8],
) -> None:
    ahead = 0
    end = 0
    count = time.shape[0]
    for row in range(count):
        if end <= row:
            end = row + 1
            while end < count and segment[end] == segment[row]:
                end += 1
        target = time[row] + horizon
        if target > time[end - 1]:
            out[row] = UNKNOWN
            continue
        ahead = max(ahead, row)
        while ahead + 1 < end and time[ahead + 1] <= target:
            ahead += 1
        difference = mid[ahead] - mid[row]
        out[row] = UP if difference > 0 else DOWN if difference < 0 else UNCHANGED


def direction_labels(
    time: npt.NDArray[np.int64],
    mid: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    horizons_ms: tuple[int, ...],
) -> npt.NDArray[np.int8]:
    """Label each row with the direction of the mid after each horizon.

    The mid at a horizon is that of the last row received by then. A horizon that ends after its segment's last row is
    unknown: no label looks across a gap or the end of a session.

    Args:
        time: int64 [N], local receive time of each row, ns, never decreasing within a segment.
        mid: int64 [N], in any unit.
        segment: int64 [N], constant over each gap-free run of rows.
        horizons_ms: the H horizons, milliseconds.

    Returns:
        int8 [N, H]: 0 down, 1 unchanged, 2 up, -1 unknown.
    """
    labels = np.empty((len(time), len(horizons_ms)), np.int8)
    for index, horizon in enumerate(horizons_ms):
        column = np.empty(len(time), np.int8)
        _direction(time, mid, segment, horizon * _NS_PER_MS, column)
        labels[:, index] = column
    return labels
