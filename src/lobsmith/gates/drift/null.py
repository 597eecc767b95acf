"""How often the past gave as much: p-values from statistics of windows between which nothing was wrong."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Float64 = npt.NDArray[np.float64]

_LEAST = 1e-4


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
