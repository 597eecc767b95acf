"""Training, validation and test rows, in time order."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset
from lobsmith.params import SplitParams
from lobsmith.units import NS_PER_MS

Rows = npt.NDArray[np.int64]

LEAD_ROWS = 512
"""Rows that warm the state before the first requested one."""


@dataclass(frozen=True)
class Split:
    """Row indices, int64, rising. Rows whose label crosses a boundary are in none (purged)."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def split(dataset: Dataset, params: SplitParams) -> Split:
    """Cut a dataset's usable rows into three consecutive spans, purged and embargoed.

    Raises:
        TrainingError: a part would be empty.
    """
    usable = usable_rows(dataset)
    second = int(len(usable) * (1 - params.test))
    first = int(second * (1 - params.validation))
    return cut(dataset, usable, first, second, len(usable), params.embargo_ms)


def usable_rows(dataset: Dataset) -> Rows:
    """Return the rows with complete features and all labels, int64, rising."""
    return np.flatnonzero(dataset.usable)


def train_only(datasets: Sequence[Dataset], params: SplitParams) -> list[Split]:
    """Cut datasets into training and validation rows at common times, without test rows.

    The newest rows validate. No dataset trains on minutes that validate another.

    Raises:
        TrainingError: a part would be empty.
    """
    splits = []
    for dataset in datasets:
        usable = usable_rows(dataset)
        # `cut` requires a test row; it is dropped below.
        first = int(len(usable) * (1 - params.validation))
        parts = cut(dataset, usable, first, len(usable) - 1, len(usable), 0)
        begin = dataset.rows.time[usable[first]] + params.embargo_ms * NS_PER_MS
        validation = parts.validation[dataset.rows.time[parts.validation] >= begin]
        if len(validation) == 0:
            raise TrainingError(f"{dataset.instrument}: the embargo leaves no validation row; give more data")
        splits.append(Split(parts.train, validation, usable[:0]))
    spans = []
    for dataset, part in zip(datasets, splits, strict=True):
        time = dataset.rows.time
        spans.append((time[part.validation[0]], time[part.validation[-1]]))
    horizon = max(datasets[0].horizons_ms) * NS_PER_MS
    for number, (dataset, part) in enumerate(zip(datasets, splits, strict=True)):
        time = dataset.rows.time[part.train]
        clear = np.ones(len(time), np.bool_)
        for begin, end in spans:
            clear &= (time + horizon < begin) | (time > end)
        if not clear.any():
            raise TrainingError(f"{dataset.instrument}: all its training rows lie in minutes that validate another")
        splits[number] = Split(part.train[clear], part.validation, part.test)
    return splits


def cut(dataset: Dataset, usable: Rows, first: int, second: int, end: int, embargo_ms: int) -> Split:
    """Cut usable rows at two boundaries into training, validation and test rows (López de Prado 2018, chapter 7).

    Rows whose label crosses a boundary (purged) and rows within the embargo after it are left out.

    Args:
        usable: int64, rising.
        first: position in `usable` of the first validation row.
        second: of the first test row.
        end: after the last test row.
        embargo_ms: time left out after each boundary.

    Raises:
        TrainingError: a part would be empty.
    """
    if not 0 < first < second < end:
        raise TrainingError(f"{dataset.instrument}: {len(usable)} usable rows are too few to split; give more data")
    time = dataset.rows.time
    horizon = max(dataset.horizons_ms) * NS_PER_MS

    def between(start: int, stop: int) -> Rows:
        part = usable[start:stop]
        if start > 0:
            part = part[time[part] >= time[usable[start]] + embargo_ms * NS_PER_MS]
        if stop < end:
            part = part[time[part] + horizon < time[usable[stop]]]
        return part

    result = Split(between(0, first), between(first, second), between(second, end))
    if not (len(result.train) and len(result.validation) and len(result.test)):
        raise TrainingError(
            f"{dataset.instrument}: a part of the split has no row left after purging and the embargo; "
            f"the data is too short for its horizons"
        )
    return result


def split_beside(dataset: Dataset, first: Dataset, parts: Split, embargo_ms: int) -> Split | None:
    """Cut another dataset at the first dataset's times; None where a part is empty.

    No instrument trains on minutes that another is tested on.
    """
    time, usable = dataset.rows.time, usable_rows(dataset)
    horizon = max(dataset.horizons_ms) * NS_PER_MS
    validation_ns, test_ns = (int(first.rows.time[part[0]]) for part in (parts.validation, parts.test))
    train = usable[time[usable] + horizon < validation_ns]
    validation = usable[(time[usable] >= validation_ns + embargo_ms * NS_PER_MS) & (time[usable] + horizon < test_ns)]
    if len(train) == 0 or len(validation) == 0:
        return None
    return Split(train, validation, usable[time[usable] >= test_ns])


def runs(dataset: Dataset, rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the half-open spans of complete, gap-free rows between the first and last of `rows`."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    complete = dataset.rows.complete[start:stop]
    segment = dataset.rows.segment[start:stop]
    breaks = np.flatnonzero((np.diff(segment) != 0) | (np.diff(complete.astype(np.int8)) != 0)) + 1
    edges = [0, *breaks.tolist(), stop - start]
    return [(start + a, start + b) for a, b in itertools.pairwise(edges) if complete[a]]


def lead_runs(dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[int, list[tuple[int, int]]]:
    """Return the first warm-up row of rising rows, and the gap-free runs from there to the last."""
    first = max(int(rows[0]) - LEAD_ROWS, 0)
    return first, runs(dataset, np.asarray([first, int(rows[-1])]))


def longest_run(dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the longest of the `runs`."""
    return max(runs(dataset, rows), key=lambda span: span[1] - span[0])
