"""How often the past gave as much: p-values from statistics of windows between which nothing was wrong."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Float64 = npt.NDArray[np.float64]

_LEAST = 1e-4
_STILL = 0.02
"""Distances far below this, in frozen deviations, are all alike: nothing has moved."""
_LEAST_SPREAD = 0.1
"""Of the log of a feature's past distances; a feature that has never moved must be allowed a little."""


def p_value(observed: float, null: Float64) -> float:
    """Return the p-value of a statistic that is large where there is drift.

    Up to the largest past value it is the rank, (1 + how many past values are as large) / (n + 1), which assumes
    nothing but that the present is one of them. Ranks end at 1 / (n + 1), and a budget of false alarms asks for less:
    beyond the largest the tail of a prediction interval goes on, Student's t about the mean of the past values. These
    depend on each other, as their windows overlap and markets remember; they count as the fewer that
    `effective_count` says, in the error of the mean, in the variance and in the degrees of freedom.

    Args:
        observed: the statistic, on a scale where past values are roughly Gaussian: `log_odds` of an AUC.
        null: float64 [n], n >= 2, in the order of time.
    """
    rank = (1 + int((null >= observed).sum())) / (len(null) + 1)
    if observed <= null.max():
        return rank
    count = effective_count(null)
    if count <= 2:
        return rank
    variance = null.var() / (1 - 1 / count)
    if variance == 0:
        return rank
    score = (observed - null.mean()) / math.sqrt(variance * (1 + 1 / count))
    return float(min(rank, student.sf(score, count - 1)))


class Unusual(NamedTuple):
    """How unusual the moves of all features are together, and of each: float64 [F], deviations of its past."""

    p_value: float
    deviations: Float64


def unusual_moves(observed: Float64, null: Float64) -> Unusual:
    """Return the p-value of the feature that has moved most against its own past.

    A feature's move is compared with what the same feature did between past windows, since some are as restless as the
    market and others hardly change. The statistic is the largest of all features' deviations, on a log scale. Each of
    the n + 1 pairs of windows is measured by the others, so that the rank holds as it does for one number; beyond
    the largest it is the smallest tail of Student's t, times the number of features (Bonferroni).

    Args:
        observed: float64 [F], distances between the distributions of the two windows, in frozen deviations.
        null: float64 [n, F], those of past pairs in the order of time, n >= 3.
    """
    logs = np.log(_STILL + np.vstack([null, observed]))
    deviations = np.stack([_deviations(logs[at], np.delete(logs, at, axis=0)) for at in range(len(logs))])
    largest = deviations.max(axis=1)
    rank = int((largest >= largest[-1]).sum()) / len(logs)
    now = deviations[-1]
    if rank > 1 / len(logs):
        return Unusual(rank, now)
    best = int(now.argmax())
    count = effective_count(logs[:-1, best])
    if count <= 2:
        return Unusual(rank, now)
    tail = student.sf(now[best] * math.sqrt((1 - 1 / count) / (1 + 1 / count)), count - 1)
    return Unusual(float(min(rank, len(observed) * tail)), now)


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


def log_odds(auc: float) -> float:
    """Return ln(auc / (1 - auc)), kept finite: AUCs within 0.0001 of 0 or 1 count as that."""
    bounded = min(max(auc, _LEAST), 1 - _LEAST)
    return math.log(bounded / (1 - bounded))
