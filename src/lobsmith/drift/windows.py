"""Pairs of windows: a long reference and a short recent window a gap later, or a window left out of training data."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import structs

from lobsmith.drift.reference import RawRows
from lobsmith.params import DriftParams
from lobsmith.units import NS_PER_S

_COVERED = 0.8
"""Share of a window's length that its gap-free runs must cover."""
_ADJACENT = 0.1
"""Of a recent window: gaps longer by less are not rounded up. One row's time always lies between."""
_IN_TRAINING = 16
"""Least number of adjacent recent windows in training data; windows of shorter data are shortened."""
_LEFT_OUT = 48
"""Most windows that are left out of the training data in turn."""
_LEAST_ROWS = 20
"""In the shortest recent window."""
_APART = 0.5
"""Of a recent window: embargo on both sides of a left-out window."""

Int64 = npt.NDArray[np.int64]


class Lengths(NamedTuple):
    """Lengths of a reference and a recent window, ns, and the least number of rows in either."""

    reference: int
    recent: int
    minimum_rows: int

    @classmethod
    def of(cls, params: DriftParams) -> "Lengths":
        """Return the lengths that parameters ask for."""
        return cls(round(params.reference_s * NS_PER_S), round(params.recent_s * NS_PER_S), params.minimum_rows)


class WindowPair(NamedTuple):
    """Two windows of past rows."""

    from_ns: int
    """Start of the recent window: a multiple of its length since 1970, the same for every check."""
    reference: RawRows
    recent: RawRows


def covered(rows: RawRows) -> int:
    """Return the total length of the gap-free runs of rows, ns."""
    return covered_ns(rows.time_ns, rows.segment)


def covered_ns(time_ns: Int64, segment: Int64) -> int:
    """Return the total length of gap-free runs, ns; times in order, another segment for each run."""
    return int(np.diff(time_ns)[np.diff(segment) == 0].sum())


def fitted(params: DriftParams, length_ns: int) -> DriftParams:
    """Return the parameters for a version with `length_ns` of training data.

    Sixteen recent windows must fit into it; for shorter data all windows are shortened in proportion, down to twenty
    intervals of `every_ms`. Below that parameters are unchanged, and no verdict is possible.
    """
    recent_s = length_ns / NS_PER_S / _IN_TRAINING
    if recent_s >= params.recent_s or recent_s * 1000 / params.every_ms < _LEAST_ROWS:
        return params
    return structs.replace(
        params,
        reference_s=min(params.reference_s, length_ns / NS_PER_S),
        recent_s=recent_s,
        minimum_rows=max(_LEAST_ROWS, int(params.minimum_rows * recent_s / params.recent_s)),
    )


def left_out_starts(from_ns: int, until_ns: int, recent_ns: int) -> range:
    """Return the starts of the windows left out of training data in turn; neighbours overlap by half at most."""
    stride = max(recent_ns // 2, (until_ns - from_ns) // _LEFT_OUT)
    return range(from_ns, until_ns - recent_ns + 1, max(stride, 1))


def beside(start_ns: int, recent_ns: int) -> tuple[int, int]:
    """Return the start and end of the rows excluded from the rest that a left-out window is compared with."""
    apart = round(_APART * recent_ns)
    return start_ns - apart, start_ns + recent_ns + apart


def left_out_pairs(rows: RawRows, lengths: Lengths) -> Iterator[WindowPair]:
    """Yield windows of training rows with the newest of the rest as reference, in the order of time.

    The reference is that of live rows, less the window and its embargo.
    """
    if not len(rows):
        return
    whole = rows.newest(lengths.reference)
    for start in left_out_starts(int(rows.time_ns[0]), int(rows.time_ns[-1]) + 1, lengths.recent):
        recent = rows.between(start, start + lengths.recent)
        cut_from, cut_until = beside(start, lengths.recent)
        kept = (whole.time_ns < cut_from) | (whole.time_ns >= cut_until)
        # The hole is a gap: rows before and after it are two runs.
        segment = 2 * whole.segment + (whole.time_ns >= cut_until)
        rest = RawRows(whole.time_ns[kept], segment[kept], whole.raw[kept])
        length = lengths.reference - (cut_until - cut_from)
        if enough(recent, lengths.recent, lengths.minimum_rows) and enough(rest, length, lengths.minimum_rows):
            yield WindowPair(start, rest, recent)


def enough(rows: RawRows, length_ns: int, minimum_rows: int) -> bool:
    """Return whether rows suffice for a window of a length."""
    return len(rows) >= minimum_rows and covered(rows) >= _COVERED * length_ns


def rounded_gap(gap_ns: int, lengths: Lengths) -> int:
    """Return a gap, in recent windows, rounded up to the next of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24...

    The same past pairs then serve for a while. Rounding up errs towards no drift: windows further apart differ more.
    """
    windows = math.ceil(gap_ns / lengths.recent - _ADJACENT)
    if windows <= 3:
        return max(windows, 0)
    power = 1 << (windows - 1).bit_length()
    return power * 3 // 4 if windows <= power * 3 // 4 else power


def past_pairs(history: RawRows, lengths: Lengths, gap: int, until_ns: int) -> Iterator[WindowPair]:
    """Yield the pairs of a gap, in recent windows, that end before `until_ns`; the newest first, without overlap."""
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
            yield WindowPair(start, reference, recent)
        start -= lengths.recent
