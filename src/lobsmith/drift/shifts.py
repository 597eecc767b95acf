"""Feature shift and prediction shift: distance of each quantity between two windows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lobsmith.drift.verdict import FeatureShift
from lobsmith.features.labels import UNKNOWN
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import answered, compared_horizons, losses

Float64 = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64]
_QUANTILES = 1000
"""Levels that the earth mover's distance is summed over."""
_HALF = 0.5
"""Pseudo-count of each bin, so that an empty one costs a finite amount (Jeffreys 1946)."""
_DOWN, _UNCHANGED, _UP = range(3)
_PRIOR = 1.0
"""Pseudo-count of each direction."""


def feature_shifts(
    names: Sequence[str], reference: Numbers, recent: Numbers, *, importance: Float64 | None = None, bins: int = 10
) -> tuple[FeatureShift, ...]:
    """Describe the shift of each column, in the order of the columns.

    Args:
        reference: [N, F], N >= 1, finite, own units.
        recent: [M, F], M >= 1.
        importance: float64 [F] of a discriminator.
        bins: quantiles of the reference between which rows are counted.
    """
    old, new = np.sort(reference, axis=0).astype(np.float64), np.sort(recent, axis=0).astype(np.float64)
    distance = _in_deviations(earth_movers(old, new), old, new)
    result = []
    for column, name in enumerate(names):
        edges, before, after = _histogram(old[:, column], new[:, column], bins)
        result.append(
            FeatureShift(
                name=name,
                importance=None if importance is None else float(importance[column]),
                psi=_psi(before, after),
                wasserstein=float(distance[column]),
                edges=tuple(edges.tolist()),
                reference=tuple((before / before.sum()).tolist()),
                recent=tuple((after / after.sum()).tolist()),
            )
        )
    return tuple(result)


def earth_movers(reference: Numbers, recent: Numbers) -> Float64:
    """Return the earth mover's distance of order 1 of each column, float64 [F], in the columns' units.

    The mean distance of the quantile functions at 1000 levels; columns [N, F] and [M, F] are rising.
    """
    return np.asarray(np.abs(_quantiles(reference) - _quantiles(recent)).mean(axis=0), np.float64)


def _in_deviations(distance: Float64, reference: Float64, recent: Float64) -> Float64:
    """Divide by deviations of the reference, or of all rows where it is constant; a distance of 0 stays 0."""
    deviation = reference.std(axis=0)
    constant = reference[0] == reference[-1]
    if constant.any():
        deviation[constant] = np.concatenate([reference[:, constant], recent[:, constant]]).std(axis=0)
    return np.asarray(np.divide(distance, deviation, out=np.zeros_like(distance), where=distance > 0), np.float64)


def _quantiles(ordered: Numbers) -> Float64:
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return ordered[(levels * len(ordered)).astype(np.intp)].astype(np.float64)


def _histogram(old: Float64, new: Float64, bins: int) -> tuple[Float64, Float64, Float64]:
    """Return edges and counts; a value that several quantiles share gets a bin of its own."""
    inner = old[np.arange(1, bins) * len(old) // bins]
    values, times = np.unique(inner, return_counts=True)
    cuts = np.union1d(values, np.nextafter(values[times > 1], np.inf))
    low, high = min(old[0], new[0]), max(old[-1], new[-1])
    low = low if low < cuts[0] else np.nextafter(cuts[0], -np.inf)
    high = high if high > cuts[-1] else np.nextafter(cuts[-1], np.inf)
    return np.concatenate([[low], cuts, [high]]), _counts(old, cuts), _counts(new, cuts)


def _counts(ordered: Float64, cuts: Float64) -> Float64:
    upto = np.searchsorted(ordered, cuts)
    return np.diff(upto, prepend=0, append=len(ordered)).astype(np.float64)


def _psi(old: Float64, new: Float64) -> float:
    """Return the population stability index, nats: the sum of both Kullback-Leibler divergences (Jeffreys 1946)."""
    before = (old + _HALF) / (old.sum() + _HALF * len(old))
    after = (new + _HALF) / (new.sum() + _HALF * len(new))
    return float(((after - before) * np.log(after / before)).sum())


def between(answers: Answers, from_ns: int, until_ns: int) -> Answers:
    """Return the rows received from `from_ns` on and before `until_ns`, in the order of time, without reasons."""
    chosen = np.flatnonzero((answers.time_ns >= from_ns) & (answers.time_ns < until_ns))
    chosen = chosen[np.argsort(answers.time_ns[chosen], kind="stable")]
    names = ("time_ns", "segment", "labels", "probabilities", "latency_ns")
    return replace(answers, reasons={}, **{name: getattr(answers, name)[chosen] for name in names})


def quantities(answers: Answers) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the quantities of answered rows whose drift is measured: names, and float32 [M, 2 H].

    At each horizon P(unchanged), and P(up) - P(down).
    """
    p = answers.probabilities[answered(answers)]
    names = [
        f"{what} at {horizon} ms" for what in ("P(unchanged)", "P(up) - P(down)") for horizon in answers.horizons_ms
    ]
    return names, np.concatenate([p[..., _UNCHANGED], p[..., _UP] - p[..., _DOWN]], axis=1)


def quantiles_of(values: Numbers) -> Float64:
    """Return each column's quantiles, float64 [1000, K].

    Args:
        values: [N, K], N >= 1.
    """
    return _quantiles(np.sort(values, axis=0).astype(np.float64))


def shift_of_answers(reference: Answers, recent: Answers) -> tuple[float, tuple[FeatureShift, ...]]:
    """Return the shift of recent answers from a reference, each at least one row, of the same version.

    Returns:
        The mean of the quantities' earth mover's distances, in standard deviations of the reference; and their shifts,
        the largest first.
    """
    return shift_of_quantities(quantities(reference)[1], recent)


def shift_of_quantities(before: Numbers, recent: Answers) -> tuple[float, tuple[FeatureShift, ...]]:
    """As `shift_of_answers`, from the reference's quantities alone, [N, 2 H], or their `quantiles_of`."""
    names, after = quantities(recent)
    shifts = feature_shifts(names, before, after)
    ordered = sorted(shifts, key=lambda shift: shift.wasserstein, reverse=True)
    return float(np.mean([shift.wasserstein for shift in ordered])), tuple(ordered)


def excess_loss(reference: Answers, recent: Answers, longest_ms: int) -> tuple[float, int] | None:
    """Return the mean loss of a recent row above that of the reference's direction frequencies, nats; and the number of
    rows.

    Both losses are of the same rows, at horizons up to `longest_ms`. None where no row has an answer and a known
    outcome.
    """
    return excess_over(direction_counts(reference), recent, longest_ms)


def direction_counts(answers: Answers) -> Float64:
    """Return the count of each direction at each horizon, float64 [H, 3]."""
    return np.array(
        [np.bincount(labels[labels != UNKNOWN], minlength=3) for labels in answers.labels.T], np.float64
    ).reshape(-1, 3)


def excess_over(counts: Float64, recent: Answers, longest_ms: int) -> tuple[float, int] | None:
    """As `excess_loss`, from the reference's `direction_counts` alone."""
    horizons = compared_horizons(recent.horizons_ms, longest_ms)
    loss, known = losses(recent, horizons)
    if not known.any() or not counts[horizons].sum(axis=1).all():
        return None
    shares = (counts + _PRIOR) / (counts + _PRIOR).sum(axis=1, keepdims=True)
    labels = recent.labels[known]
    base = np.mean([-np.log(shares[h, labels[:, h]]) for h in horizons], axis=0)
    return float((loss[known] - base).mean()), int(known.sum())
