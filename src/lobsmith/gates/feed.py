"""Feed gate: would a retrain train on a broken feed, with features that stand still or are out of bounds?

A changed market stays within the bounds of features; a wrong lot size, book side or parser does not.
"""

import numpy as np

from lobsmith.drift.reference import RawRows, fit_scaling
from lobsmith.features.definitions import NAMES
from lobsmith.verdict import Verdict

_EXTREMES = (0.001, 0.999)


def feed_verdict(known: RawRows, new: RawRows, *, limit: float) -> Verdict:
    """Compare the newest rows of a training window with the rows that the active version was trained on.

    A feature is out of bounds where its median lies beyond the 0.1st or 99.9th percentile of the known rows by more
    than its scale (at least a twentieth of the level: a tick, in basis points, varies with the price), or where it
    stands still and did not.

    Args:
        known: of a valid feed, at least one row.
        new: of the feed in question, at least one row.
        limit: share of the features that may be out of bounds.
    """
    low, high = np.quantile(known.raw, _EXTREMES, axis=0)
    median = np.median(new.raw, axis=0)
    frozen = (np.ptp(new.raw, axis=0) == 0) & (np.ptp(known.raw, axis=0) > 0)
    scale = fit_scaling(known.raw).scale
    beyond = (median < low - scale) | (median > high + scale)
    names = np.asarray(NAMES)
    share = float((frozen | beyond).mean())
    return Verdict(
        gate="feed",
        passed=share <= limit,
        value=share,
        threshold=limit,
        evidence={
            "beyond": names[beyond & ~frozen].tolist(),
            "frozen": names[frozen].tolist(),
            "known_rows": len(known),
            "new_rows": len(new),
        },
    )
