"""The reference window: thinned raw rows of one instrument, and their scaling."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lobsmith.errors import DataError
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT
from lobsmith.files import write_atomic
from lobsmith.params import DriftParams
from lobsmith.units import NS_PER_MS

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
_NORMAL_IQR = 1.349
"""Interquartile range of the standard normal distribution."""
_LEAST = 0.05
"""Least scale as a share of the centre: a spread of one tick, in basis points, moves with the price."""
_DTYPES = {"time_ns": np.int64, "segment": np.int64, "raw": np.float32}


@dataclass(frozen=True)
class RawRows:
    """Complete rows in the order of time, at most one in each `drift.every_ms`.

    Attributes:
        time_ns: int64 [N], local receive time, UTC.
        segment: int64 [N], another number for each gap-free run.
        raw: float32 [N, F], features in their own units, before any z-score.
    """

    time_ns: Int64
    segment: Int64
    raw: Float32

    def __len__(self) -> int:
        return len(self.time_ns)

    def slice(self, start: int, stop: int) -> "RawRows":
        """Return rows `start` to `stop` as views."""
        return RawRows(self.time_ns[start:stop], self.segment[start:stop], self.raw[start:stop])

    def between(self, from_ns: int, until_ns: int) -> "RawRows":
        """Return the rows received from `from_ns` on and before `until_ns`, as views."""
        start, stop = np.searchsorted(self.time_ns, (from_ns, until_ns))
        return self.slice(int(start), int(stop))

    def newest(self, length_ns: int) -> "RawRows":
        """Return the rows of the newest `length_ns`, as views."""
        last = int(self.time_ns[-1]) if len(self) else 0
        return self.between(last + 1 - length_ns, last + 1)


def thinned(time_ns: Int64, every_ms: int) -> npt.NDArray[np.intp]:
    """Return the places of the first row in each interval of `every_ms` of receive time, aligned to 1970.

    Args:
        time_ns: int64 [N], never decreasing.
    """
    intervals = time_ns // (every_ms * NS_PER_MS)
    return np.flatnonzero(np.diff(intervals, prepend=-1) != 0)


def joined(reference: RawRows, current: RawRows) -> RawRows:
    """Join rows of a training window and of the log in the order of time; where they overlap, the former are kept."""
    if not len(reference) or not len(current):
        return reference if len(reference) else current
    earlier = current.between(int(current.time_ns[0]), int(reference.time_ns[0]))
    later = current.between(int(reference.time_ns[-1]) + 1, int(current.time_ns[-1]) + 1)
    parts = (earlier, reference, later)
    lengths = [len(part) for part in parts]
    # Segment numbers are local to a part: equal numbers of two parts must not join across a gap.
    own = np.concatenate([part.segment for part in parts])
    breaks = (np.diff(own, prepend=own[:1]) != 0) | (np.isin(np.arange(len(own)), np.cumsum(lengths)[:-1]))
    return RawRows(
        np.concatenate([part.time_ns for part in parts]),
        np.cumsum(breaks, dtype=np.int64),
        np.concatenate([part.raw for part in parts]),
    )


class Scaling(NamedTuple):
    """Centre and scale of each feature, float32 [F]; no scale is 0."""

    centre: Float32
    scale: Float32

    def apply(self, raw: Float32) -> Float32:
        """Return raw rows, float32 [..., F], in deviations from the centre."""
        scaled: Float32 = (raw - self.centre) / self.scale
        return scaled


def fit_scaling(raw: Float32) -> Scaling:
    """Fit medians and scales to rows, float32 [N, F], N >= 1, finite.

    A scale is the largest of the normalised interquartile range, the standard deviation and a twentieth of the centre
    (the range of a one-tick spread in basis points shows only the price's moves); 1 where all rows are 0.
    """
    low, centre, high = np.quantile(raw, (0.25, 0.5, 0.75), axis=0)
    spread, deviation = (high - low) / _NORMAL_IQR, raw.std(axis=0, dtype=np.float64)
    scale = np.maximum(np.maximum(spread, deviation), _LEAST * np.abs(centre))
    scale[scale == 0] = 1.0
    return Scaling(centre.astype(np.float32), scale.astype(np.float32))


@dataclass(frozen=True)
class Reference:
    """A version's reference window.

    Attributes:
        rows: of each instrument, `venue:symbol`, trained on.
        scaling: of all of them together.
        every_ms: thinning interval; recent rows are thinned alike.
    """

    rows: dict[str, RawRows]
    scaling: Scaling
    every_ms: int


class _About(Struct, frozen=True, forbid_unknown_fields=True):
    instruments: tuple[str, ...]
    every_ms: int


def freeze(datasets: Iterable[Dataset], params: DriftParams) -> Reference:
    """Take the complete rows of the datasets that a network is trained on.

    Raises:
        DataError: a dataset has no complete row, or a row that is not finite.
    """
    rows = {str(dataset.instrument): _raw_rows(dataset, params.every_ms) for dataset in datasets}
    if not rows:
        raise DataError("no dataset to take a reference of; run the features stage first")
    return Reference(rows, fit_scaling(np.concatenate([raw_rows.raw for raw_rows in rows.values()])), params.every_ms)


def _raw_rows(dataset: Dataset, every_ms: int) -> RawRows:
    rows = dataset.rows
    complete = np.flatnonzero(rows.complete)
    places = complete[thinned(rows.time[complete], every_ms)]
    thin = RawRows(rows.time[places], rows.segment[places], rows.raw[places])
    if not len(thin):
        raise DataError(f"{dataset.instrument}: no complete row to take a reference of; give more data")
    if not np.isfinite(thin.raw).all():
        raise DataError(f"{dataset.instrument}: complete rows that are not finite; run the features stage again")
    return thin


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference as safetensors, atomically; the same reference gives the same bytes."""
    arrays = {"centre": reference.scaling.centre, "scale": reference.scaling.scale}
    for number, rows in enumerate(reference.rows.values()):
        arrays |= {f"{field.name}.{number}": getattr(rows, field.name) for field in fields(rows)}
    # One entry: safetensors writes several in a varying order.
    about = msgspec.json.encode(_About(tuple(reference.rows), reference.every_ms)).decode()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomic(path, save(contiguous, {"lobsmith": about}))


def load_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        DataError: the file is missing, is not a reference, or has other features.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = msgspec.json.decode((file.metadata() or {})["lobsmith"], type=_About)
            rows = {
                name: RawRows(**{column: file.get_tensor(f"{column}.{number}") for column in _DTYPES})
                for number, name in enumerate(about.instruments)
            }
            reference = Reference(rows, Scaling(file.get_tensor("centre"), file.get_tensor("scale")), about.every_ms)
        _check(reference)
    except (OSError, SafetensorError, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise DataError(
            f"{path}: not a reference of these {COUNT} features: {error}; train anew, or restore the version's files"
        ) from error
    return reference


def _check(reference: Reference) -> None:
    if not reference.rows or reference.every_ms < 1:
        raise ValueError("no instrument, or no time between its rows")
    for name, array in reference.scaling._asdict().items():
        if array.shape != (COUNT,) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{name} has the shape {array.shape} and the type {array.dtype}, or is not finite")
    if not (reference.scaling.scale > 0).all():
        raise ValueError("a scale is not positive")
    for instrument, rows in reference.rows.items():
        shapes = {"time_ns": (len(rows),), "segment": (len(rows),), "raw": (len(rows), COUNT)}
        for name, shape in shapes.items():
            array = getattr(rows, name)
            if array.shape != shape or array.dtype != _DTYPES[name]:
                raise ValueError(f"{instrument}: {name} has the shape {array.shape} and the type {array.dtype}")
        if not len(rows) or not np.isfinite(rows.raw).all() or (np.diff(rows.time_ns) < 0).any():
            raise ValueError(f"{instrument}: no row, a row that is not finite, or times that go back")
