"""How often the past gave as much: p-values from statistics of windows between which nothing was wrong."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Float64 = npt.NDArray[np.float64]

_STILL = 0.02
"""Distances far below this, in frozen deviations, are all alike: nothing has moved."""
_LEAST_SPREAD = 0.1
"""Of the log of a feature's past distances; a feature that has never moved must be allowed a little."""


def p_value(observed: float, null: Float64) -> float:
    """Return the p-value of a statistic that is large where there is drift.

    Up to the largest past value it is a rank: (1 + m s) / (m + 1), s the share of past values that are as large
    and m how many of the past values are independent, `effective_count`. With m = n this is the exact rank of an
    exchangeable present. Past values are not: windows overlap and markets remember, and the newest of a slow series is
    its largest more often than in one of n + 1; with 40 of autocorrelation 0.85 at a level of 5 % in 7 of 100 runs
    where m = n, and in 2.5 as it is.

    Ranks end at 1 / (m + 1), and a budget of false alarms asks for less: beyond the largest, the tail of a prediction
    interval goes on, Student's t about the mean with m in the error of the mean, the variance and the degrees of
    freedom. That tail is right where past values are Gaussian, and too thin where they are skewed to the right.

    Args:
        observed: the statistic, on a scale where past values are roughly Gaussian: `angle` of an AUC.
        null: float64 [n], n >= 2, in the order of time.
    """
    count = effective_count(null)
    rank = _rank(float((null >= observed).mean()), count)
    if observed <= null.max() or null.var() == 0:
        return rank
    return min(rank, _tail((observed - null.mean()) / null.std(), count))


def _rank(share: float, count: float) -> float:
    return (1 + share * count) / (count + 1)


def _tail(deviations: float, count: float) -> float:
    """Return the chance of a new value so many deviations of the past values above their mean."""
    if count <= 2:
        return 1.0
    # The variance of dependent values about their own mean is too small by 1 - 1 / count.
    return float(student.sf(deviations * math.sqrt((1 - 1 / count) / (1 + 1 / count)), count - 1))


class Unusual(NamedTuple):
    """How unusual the moves of all features are together, and of each: float64 [F], deviations of its past."""

    p_value: float
    deviations: Float64


def unusual_moves(observed: Float64, null: Float64) -> Unusual:
    """Return the p-value of the feature that has moved most against its own past.

    A feature's move is compared with what the same feature did between past windows, since some are as restless as the
    market and others hardly change. The statistic is the largest of all features' deviations, on a log scale. Each of
    the n + 1 pairs of windows is measured by the others, so that the rank of `p_value` holds; beyond the largest it is
    the tail of the feature with most deviations, times the number of features (Bonferroni).

    Args:
        observed: float64 [F], distances between the distributions of the two windows, in frozen deviations.
        null: float64 [n, F], those of past pairs in the order of time, n >= 3.
    """
    logs = np.log(_STILL + np.vstack([null, observed]))
    deviations = np.stack([_deviations(logs[at], np.delete(logs, at, axis=0)) for at in range(len(logs))])
    largest, now = deviations.max(axis=1), deviations[-1]
    share = float((largest[:-1] >= largest[-1]).mean())
    rank = _rank(share, effective_count(largest[:-1]))
    if share > 0:
        return Unusual(rank, now)
    best = int(now.argmax())
    return Unusual(min(rank, len(observed) * _tail(now[best], effective_count(logs[:-1, best]))), now)


def _deviations(one: Float64, others: Float64) -> Float64:
    return np.asarray((one - others.mean(axis=0)) / np.maximum(others.std(axis=0), _LEAST_SPREAD), np.float64)


def effective_count(values: Float64) -> float:
    """Return how many independent values would know the mean as well, between 1 and n.

    Autocorrelations are added up to the first that is not positive (the initial sequence of Geyer 1992).
    """
    centred = values - values.mean()
    power = float(centred @ centred)
    if power == 0:
        return float(len(values))
    total = 0.0
    for lag in range(1, len(values) // 2):
        correlation = float(centred[lag:] @ centred[:-lag]) / power
        if correlation <= 0:
            break
        total += correlation
    return max(1.0, len(values) / (1 + 2 * total))


def angle(auc: float) -> float:
    """Return arcsin(sqrt(auc)), the scale on which AUCs of past pairs are most nearly Gaussian.

    Of log-odds, probits and this, on slow and fast simulated markets alike: AUCs near 1 make the others skewed, and
    their tails gave six to eight times the false alarms that they promise at a level of 0.001.
    """
    return math.asin(math.sqrt(auc))
