"""The constants that raw features are scaled by, frozen with the model.

After a rolling z-score a doubled scale and a shift of three deviations are gone; after these they are what they are.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_NORMAL_IQR = 1.349
"""Interquartile range of the standard normal distribution."""

_LEAST = 0.05
"""Smallest scale as a share of the centre: a spread of one tick, in basis points, moves with each move of the price."""


class Scaling(NamedTuple):
    """Centre and scale of each feature, float32 [F]; no scale is 0."""

    centre: Float32
    scale: Float32

    def apply(self, raw: Float32) -> Float32:
        """Return raw rows, float32 [..., F], in deviations from the centre."""
        scaled: Float32 = (raw - self.centre) / self.scale
        return scaled


def fit_scaling(raw: Float32) -> Scaling:
    """Take medians, and interquartile ranges or standard deviations, of rows, float32 [N, F], N >= 1, all finite.

    The larger of the two counts. A spread is one tick most of the time, and its middle half, as a share of the price,
    shows no more than how the price has wandered: in units of that, any other hour would be far away and two ticks
    thousands of units. For the same reason no scale is less than a twentieth of its centre. It is 1 where all rows
    are 0.
    """
    low, centre, high = np.quantile(raw, (0.25, 0.5, 0.75), axis=0)
    spread, deviation = (high - low) / _NORMAL_IQR, raw.std(axis=0, dtype=np.float64)
    scale = np.maximum(np.maximum(spread, deviation), _LEAST * np.abs(centre))
    scale[scale == 0] = 1.0
    return Scaling(centre.astype(np.float32), scale.astype(np.float32))
