"""The rolling z-score over the last W rows, O(1) a row, without accumulating error.

- Values are summed relative to a reference near their mean: squares do not cancel.
- During a lap around the ring a second pair of sums, with a newer reference, only adds. At the lap's end it covers the
  window exactly and replaces the first pair: rounding lasts one lap.
"""

import numba
import numpy as np
import numpy.typing as npt

CLIP = 8.0
"""Largest absolute z-score; after a constant window it would be sqrt(W)."""
_FLAT = 1e-10
"""A column is constant if its variance is below this share of its squared mean (as of a one-tick spread in bps)."""
_LANES = 8
_TINY = 1e-30
_ZERO = np.float32(0.0)
_CLIP = np.float32(CLIP)
_CANCELLED = 1e-13
"""A variance below this share of the squared distance of mean and reference is rounding."""


def normaliser_dtype(columns: int, rows: int) -> np.dtype[np.void]:
    """Return the state for `columns` features and `rows` rows; all zeros mean empty.

    Columns are padded to a multiple of `_LANES`, without loop remainders.
    """
    width = -(-columns // _LANES) * _LANES
    return np.dtype(
        [
            ("ring", np.float32, (rows, width)),
            ("reference", np.float64, (width,)),
            ("sum", np.float64, (width,)),
            ("square", np.float64, (width,)),
            ("lap_reference", np.float64, (width,)),
            ("lap_sum", np.float64, (width,)),
            ("lap_square", np.float64, (width,)),
            ("row", np.float32, (width,)),
            ("scores", np.float32, (width,)),
            ("count", np.int64),
            ("position", np.int64),
        ],
        align=True,
    )


@numba.njit(cache=True, error_model="numpy")
def reset(state: npt.NDArray[np.void]) -> None:
    """Empty the window."""
    s = state[0]
    s.count = 0
    s.position = 0


@numba.njit(cache=True, error_model="numpy")
def normalise(state: npt.NDArray[np.void], values: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> int:
    """Add one row to the window and write its z-scores.

    Args:
        state: the normaliser, [1].
        values: float32 [C], raw, finite.
        out: float32 [C], written: clipped to ±8; 0 for constant columns.

    Returns:
        Rows in the window, this one included.
    """
    s = state[0]
    rows = s.ring.shape[0]
    columns = s.ring.shape[1]
    position = s.position
    for c in range(values.shape[0]):
        s.row[c] = values[c]
    if s.count == 0:
        for c in range(columns):
            s.reference[c] = s.row[c]
            s.sum[c] = 0.0
            s.square[c] = 0.0
    if position == 0:
        for c in range(columns):
            mean = s.reference[c] + (s.sum[c] / s.count if s.count > 0 else 0.0)
            s.lap_reference[c] = mean
            s.lap_sum[c] = 0.0
            s.lap_square[c] = 0.0
    # Short loops without branches: vectorised.
    if s.count == rows:
        for c in range(columns):
            left = np.float64(s.ring[position, c]) - s.reference[c]
            s.sum[c] -= left
            s.square[c] -= left * left
    else:
        s.count += 1
    for c in range(columns):
        value = np.float64(s.row[c])
        difference = value - s.reference[c]
        s.sum[c] += difference
        s.square[c] += difference * difference
        lap = value - s.lap_reference[c]
        s.lap_sum[c] += lap
        s.lap_square[c] += lap * lap
    for c in range(columns):
        s.ring[position, c] = s.row[c]
    s.position = position + 1
    if s.position == rows:
        s.position = 0
        for c in range(columns):
            s.reference[c] = s.lap_reference[c]
            s.sum[c] = s.lap_sum[c]
            s.square[c] = s.lap_square[c]
    share = 1.0 / np.float64(s.count)
    for c in range(columns):
        mean = s.sum[c] * share
        variance = s.square[c] * share - mean * mean
        centre = s.reference[c] + mean
        still = max(_FLAT * centre * centre, _CANCELLED * mean * mean)
        # float32 root and quotient take a third of the time; the difference is float64.
        z = np.float32(np.float64(s.row[c]) - centre) / np.sqrt(np.float32(max(variance, _TINY)))
        z = min(max(z, -_CLIP), _CLIP)
        s.scores[c] = z if variance > still else _ZERO
    for c in range(values.shape[0]):
        out[c] = s.scores[c]
    return int(s.count)
