"""The level that a score passes so many times a day, from fewer hours than that."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_TAIL = 0.2
"""Share of the maxima that the tail is fitted to."""
_PRIOR = 0.15
"""Tail index where there is nothing to fit: of block distances in simulated hours, rounded up."""
_PRIOR_COUNT = 2
"""Maxima that the prior counts for."""

_SMALLEST = 0.1
"""Smallest distance that counts: where nothing ever changes, not every change is an alarm."""


def alarm_level(maxima: Float64, probability: float) -> float:
    """Return what a block's maximum passes with a small probability, extrapolated beyond the sample.

    The tail is taken for one of Pareto, `(x / u) ** (-1 / index)` above u: Weissman's quantile (1978) with Hill's index
    (1975), steadied by a prior. It is heavier than that of the normal distribution, so that the level is rather too
    high than too low. Blocks count as independent: where alarms come in clusters, there are fewer of these than of
    blocks above the level, which errs on the same side.

    Args:
        maxima: [N], N >= 1, of consecutive blocks.
        probability: of passing the level, for one block.
    """
    rising = np.maximum(np.sort(maxima), _SMALLEST)
    count = max(1, round(_TAIL * len(rising)))
    threshold = rising[max(len(rising) - count - 1, 0)]
    excess = float(np.log(rising[-count:] / threshold).sum())
    index = (excess + _PRIOR_COUNT * _PRIOR) / (count + _PRIOR_COUNT)
    level = threshold * max(1.0, count / len(rising) / probability) ** index
    return float(max(level, rising[-1]))
