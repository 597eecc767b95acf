"""Null distribution: statistics of past pairs of windows without drift, and p-values from them."""

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.stats import t as student

from lobsmith import jsonl
from lobsmith.drift.discriminator import CLIP, fit_discriminator
from lobsmith.drift.reference import RawRows, Scaling
from lobsmith.drift.windows import Lengths, WindowPair, left_out_pairs, past_pairs, rounded_gap
from lobsmith.errors import DataError
from lobsmith.params import DriftParams
from lobsmith.progress import console
from lobsmith.units import NS_PER_S

Float64 = npt.NDArray[np.float64]
_STILL = 0.02
"""Distances far below this, in frozen deviations, count as equal."""
_LEAST_SPREAD = 0.1
"""Least spread of the log of a feature's past distances, for features that have never moved."""
_VERSION = 1
"""Raised where the discriminator's arithmetic changes: AUCs of two versions are not comparable."""
_KEPT = 4000
"""Newest lines kept."""
MOST = 400
"""Newest pairs of a gap that are used: ranks resolve a quarter of a percent."""
LEFT_OUT = -1
"""In place of a gap: the recent window was left out of the version's reference, or came later."""
LEAST_COUNT = 6.0
"""Independent values that training data must be worth for a verdict of no drift."""


def p_value(observed: float, null: Float64) -> float:
    """Return the p-value of a statistic that is large under drift.

    Up to the largest past value it is the rank (1 + m s) / (m + 1): s the share of past values at least as large, m
    their `effective_count`. With m = n, 40 values of autocorrelation 0.85 reject in 7 of 100 runs at a level of 5 %,
    with the effective count in 2.5. Beyond it, the tail of a prediction interval: Student's t about the mean, exact for
    Gaussian past values, too thin for right-skewed ones.

    Args:
        observed: on a scale where past values are roughly Gaussian: `angle` of an AUC.
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
    """Return the chance of a new value this many deviations of the past values above their mean."""
    if count <= 2:
        return 1.0
    # The variance of dependent values about their own mean is too small by 1 - 1 / count.
    return float(student.sf(deviations * math.sqrt((1 - 1 / count) / (1 + 1 / count)), count - 1))


class ShiftTest(NamedTuple):
    """The p-value of all feature shifts together, and each shift: float64 [F], in deviations of the feature's past."""

    p_value: float
    deviations: Float64


def shift_test(observed: Float64, null: Float64) -> ShiftTest:
    """Return the p-value of the feature that has shifted most against its own past.

    The statistic is the largest deviation of a feature's log distance from its past. Each of the n + 1 pairs is
    measured by the others, so that the rank of `p_value` holds; beyond the largest value it is F times the smallest
    tail (Bonferroni).

    Args:
        observed: float64 [F], distances between the two windows, in frozen deviations.
        null: float64 [n, F], of past pairs in the order of time, n >= 3.
    """
    logs = np.log(_STILL + np.vstack([null, observed]))
    deviations = np.stack([_deviations(logs[at], np.delete(logs, at, axis=0)) for at in range(len(logs))])
    largest, now = deviations.max(axis=1), deviations[-1]
    share = float((largest[:-1] >= largest[-1]).mean())
    rank = _rank(share, effective_count(largest[:-1]))
    if share > 0:
        return ShiftTest(rank, now)
    tails = (_tail(far, effective_count(past)) for far, past in zip(now.tolist(), logs[:-1].T, strict=True))
    return ShiftTest(min(rank, len(observed) * min(tails)), now)


def _deviations(logs: Float64, others: Float64) -> Float64:
    return np.asarray((logs - others.mean(axis=0)) / np.maximum(others.std(axis=0), _LEAST_SPREAD), np.float64)


def effective_count(values: Float64) -> float:
    """Return the number of independent values with the same variance of the mean, between 1 and n.

    Autocorrelations are summed up to the first that is not positive (initial sequence, Geyer 1992).
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
    """Return arcsin(sqrt(auc)): the scale on which AUCs of past pairs are most nearly Gaussian.

    On simulated markets log-odds and probits gave six to eight times the promised false alarms at a level of 0.001.
    """
    return math.asin(math.sqrt(auc))


class MeasuredPair(Struct, frozen=True, kw_only=True, tag="pair", forbid_unknown_fields=True):
    """One past pair.

    Attributes:
        key: `past_key`.
        gap: between its windows, in recent windows, or `LEFT_OUT`.
        from_ns: start of its recent window, UTC.
        distances: earth mover's, of each feature, in frozen deviations.
    """

    key: str
    gap: int
    from_ns: int
    auc: float
    distances: tuple[float, ...]


class DriftedWindow(Struct, frozen=True, kw_only=True, tag="drift", forbid_unknown_fields=True):
    """A recent window with drift, UTC, which no null distribution may contain."""

    from_ns: int
    until_ns: int


_Line = MeasuredPair | DriftedWindow


def past_key(scaling: Scaling, params: DriftParams) -> str:
    """Return a hash of all that an AUC depends on besides the rows."""
    digest = hashlib.sha256(f"{_VERSION} {CLIP} {params.every_ms} {params.reference_s} {params.recent_s} ".encode())
    digest.update(msgspec.json.encode(params.discriminator))
    digest.update(scaling.centre.tobytes() + scaling.scale.tobytes())
    return digest.hexdigest()[:16]


class PastStore:
    """Measured pairs and drifted windows of one model and instrument; for one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _read(path)
        self._drifts = [line for line in self._lines if isinstance(line, DriftedWindow)]

    def measured(self, key: str, gap: int) -> dict[int, MeasuredPair]:
        """Return pairs by the start of their recent window, in the order of time."""
        pairs = {
            line.from_ns: line
            for line in self._lines
            if isinstance(line, MeasuredPair) and line.key == key and line.gap == gap
        }
        return dict(sorted(pairs.items()))

    def drifted(self, from_ns: int, until_ns: int) -> bool:
        """Return whether drift was found in any part of a period."""
        return any(drift.from_ns < until_ns and from_ns < drift.until_ns for drift in self._drifts)

    def add(self, lines: Iterable[MeasuredPair | DriftedWindow]) -> None:
        """Append lines and drop the oldest. A failed write is reported only: the pairs are measured again later."""
        new = list(lines)
        if not new:
            return
        self._lines = [*self._lines, *new][-_KEPT:]
        self._drifts = [line for line in self._lines if isinstance(line, DriftedWindow)]
        try:
            jsonl.rewrite(self._path, self._lines)
        except OSError as error:
            # The check matters more than its past pairs.
            console.print(f"{self._path}: past pairs cannot be written ({error}); free the disk", markup=False)


def _read(path: Path) -> list[_Line]:
    try:
        return jsonl.read(path, _Line)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(f"{path}: past pairs cannot be read ({error}); remove the file to measure anew") from error


class NullPairs(NamedTuple):
    """Measured pairs of one gap."""

    gap: int
    """In recent windows."""
    pairs: list[MeasuredPair]
    """In the order of time."""
    possible: int
    """Pairs that the history could give."""


def null_pairs(
    history: RawRows,
    scaling: Scaling,
    store: PastStore,
    params: DriftParams,
    *,
    gap_ns: int,
    until_ns: int,
    end: float,
    all_or_none: bool = False,
) -> NullPairs:
    """Return the measured pairs to compare the present pair with, after measuring missing ones.

    They have the least gap that is no shorter than the present one and has `past_pairs` pairs; pairs of the gap needed
    later are measured ahead, and the remaining budget lengthens the past.

    Args:
        history: in the order of time, finite.
        store: takes the measured pairs.
        gap_ns: between the present windows.
        until_ns: pairs end before.
        end: monotonic time at which measuring stops.
        all_or_none: measure none where the history does not give `past_pairs` of them.
    """
    lengths, key = Lengths.of(params), past_key(scaling, params)
    checks = math.ceil(params.past_pairs / params.pairs_a_look)
    later_ns = gap_ns + round(checks * params.look_s * NS_PER_S)
    now, later = rounded_gap(gap_ns, lengths), rounded_gap(later_ns, lengths)
    possible = {
        gap: list(itertools.islice(_null_windows(history, lengths, gap, until_ns, store), MOST)) for gap in (now, later)
    }
    left = params.pairs_a_look
    for gap, wanted in ((now, params.past_pairs), (later, params.past_pairs), (now, MOST)):
        if all_or_none and len(possible[gap]) < params.past_pairs:
            continue
        known = store.measured(key, gap)
        missing = [pair for pair in possible[gap][:wanted] if pair.from_ns not in known][:left]
        left -= len(missing)
        store.add(_measured(missing, scaling, params, key, gap, end))
    measured = {gap: _known(store, key, gap, until_ns, lengths) for gap in (now, later)}
    gap = later if len(measured[now]) < params.past_pairs <= len(measured[later]) else now
    return NullPairs(gap, measured[gap], len(possible[gap]))


def _null_windows(
    history: RawRows, lengths: Lengths, gap: int, until_ns: int, store: PastStore
) -> Iterator[WindowPair]:
    return (
        pair
        for pair in past_pairs(history, lengths, gap, until_ns)
        if not store.drifted(pair.from_ns, pair.from_ns + lengths.recent)
    )


def _known(store: PastStore, key: str, gap: int, until_ns: int, lengths: Lengths) -> list[MeasuredPair]:
    pairs = [
        pair
        for pair in store.measured(key, gap).values()
        if pair.from_ns + lengths.recent <= until_ns and not store.drifted(pair.from_ns, pair.from_ns + lengths.recent)
    ]
    return pairs[-MOST:]


def measured_in_training(
    rows: RawRows, scaling: Scaling, params: DriftParams, *, end: float = math.inf
) -> list[MeasuredPair]:
    """Measure windows of training rows, each beside the rest, in the order of time, until the monotonic time `end`.

    `params` are fitted to the length of the rows.
    """
    pairs = left_out_pairs(rows, Lengths.of(params))
    return _measured(pairs, scaling, params, past_key(scaling, params), LEFT_OUT, end)


def _measured(
    pairs: Iterable[WindowPair], scaling: Scaling, params: DriftParams, key: str, gap: int, end: float
) -> list[MeasuredPair]:
    """Fit a discriminator to each pair; a pair whose fit ran out of time is skipped."""
    measured = []
    for pair in pairs:
        left = end - time.monotonic()
        if left <= 0:
            break
        fitted = fit_discriminator(pair.reference.raw, pair.recent.raw, scaling, params.discriminator, seconds=left)
        if fitted.finished:
            distances = tuple(round(distance, 5) for distance in fitted.distances.tolist())
            measured.append(MeasuredPair(key=key, gap=gap, from_ns=pair.from_ns, auc=fitted.auc, distances=distances))
    return measured
