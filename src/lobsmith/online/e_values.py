"""A test by betting: evidence and an interval that stay valid however often they are checked.

A block difference is one number for each block of time, positive where the second version is better. Null hypothesis:
its mean, given all blocks before it, is at most m. Cut into x = clip((difference - m) / c, -1, 1) with a bound c known
before the block, a stake f in [0, 1) turns a capital of 1 into

    K = (1 + f x_1) (1 + f x_2) ... (1 + f x_k),

a test supermartingale under the hypothesis (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2023), as is the mean over several stakes. By Ville's inequality the probability that it ever reaches 1
/ alpha is at most alpha.

The tested mean of clipped differences is a robust location (Huber 1964; Wang & Ramdas, "Catoni-style confidence
sequences", 2023), which rare terrible blocks do not move, so the caller checks the plain mean too.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

STAKES = np.array([0.1, 0.25, 0.5, 0.95])
"""Shares of the capital that are staked on each block; the capital is spread over them evenly."""
_GAUSSIAN_MEDIAN = 0.6744897501960817
"""Median of the absolute value of a standard Gaussian: a median distance divided by it is a deviation."""
_RENEWAL = 16
_LARGEST_LOG = 690.0
"""Capital is reported up to exp of this, the range of a float64."""
_HALVINGS = 60


def log_capital(bets: npt.ArrayLike) -> Float:
    """Return ln of the capital after each bet, float64 [..., K].

    Args:
        bets: float [..., K] in [-1, 1]; under the null hypothesis none has a positive mean, given those before it.
    """
    x = np.asarray(bets, np.float64)
    each = np.cumsum(np.log1p(STAKES[:, np.newaxis] * x[..., np.newaxis, :]), axis=-1)
    most = each.max(axis=-2, initial=-np.inf)
    shares = np.exp(each - most[..., np.newaxis, :]).mean(axis=-2)
    return np.asarray(most + np.log(shares), np.float64)


def predictable_bounds(differences: Float, measured: Float, multiple: float) -> Float:
    """Return the bound that each block difference is clipped at, float64 [K].

    It is `multiple` deviations of all earlier differences and of the measured ones: their median distance from their
    median, scaled as of a Gaussian; where that is 0, the size of their median; where that is 0 too, infinite (nothing
    is staked). It is renewed whenever the past has grown by a sixteenth.

    Args:
        differences: float64 [K], in the order of time.
        measured: float64 [M], earlier ones.
        multiple: deviations.
    """
    past = np.concatenate([measured, differences])
    bounds = np.full(len(differences), math.inf)
    known = len(measured)
    while known < len(past):
        until = known + max(1, known // _RENEWAL)
        bounds[known - len(measured) : until - len(measured)] = _bound(past[:known], multiple)
        known = until
    return bounds


def _bound(past: Float, multiple: float) -> float:
    if not len(past):
        return math.inf
    centre = float(np.median(past))
    deviation = float(np.median(np.abs(past - centre))) / _GAUSSIAN_MEDIAN
    return multiple * deviation or abs(centre) or math.inf


class Evidence(NamedTuple):
    """Evidence of the differences of K blocks; nats, positive where the second version is better.

    Attributes:
        blocks: K.
        better: e-value against "the second is no better".
        worse: e-value against "the second is no worse".
        mean: plain mean, None without a block.
        location: centre of the clipped differences, None without a block.
        low, high: interval of the location, at all times at once with probability 1 - 2 alpha or more; None for an end
            not known yet. `low` is above 0 exactly where `better` has reached 1 / alpha.
    """

    blocks: int
    better: float
    worse: float
    mean: float | None
    location: float | None
    low: float | None
    high: float | None


def weigh(differences: Float, bounds: Float, alpha: float) -> Evidence:
    """Bet on differences float64 [K], each clipped at its bound float64 [K]."""
    if not len(differences):
        return Evidence(0, 1.0, 1.0, None, None, None, None)
    level = -math.log(alpha)
    bounded = np.isfinite(bounds)
    d, c = differences[bounded], bounds[bounded]

    def bets(m: float) -> Float:
        return np.asarray(np.clip((d - m) / c, -1.0, 1.0), np.float64)

    location = low = high = None
    if len(d):
        reach = float((np.abs(d) + c).max())
        location = _root(lambda m: float(bets(m).sum()), reach)
        low = _root(lambda m: _final(bets(m)) - level, reach)
        high = _root(lambda m: level - _final(-bets(m)), reach)
    return Evidence(
        blocks=len(differences),
        better=_value(_final(bets(0.0))),
        worse=_value(_final(-bets(0.0))),
        mean=float(differences.mean()),
        location=location,
        low=low,
        high=high,
    )


def _final(bets: Float) -> float:
    return float(log_capital(bets)[-1]) if len(bets) else 0.0


def _value(log: float) -> float:
    return math.exp(min(log, _LARGEST_LOG))


def _root(falling: Callable[[float], float], reach: float) -> float | None:
    """Return where a falling function of m crosses 0 within [-reach, reach]; None where it does not."""
    low, high = -reach, reach
    if falling(low) < 0 or falling(high) > 0:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if falling(middle) >= 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
