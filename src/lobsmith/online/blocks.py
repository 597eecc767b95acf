"""Differences of two versions on the same rows, averaged over blocks of time that hardly depend on each other.

The block length is measured on the first stretch of the rows, which is not tested. Later rows change nothing about
earlier blocks. Pieces of a segment shorter than a block are left out.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.bootstrap import correlation_time
from lobsmith.params import PairedParams
from lobsmith.units import NS_PER_MS, NS_PER_S

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_CELLS_PER_HORIZON = 4
"""Cells of the grid of `correlation_time` in a horizon."""


class BlockRule(NamedTuple):
    """How blocks are cut, fixed before any tested block.

    Attributes:
        length_s: seconds.
        correlation_s: correlation time of the differences, at most a tenth of the measured stretch.
        measured: float64 [M], differences of the measured blocks, which set the first bounds.
    """

    length_s: float
    correlation_s: float
    measured: Float


class Blocks(NamedTuple):
    """Blocks to test.

    Attributes:
        rule: None with too few rows to measure it.
        differences: float64 [K], means over the blocks' rows.
        left_out: blocks with too few rows.
        watched_s: seconds covered by segments, tested or not.
        correlation_s: correlation time of all rows; for information.
    """

    rule: BlockRule | None
    differences: Float
    left_out: int
    watched_s: float
    correlation_s: float | None


def paired_blocks(
    values: Float,
    known: npt.NDArray[np.bool_],
    time_ns: Int,
    segment: Int,
    *,
    horizon_ms: int,
    params: PairedParams,
    rule: BlockRule | None = None,
) -> Blocks:
    """Cut rows into blocks and average the values over each.

    Args:
        values: float64 [N]; anything where not known.
        known: bool [N], rows with known labels that both versions have answered.
        time_ns: int64 [N], never decreasing within a segment.
        segment: int64 [N]; a pause longer than `block_s` ends a segment as well.
        horizon_ms: the longest that is compared.
        params: how long blocks must be.
        rule: of earlier rows of the same versions; None measures it on the first `measure_s` seconds.
    """
    segment = _without_pauses(time_ns, segment, params.block_s)
    watched_s = float(_elapsed(time_ns, segment)[-1]) / NS_PER_S if len(values) else 0.0
    kept = _up_to_last_known(known, segment)
    values, known, time_ns, segment = values[kept], known[kept], time_ns[kept], segment[kept]
    if not len(values):
        return Blocks(rule, np.empty(0), 0, watched_s, None)
    elapsed = _elapsed(time_ns, segment)
    now_s = _correlation_time(values[known], time_ns[known], segment[known], horizon_ms, params)
    tested = np.ones(len(values), bool)
    if rule is None:
        measuring = elapsed < params.measure_s * NS_PER_S
        tested = ~measuring
        if not tested.any():
            return Blocks(None, np.empty(0), 0, watched_s, now_s)
        rule = measure(
            values[measuring],
            known[measuring],
            time_ns[measuring],
            segment[measuring],
            horizon_ms=horizon_ms,
            params=params,
        )
    differences, left_out = _means(
        values[tested], known[tested], time_ns[tested], segment[tested], rule.length_s, params.block_rows
    )
    return Blocks(rule, differences, left_out, watched_s, now_s)


def measure(
    values: Float,
    known: npt.NDArray[np.bool_],
    time_ns: Int,
    segment: Int,
    *,
    horizon_ms: int,
    params: PairedParams,
) -> BlockRule:
    """Measure how long blocks must be: `block_s`, ten horizons, five correlation times, whichever is longest."""
    correlation_s = _correlation_time(values[known], time_ns[known], segment[known], horizon_ms, params)
    length_s = max(
        params.block_s, params.horizons_per_block * horizon_ms / 1000, params.correlation_times * correlation_s
    )
    return BlockRule(length_s, correlation_s, _means(values, known, time_ns, segment, length_s, params.block_rows)[0])


def _correlation_time(values: Float, time_ns: Int, segment: Int, horizon_ms: int, params: PairedParams) -> float:
    """Return the larger of the correlation times on a fine grid and on one as coarse as the blocks allow, seconds.

    The coarse grid shows a slow drift under fast noise.
    """
    coarse_ns = int(_CELLS_PER_HORIZON * params.block_s / params.correlation_times * NS_PER_S)
    grids = {horizon_ms * NS_PER_MS, coarse_ns}
    return max(correlation_time(values, time_ns, segment, horizon_ns=grid) for grid in grids) if len(values) else 0.0


def _without_pauses(time_ns: Int, segment: Int, longest_s: float) -> Int:
    """Number segments anew, int64 [N]; a pause of more than `longest_s` ends one too."""
    begins = (np.diff(segment, prepend=segment[:1]) != 0) | (
        np.diff(time_ns, prepend=time_ns[:1]) > longest_s * NS_PER_S
    )
    return np.asarray(np.cumsum(begins), np.int64)


def _starts(segment: Int) -> Int:
    """Return the first row of the segment of each row, int64 [N]."""
    first = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    return np.repeat(first, np.diff(np.append(first, len(segment))))


def _up_to_last_known(known: npt.NDArray[np.bool_], segment: Int) -> npt.NDArray[np.bool_]:
    """Mask the rows up to the last known one of their segment, bool [N]: later rows may yet become known."""
    later = np.zeros(len(known), bool)
    if len(known):
        edges = np.append(np.unique(_starts(segment)), len(known))
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            positions = np.flatnonzero(known[first:end])
            if len(positions):
                later[first : first + int(positions[-1]) + 1] = True
    return later


def _elapsed(time_ns: Int, segment: Int) -> Int:
    """Return the time that segments have covered up to each row, gaps left out, int64 [N]."""
    increments = np.diff(time_ns, prepend=time_ns[:1])
    increments[np.unique(_starts(segment))] = 0
    return np.asarray(np.cumsum(increments), np.int64)


def _means(
    values: Float, known: npt.NDArray[np.bool_], time_ns: Int, segment: Int, length_s: float, least: int
) -> tuple[Float, int]:
    """Average known rows over blocks; return the means and how many blocks had fewer than `least` rows."""
    if not len(values):
        return np.empty(0), 0
    length_ns = math.ceil(length_s * NS_PER_S)
    first = _starts(segment)
    within = (time_ns - time_ns[first]) // length_ns
    # A block is complete once its segment has a row of the next block.
    runs, run = np.unique(first, return_inverse=True)
    complete = np.append(runs[1:], len(values))[run] - 1
    taken = within < within[complete]
    if not taken.any():
        return np.empty(0), 0
    offset = np.cumsum(within[complete[runs]]) - within[complete[runs]]
    number, block = np.unique((offset[run] + within)[taken], return_inverse=True)
    rows = np.bincount(block, known[taken].astype(np.float64), len(number))
    sums = np.bincount(block, np.where(known, values, 0.0)[taken], len(number))
    enough = rows >= least
    return sums[enough] / rows[enough], int((~enough).sum())
