"""Pairs of windows that are compared: a long one of the past and a short one that begins a while after it.

Or, where nothing has been lived yet, a short one of the training data and the rest of them.
"""

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
"""Share of a window's length that its gap-free runs of rows must cover."""
_ADJACENT = 0.1
"""Of a recent window: a gap longer by no more is not another gap. One row's time always lies between."""
_IN_TRAINING = 16
"""Recent windows that training data hold at least, side by side; of shorter data the windows are shorter."""
_LEFT_OUT = 48
"""Windows that are left out of the training data in turn, at most."""
_LEAST_ROWS = 20
"""In the shortest recent window."""
_APART = 0.5
"""Of a recent window, left out of the rest on both sides of it: neighbours are alike."""

Int64 = npt.NDArray[np.int64]


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
    return covered_ns(rows.time_ns, rows.segment)


def covered_ns(time_ns: Int64, segment: Int64) -> int:
    """Return how long gap-free runs last together, ns; times in their order, another segment for each run."""
    return int(np.diff(time_ns)[np.diff(segment) == 0].sum())


def fitted(params: DriftParams, length_ns: int) -> DriftParams:
    """Return the parameters for a version that has learnt so many nanoseconds.

    Sixteen recent windows have to lie in the training data, else nothing can be said of one more. Of shorter data
    all windows are shorter in proportion, down to twenty slots of `every_ms`; below that nothing is changed, and the
    training data are too short to tell drift from.
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
    """Return where windows of training data begin that are left out in turn; neighbours overlap by half at most."""
    step = max(recent_ns // 2, (until_ns - from_ns) // _LEFT_OUT)
    return range(from_ns, until_ns - recent_ns + 1, max(step, 1))


def beside(start_ns: int, recent_ns: int) -> tuple[int, int]:
    """Return from when until when rows are no part of the rest that a left-out window is compared with."""
    apart = round(_APART * recent_ns)
    return start_ns - apart, start_ns + recent_ns + apart


def left_out_pairs(rows: RawRows, lengths: Lengths) -> Iterator[Pair]:
    """Yield windows of training data with the newest of the rest as their reference, in the order of time.

    It is the same reference as that of live rows, less the window itself and what lies next to it.

    Args:
        rows: of the training window, in the order of time.
        lengths: of the windows, as `fitted` has them.
    """
    if not len(rows):
        return
    whole = rows.newest(lengths.reference)
    for start in left_out_starts(int(rows.time_ns[0]), int(rows.time_ns[-1]) + 1, lengths.recent):
        recent = rows.between(start, start + lengths.recent)
        cut_from, cut_until = beside(start, lengths.recent)
        kept = (whole.time_ns < cut_from) | (whole.time_ns >= cut_until)
        # The hole is a gap: what lies before it and what lies after it are two runs.
        segment = 2 * whole.segment + (whole.time_ns >= cut_until)
        rest = RawRows(whole.time_ns[kept], segment[kept], whole.raw[kept])
        length = lengths.reference - (cut_until - cut_from)
        if enough(recent, lengths.recent, lengths.minimum_rows) and enough(rest, length, lengths.minimum_rows):
            yield Pair(start, rest, recent)


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
