"""The calibration error that even perfect probabilities show.

Labels of neighbouring rows share most of their horizon, so hits clump, and their share in a bin strays further than
that of independent rows. Labels drawn from the probabilities with such clumps show how far.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lobsmith.evaluation.metrics import BINS, top_bins

DRAWS = 200


class Floor(NamedTuple):
    """Median and 95th percentile of the calibration error of labels drawn from the probabilities."""

    median: float
    high: float


class _Top:
    """The likeliest class of each row: its bin, and the interval of a standard Gaussian that makes it come true."""

    def __init__(self, p: npt.NDArray[np.floating[Any]]) -> None:
        top = p.argmax(axis=1)
        upto = np.zeros((len(p), p.shape[1] + 1))
        np.cumsum(p, axis=1, dtype=np.float64, out=upto[:, 1:])
        upto /= upto[:, -1:]
        edges = torch.special.ndtri(torch.from_numpy(upto)).numpy()
        row = np.arange(len(p))
        self.low, self.high = edges[row, top], edges[row, top + 1]
        confidence = p.max(axis=1).astype(np.float64)
        self.bin = top_bins(confidence)
        self.predicted = np.bincount(self.bin, confidence, BINS)

    def error(self, z: npt.NDArray[np.float64]) -> float:
        """Return the expected calibration error of the labels of a latent z, float64 [N]."""
        hit = (z > self.low) & (z <= self.high)
        return float(np.abs(self.predicted - np.bincount(self.bin[hit], minlength=BINS)).sum() / len(z))


def calibration_floor(
    predictors: Sequence[npt.NDArray[np.floating[Any]]],
    time_ns: npt.NDArray[np.int64],
    horizon_ns: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Floor]:
    """Draw labels from each predictor's own probabilities and measure their calibration errors.

    Row i has a latent z_i = (W(t_i + h) - W(t_i)) / sqrt(h) with a Brownian motion W, drawn at all times at which a
    horizon begins or ends: variance 1, and two rows correlate by the share of the horizon that they have in common. Its
    label is the class at Phi(z_i) of the cumulated probabilities, in the order down, unchanged, up.

    Args:
        predictors: P times float [N, C], all finite; each draw serves all of them.
        time_ns: int64 [N].
        horizon_ns: the horizon.
        draws: how many sets of labels.
        seed: of the draws.
    """
    tops = [_Top(p) for p in predictors]
    moments, place = np.unique(np.concatenate([time_ns, time_ns + horizon_ns]), return_inverse=True)
    begin, end = place[: len(time_ns)], place[len(time_ns) :]
    # W is scaled by 1 / sqrt(h) as it is drawn; the noise before the first row is not needed.
    scale = np.sqrt(np.diff(moments, prepend=moments[:1]) / horizon_ns)
    generator = np.random.default_rng(seed)
    noise = np.empty(len(moments))
    errors = np.empty((draws, len(tops)))
    for draw in range(draws):
        generator.standard_normal(out=noise)
        np.multiply(noise, scale, out=noise)
        np.cumsum(noise, out=noise)
        z = noise[end] - noise[begin]
        errors[draw] = [top.error(z) for top in tops]
    median, high = np.percentile(errors, [50, 95], axis=0)
    return [Floor(float(a), float(b)) for a, b in zip(median, high, strict=True)]
