"""Training, validation and test rows, in time order."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset
from lobsmith.params import SplitParams

_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Split:
    """Indices of rows, int64, rising. The rows whose label looks across a boundary are in no part (purged)."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def split(dataset: Dataset, params: SplitParams) -> Split:
    """Cut a dataset's usable rows into three consecutive spans.

    Raises:
        TrainingError: a part would be empty.
    """
    usable = np.flatnonzero(dataset.usable)
    first = int(len(usable) * (1 - params.validation - params.test))
    second = int(len(usable) * (1 - params.test))
    if first == 0 or first == second or second == len(usable):
        raise TrainingError(f"{dataset.instrument}: {len(usable)} usable rows are too few to split; give more data")
    time = dataset.rows.time
    horizon = max(dataset.horizons_ms) * _NS_PER_MS

    def purged(part: npt.NDArray[np.int64], boundary: int) -> npt.NDArray[np.int64]:
        kept: npt.NDArray[np.int64] = part[time[part] + horizon < time[usable[boundary]]]
        return kept

    result = Split(purged(usable[:first], first), purged(usable[first:second], second), usable[second:])
    if len(result.train) == 0 or len(result.validation) == 0:
        raise TrainingError(
            f"{dataset.instrument}: no row is left before a boundary of the split once labels that look across it are "
            f"purged; the data is shorter than the horizons"
        )
    return result


def runs(dataset: Dataset, rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the half-open spans of complete rows without a gap that lie between the first and last of `rows`."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    complete = dataset.rows.complete[start:stop]
    segment = dataset.rows.segment[start:stop]
    breaks = np.flatnonzero((np.diff(segment) != 0) | (np.diff(complete.astype(np.int8)) != 0)) + 1
    edges = [0, *breaks.tolist(), stop - start]
    return [(start + a, start + b) for a, b in itertools.pairwise(edges) if complete[a]]


def longest_run(dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the longest of the `runs`."""
    return max(runs(dataset, rows), key=lambda span: span[1] - span[0])
