"""How many rows a cold stream needs before its answers can be trusted."""

import numpy as np

from lobsmith.compress.runtime import Float, OnnxModel

TOLERANCE = 1e-3
"""Largest difference in any probability between a primed stream and one that never stopped."""
MAXIMUM = 1024
_STARTS = 8


def measure_prime_rows(model: OnnxModel, rows: Float, *, starts: int = _STARTS, maximum: int = MAXIMUM) -> int:
    """Measure after how many rows a cold start agrees with a stream that has run from the beginning.

    Cold starts are spread evenly over the rows; the figure is that of the slowest, and counts the last row that still
    differs by more than the tolerance within `maximum` rows.

    Args:
        model: the exported model.
        rows: float32 [N, F], consecutive rows of a held-out stream.
        starts: how many cold starts.
        maximum: rows looked at after each; also the answer's upper bound.

    Returns:
        Rows to feed before the first answer; at least 1.
    """
    reference, _, _ = model.predict(rows)
    length = min(maximum, len(rows) // 2)
    worst = 1
    for start in np.linspace(len(rows) // 4, len(rows) - length, starts).astype(int):
        cold, _, _ = model.predict(rows[start : start + length])
        differs = np.abs(cold - reference[start : start + length]).max(axis=(1, 2)) > TOLERANCE
        if differs.any():
            worst = max(worst, int(np.flatnonzero(differs)[-1]) + 1)
    return worst
