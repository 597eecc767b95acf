"""Pairs of windows that are compared: a long one of the past and a short one that begins a while after it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lobsmith.drift.reference import RawRows
from lobsmith.params import DriftParams
from lobsmith.units import NS_PER_S

_COVERED = 0.8
"""Share of a window's length that its gap-free runs of rows must cover."""
_ADJACENT = 0.1
"""Of a recent window: a gap longer by no more is not another gap. One row's time always lies between."""


class Lengths(NamedTuple):
    """Of a reference and of a recent window, ns, and the least number of rows in either."""

    reference: int
    recent: int
    minimum_rows: int

    @classmethod
    def of(cls, params: DriftParams) -> "Lengths":
        """Return the lengths that parameters ask for."""
        return cls(round(params.reference_s * NS_PER_S), round(params.recent_s * NS_PER_S), params.minimum_rows)


class Pair(NamedTuple):
    """Two windows of past rows."""

    from_ns: int
    """Where the recent one begins: a multiple of its length since 1970, the same whenever one looks."""
    reference: RawRows
    recent: RawRows


def covered(rows: RawRows) -> int:
    """Return how long the gap-free runs of rows last together, ns."""
    if not len(rows):
        return 0
    same = np.diff(rows.segment) == 0
    return int(np.diff(rows.time_ns)[same].sum())


def enough(rows: RawRows, length_ns: int, minimum_rows: int) -> bool:
    """Say whether rows can stand for a window of a length."""
    return len(rows) >= minimum_rows and covered(rows) >= _COVERED * length_ns


def rounded_gap(gap_ns: int, lengths: Lengths) -> int:
    """Return a gap, in recent windows, rounded up to the next of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24...

    So the same past pairs serve for a while. What lies further apart differs more, hence rounding up errs on the side
    of no drift.
    """
    windows = math.ceil(gap_ns / lengths.recent - _ADJACENT)
    if windows <= 3:
        return max(windows, 0)
    power = 1 << (windows - 1).bit_length()
    return power * 3 // 4 if windows <= power * 3 // 4 else power


def past_pairs(history: RawRows, lengths: Lengths, gap: int, until_ns: int) -> Iterator[Pair]:
    """Yield the pairs of a gap whose recent window ends before a time, the newest first; recent ones do not overlap.

    Args:
        history: in the order of time.
        lengths: of the windows.
        gap: in recent windows.
        until_ns: UTC.
    """
    if not len(history):
        return
    first = int(history.time_ns[0]) + lengths.reference + gap * lengths.recent
    start = (min(until_ns, int(history.time_ns[-1]) + 1) // lengths.recent - 1) * lengths.recent
    while start >= first - round((1 - _COVERED) * lengths.reference):
        recent = history.between(start, start + lengths.recent)
        end = start - gap * lengths.recent
        reference = history.between(end - lengths.reference, end)
        if enough(recent, lengths.recent, lengths.minimum_rows) and enough(
            reference, lengths.reference, lengths.minimum_rows
        ):
            yield Pair(start, reference, recent)
        start -= lengths.recent
