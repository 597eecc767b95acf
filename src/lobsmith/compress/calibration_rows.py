"""Real training rows on which the ranges of activations are measured: half of them around moves that matter."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.compress.runtime import Float
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNCHANGED, UNKNOWN

WARM_UP = 64
"""Rows at the start of each stream that bring the state up and are not measured."""
_PIECE = 128
_LONGEST_HORIZON_MS = 1000

_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Piece:
    """Measured rows `start` to `stop`; the `WARM_UP` rows before them belong to the same gap-free run."""

    start: int
    stop: int


def calibration_streams(dataset: Dataset, rows: npt.NDArray[np.int64], count: int, seed: int) -> list[Float]:
    """Draw gap-free streams, stratified so that rare moves are in them.

    Half of the pieces hold a significant move within a second; where there are too few of those, any change of the
    mid counts. The rest are drawn uniformly from what is left. No row is measured twice.

    Args:
        dataset: where the rows are from.
        rows: int64, rising: the training rows.
        count: rows to measure in all, besides the warm-up; fewer where there are no more.
        seed: of the draw.

    Returns:
        Streams float32 [N, F] in time order, each with `WARM_UP` rows before those that count. Where no run of
        training rows is longer than that, the runs as they are.
    """
    runs = _runs(dataset, rows)
    pieces = [
        _Piece(start, min(start + _PIECE, stop))
        for first, stop in runs
        for start in range(first + WARM_UP, stop, _PIECE)
    ]
    features = dataset.rows.features
    if not pieces:
        return [features[start:stop].copy() for start, stop in runs]
    wanted = min(-(-count // _PIECE), len(pieces))
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for flags in (_significant(dataset), _moving(dataset)):
        matters = [index for index, piece in enumerate(pieces) if flags[piece.start : piece.stop].any()]
        chosen += _draw(generator, matters, chosen, wanted // 2 - len(chosen))
    chosen += _draw(generator, range(len(pieces)), chosen, wanted - len(chosen))
    return [features[pieces[one].start - WARM_UP : pieces[one].stop].copy() for one in sorted(chosen)]


def _draw(generator: np.random.Generator, among: Any, besides: list[int], count: int) -> list[int]:
    """Draw at most `count` of `among` without those already drawn."""
    left = np.setdiff1d(np.asarray(among, np.int64), np.asarray(besides, np.int64))
    drawn = generator.choice(left, size=min(max(count, 0), len(left)), replace=False)
    return [int(one) for one in drawn]


def _runs(dataset: Dataset, rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the half-open spans of consecutive training rows of one segment."""
    if len(rows) == 0:
        return []
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(dataset.rows.segment[rows]) != 0)) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks)]


def _near(dataset: Dataset) -> list[int]:
    """Return the horizons of up to a second; the shortest one where all are longer."""
    return [h for h, horizon in enumerate(dataset.horizons_ms) if horizon <= _LONGEST_HORIZON_MS] or [0]


def _significant(dataset: Dataset) -> _Flags:
    return np.asarray((dataset.targets.significant[:, _near(dataset)] == 1).any(axis=1), np.bool_)


def _moving(dataset: Dataset) -> _Flags:
    labels = dataset.labels[:, _near(dataset)]
    return np.asarray(((labels != UNCHANGED) & (labels != UNKNOWN)).any(axis=1), np.bool_)
