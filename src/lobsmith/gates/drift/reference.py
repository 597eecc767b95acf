"""The training window as drift is told by: its thinned raw rows, and the constants that they are scaled by."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lobsmith.errors import DataError
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT
from lobsmith.files import write_atomic
from lobsmith.gates.drift.rows import RawRows, thinned
from lobsmith.gates.drift.scaling import Scaling, fit_scaling
from lobsmith.params import DriftParams

_DTYPES = {"time_ns": np.int64, "segment": np.int64, "raw": np.float32}


@dataclass(frozen=True)
class Reference:
    """What a version has learnt from, as drift is told by.

    Attributes:
        rows: those of each instrument, `venue:symbol`, that was trained on.
        scaling: of all of them together.
        every_ms: at most one row in each slot of so long; recent rows are thinned alike.
    """

    rows: dict[str, RawRows]
    scaling: Scaling
    every_ms: int


class _About(Struct, frozen=True, forbid_unknown_fields=True):
    """A saved reference's metadata."""

    instruments: tuple[str, ...]
    every_ms: int


def freeze(datasets: Iterable[Dataset], params: DriftParams) -> Reference:
    """Take the complete rows of the datasets that a network is trained on.

    Raises:
        DataError: a dataset has no complete row, or one that is not finite.
    """
    rows = {str(one.instrument): _raw_rows(one, params.every_ms) for one in datasets}
    if not rows:
        raise DataError("no dataset to take a reference of; run the features stage first")
    return Reference(rows, fit_scaling(np.concatenate([one.raw for one in rows.values()])), params.every_ms)


def _raw_rows(dataset: Dataset, every_ms: int) -> RawRows:
    rows = dataset.rows
    complete = np.flatnonzero(rows.complete)
    places = complete[thinned(rows.time[complete], every_ms)]
    found = RawRows(rows.time[places], rows.segment[places], rows.raw[places])
    if not len(found):
        raise DataError(f"{dataset.instrument}: no complete row to take a reference of; give more data")
    if not np.isfinite(found.raw).all():
        raise DataError(f"{dataset.instrument}: complete rows that are not finite; run the features stage again")
    return found


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference as safetensors, whole or not at all; the same reference gives the same bytes."""
    arrays = {"centre": reference.scaling.centre, "scale": reference.scaling.scale}
    for number, rows in enumerate(reference.rows.values()):
        arrays |= {f"{field.name}.{number}": getattr(rows, field.name) for field in fields(rows)}
    # One entry: safetensors writes several in an order that differs from run to run.
    about = msgspec.json.encode(_About(tuple(reference.rows), reference.every_ms)).decode()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomic(path, save(contiguous, {"lobsmith": about}))


def load_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        DataError: the file is missing, is not a reference, or is one of other features.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = msgspec.json.decode((file.metadata() or {})["lobsmith"], type=_About)
            rows = {
                name: RawRows(**{column: file.get_tensor(f"{column}.{number}") for column in _DTYPES})
                for number, name in enumerate(about.instruments)
            }
            found = Reference(rows, Scaling(file.get_tensor("centre"), file.get_tensor("scale")), about.every_ms)
        _check(found)
    except (OSError, SafetensorError, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise DataError(
            f"{path}: not a reference of these {COUNT} features: {error}; train anew, or restore the version's files"
        ) from error
    return found


def _check(found: Reference) -> None:
    if not found.rows or found.every_ms < 1:
        raise ValueError("no instrument, or no time between its rows")
    for name, array in found.scaling._asdict().items():
        if array.shape != (COUNT,) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{name} has the shape {array.shape} and the type {array.dtype}, or is not finite")
    if not (found.scaling.scale > 0).all():
        raise ValueError("a scale is not positive")
    for instrument, rows in found.rows.items():
        shapes = {"time_ns": (len(rows),), "segment": (len(rows),), "raw": (len(rows), COUNT)}
        for name, shape in shapes.items():
            array = getattr(rows, name)
            if array.shape != shape or array.dtype != _DTYPES[name]:
                raise ValueError(f"{instrument}: {name} has the shape {array.shape} and the type {array.dtype}")
        if not len(rows) or not np.isfinite(rows.raw).all() or (np.diff(rows.time_ns) < 0).any():
            raise ValueError(f"{instrument}: no row, a row that is not finite, or times that go back")
