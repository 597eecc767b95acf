"""Intervals of figures whose rows depend on each other: correlation time, blocks, block bootstrap.

Bursts and overlapping labels correlate rows, so blocks are resampled that are longer than labels and correlation time.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.results import Interval
from lobsmith.units import NS_PER_MS, NS_PER_S

DRAWS = 2000
_FINEST_GRID_NS = 25 * NS_PER_MS
_CELLS_PER_HORIZON = 4
_SMALL = 0.05
"""Autocorrelation that counts as none."""
_IN_A_ROW = 5
"""Lags, of one grid cell each, that must all be small (Politis & White 2004)."""
_MINIMUM_PAIRS = 30
"""Pairs of cells below which a lag is passed over."""
_LONGEST = 0.1
"""Cap of a correlation time, as a share of the total span."""
_ROUNDING = 1e-24
"""Share of a series' sum of squares below which its variation is rounding."""
_GAUSSIAN = 1.959963984540054
"""97.5th percentile of a standard Gaussian."""
_GATHERED = 4_000_000
"""Numbers that a bootstrap holds in memory."""

Draws = npt.NDArray[np.float64]


def _segments(segment: npt.NDArray[np.int64]) -> list[slice]:
    """Return the runs of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(segment)) + 1).tolist(), len(segment)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]


def grid_spacing(horizon_ns: int) -> int:
    """Return the spacing of the grid that losses are correlated on, ns: a quarter of the horizon, at least 25 ms."""
    return max(horizon_ns // _CELLS_PER_HORIZON, _FINEST_GRID_NS)


def correlation_time(
    values: npt.NDArray[np.floating[Any]],
    time_ns: npt.NDArray[np.int64],
    segment: npt.NDArray[np.int64],
    *,
    horizon_ns: int,
) -> float:
    """Return how long a series stays correlated with itself, seconds.

    Values are averaged in the cells of a grid of `grid_spacing`; the autocorrelation at a lag is over pairs of
    non-empty cells of one segment. The result is the first lag from which on it stays below max(0.05, 2 / sqrt(pairs))
    for five lags in a row (Politis & White 2004), passing over lags with fewer than 30 pairs; a tenth of the segments'
    total span where that is less, or where there is no such lag.

    Args:
        values: float [N], a loss for each row, say.
        time_ns: int64 [N], never decreasing within a segment.
        segment: int64 [N], constant over each gap-free run.
        horizon_ns: of the labels.
    """
    spacing = grid_spacing(horizon_ns)
    runs = _segments(segment)
    longest = _LONGEST * sum(int(time_ns[run][-1] - time_ns[run][0]) for run in runs)
    cap = max(1, int(longest // spacing))
    lags = cap + _IN_A_ROW
    centred = values - values.mean() if len(values) else values
    products, pairs = np.zeros(lags), np.zeros(lags)
    for run in runs:
        cell = (time_ns[run] - time_ns[run][0]) // spacing
        rows = np.bincount(cell).astype(np.float64)
        means = np.bincount(cell, centred[run]) / np.maximum(rows, 1.0)
        reach = min(lags, len(rows))
        products[:reach] += _lagged(means)[:reach]
        pairs[:reach] += np.rint(_lagged((rows > 0).astype(np.float64))[:reach])
    if products[0] <= _ROUNDING * float(values @ values):
        return min(spacing, longest) / NS_PER_S
    counted = np.flatnonzero(pairs[1:] >= _MINIMUM_PAIRS) + 1
    correlation = (products[counted] / pairs[counted]) / (products[0] / pairs[0])
    small = np.abs(correlation) < np.maximum(_SMALL, 2 / np.sqrt(pairs[counted]))
    stays_small = np.convolve(small, np.ones(_IN_A_ROW), "valid") == _IN_A_ROW if len(small) >= _IN_A_ROW else small[:0]
    first = int(counted[np.argmax(stays_small)]) if stays_small.any() else cap
    return min(first * spacing, longest) / NS_PER_S


def _lagged(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums of products of a series with itself at each lag, float64 [N]."""
    size = 1 << (2 * len(values) - 1).bit_length()
    power = np.abs(np.fft.rfft(values, size)) ** 2
    return np.asarray(np.fft.irfft(power, size)[: len(values)], np.float64)


def block_length(correlation_s: float, horizon_ns: int, minimum_s: float) -> float:
    """Return the length of blocks, seconds: one grid cell longer than horizon and correlation time, or the minimum."""
    longest = max(correlation_s, horizon_ns / NS_PER_S) + grid_spacing(horizon_ns) / NS_PER_S
    return max(longest, minimum_s)


def blocks(time_ns: npt.NDArray[np.int64], segment: npt.NDArray[np.int64], length_s: float) -> npt.NDArray[np.int64]:
    """Assign rows to consecutive blocks of time; return int64 [N], rising from 0 without a hole.

    Each segment is cut into as many equal blocks as can be `length_s` or longer; a shorter segment is one block.

    Args:
        time_ns: int64 [N], never decreasing within a segment.
        segment: int64 [N].
        length_s: least length, seconds.
    """
    number = np.empty(len(time_ns), np.int64)
    first = 0
    for run in _segments(segment):
        since = time_ns[run] - time_ns[run][0]
        count = max(1, int(since[-1] // (length_s * NS_PER_S)))
        width = max(since[-1] / count, 1.0)
        number[run] = first + np.minimum(since // width, count - 1).astype(np.int64)
        first += count
    return np.asarray(np.unique(number, return_inverse=True)[1], np.int64)


def apart(time_ns: npt.NDArray[np.int64], segment: npt.NDArray[np.int64], length_ns: int) -> npt.NDArray[np.int64]:
    """Return indices of the most rows whose windows of `length_ns` do not overlap; each segment's first row is taken.

    `time_ns` and `segment` are int64 [N], time never decreasing within a segment.
    """
    taken: list[int] = []
    free, last = 0, None
    for index, (now, part) in enumerate(zip(time_ns.tolist(), segment.tolist(), strict=True)):
        if part != last or now >= free:
            taken.append(index)
            free, last = now + length_ns, part
    return np.array(taken, np.int64)


def run_length(count: int) -> int:
    """Return how many consecutive blocks are drawn together: the root of half their number.

    Losses keep a weak correlation beyond the measured time; runs hold it too.
    """
    return max(1, math.isqrt(count // 2))


def widening(count: int, run: int) -> float:
    """Return the factor by which a percentile interval from few runs of blocks is too narrow.

    The variance of M = count / run drawn runs is M / (M - 1) times too small and follows Student's t of M - 1 degrees
    of freedom, whose quantile is expanded about the Gaussian one (Abramowitz & Stegun 26.7.5).
    """
    runs = count / min(run, count)
    if runs < 2:
        return 1.0
    z, free = _GAUSSIAN, runs - 1
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    student = sum(term / free**power for power, term in enumerate(terms))
    return float(student / z * math.sqrt(runs / free))


def bootstrap_sums(
    sums: npt.NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0, run: int | None = None
) -> Draws:
    """Draw as many blocks as there are, with replacement, and add up their sums, float64 [D, K].

    Circular block bootstrap (Politis & Romano 1992): runs of consecutive blocks are drawn together, the first follows
    the last.

    Args:
        sums: float64 [B, K], what is added up over each block, in the order of time.
        draws: D.
        seed: the same seed and number of blocks draw the same blocks.
        run: consecutive blocks drawn together; None takes `run_length`.
    """
    count, columns = sums.shape
    run = run_length(count) if run is None else min(run, count)
    generator = np.random.default_rng(seed)
    lengths = np.full(-(-count // run), run)
    lengths[-1] = count - run * (len(lengths) - 1)
    upto = np.zeros((count + run + 1, columns))
    np.cumsum(np.concatenate([sums, sums[:run]]), axis=0, out=upto[1:])
    result = np.empty((draws, columns))
    chunk = max(1, _GATHERED // (len(lengths) * columns))
    for start in range(0, draws, chunk):
        part = result[start : start + chunk]
        begin = generator.integers(0, count, (len(part), len(lengths)))
        np.sum(upto[begin + lengths] - upto[begin], axis=1, out=part)
    return result


def bootstrap_intervals(
    sums: npt.NDArray[np.float64],
    statistic: Callable[[Draws], Draws],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    run: int | None = None,
) -> list[Interval]:
    """Return statistics of sums over all blocks, each with its 95 % interval.

    The interval is from the 2.5th to the 97.5th percentile of the draws, each end moved away from the value by
    `widening`; a single block gives no width. Statistics of one call share their draws, so that differences are paired.

    Args:
        sums: float64 [B, K].
        statistic: from sums [D, K] to S statistics of each draw, [D, S].
        draws, seed, run: as for `bootstrap_sums`.
    """
    values = statistic(sums.sum(axis=0, keepdims=True))[0]
    drawn = statistic(bootstrap_sums(sums, draws=draws, seed=seed, run=run))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    wider = widening(len(sums), run_length(len(sums)) if run is None else run)
    low, high = values + wider * (low - values), values + wider * (high - values)
    return [Interval(float(value), float(a), float(b)) for value, a, b in zip(values, low, high, strict=True)]


def block_sums(columns: npt.NDArray[np.float64], block: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Add up columns float64 [N, K] over blocks int64 [N] numbered from 0, float64 [B, K]."""
    count = int(block[-1]) + 1
    return np.stack([np.bincount(block, column, count) for column in columns.T], axis=1)
