"""Data sets: rows with labels."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lobsmith.errors import DataError, ThinWindowError
from lobsmith.features.definitions import definitions_sha256
from lobsmith.features.labels import UNKNOWN, Targets, direction_labels, targets
from lobsmith.features.stream import FeatureStream, Rows
from lobsmith.files import write_atomic
from lobsmith.market.events import Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.session import Fingerprint, Session
from lobsmith.params import Params, WindowParams
from lobsmith.units import NS_PER_S

DATASET = "dataset.safetensors"
FEATURES = "features"
"""Folder of all instruments' datasets."""
_TARGETS = tuple(field.name for field in fields(Targets))
_ARRAYS = ("raw", "features", "time", "mid", "segment", "complete")


@dataclass(frozen=True)
class Dataset:
    """Rows of one instrument and their labels.

    `labels` is int8 [N, H]: 0 down, 1 unchanged, 2 up, -1 unknown.
    """

    instrument: Instrument
    rows: Rows
    labels: npt.NDArray[np.int8]
    targets: Targets
    horizons_ms: tuple[int, ...]
    data_fingerprint: str
    definitions_sha256: str

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """bool [N]: features complete and all labels known."""
        known: npt.NDArray[np.bool_] = self.rows.complete & (self.labels != UNKNOWN).all(axis=1)
        return known


class _About(Struct, frozen=True, forbid_unknown_fields=True):
    """A saved dataset's metadata."""

    instrument: Instrument
    horizons_ms: tuple[int, ...]
    data_fingerprint: str
    definitions_sha256: str


def build_dataset(session: Session, params: Params) -> Dataset:
    """Compute features and labels of a session."""
    return dataset_of(session.instrument, [session.events], params)


def dataset_of(instrument: Instrument, parts: Iterable[Events], params: Params) -> Dataset:
    """Compute features and labels part by part; drop rows older than the training window."""
    stream = FeatureStream(instrument, params.features)
    whole = Fingerprint(instrument)
    kept: list[Rows] = []
    for events in parts:
        whole.update(events)
        kept.append(stream.push(events))
        newest = next((block.time[-1] for block in reversed(kept) if len(block)), 0)
        while len(kept) > 1 and (not len(kept[0]) or kept[0].time[-1] < newest - _length_ns(params.window)):
            kept.pop(0)
    rows = Rows.concatenate(kept)
    return Dataset(
        instrument,
        rows,
        direction_labels(rows.time, rows.mid, rows.segment, params.labels.horizons_ms),
        targets(rows.time, rows.mid, rows.segment, rows.raw, params.labels),
        params.labels.horizons_ms,
        whole.hexdigest(),
        definitions_sha256(params.features, params.labels),
    )


def _length_ns(window: WindowParams) -> int:
    return int(window.length_s * NS_PER_S)


def training_window(dataset: Dataset, params: WindowParams) -> Dataset:
    """Return the newest rows, for a retrain.

    Raises:
        ThinWindowError: gap-free segments cover too little of the window, or too few rows are usable.
    """
    rows = dataset.rows
    if len(rows) == 0:
        raise ThinWindowError(f"{dataset.instrument}: no row at all; the data has no change of the touch")
    start = int(np.searchsorted(rows.time, rows.time[-1] - _length_ns(params)))
    window = Dataset(
        dataset.instrument,
        rows.slice(start, len(rows)),
        dataset.labels[start:],
        dataset.targets.slice(start, len(rows)),
        dataset.horizons_ms,
        dataset.data_fingerprint,
        dataset.definitions_sha256,
    )
    coverage = covered_seconds(window.rows) / params.length_s
    if coverage < params.minimum_coverage:
        raise ThinWindowError(
            f"{dataset.instrument}: gap-free data covers {coverage:.1%} of the newest {params.length_s:g} s, less than "
            f"window.minimum_coverage = {params.minimum_coverage:.1%}; give more data or change window.length_s"
        )
    usable = int(window.usable.sum())
    if usable < params.minimum_rows:
        raise ThinWindowError(
            f"{dataset.instrument}: {usable} rows with features and labels in the newest {params.length_s:g} s, fewer "
            f"than window.minimum_rows = {params.minimum_rows}; give more data or change the parameter"
        )
    return window


def covered_seconds(rows: Rows) -> float:
    """Return the seconds inside gap-free segments."""
    if len(rows) == 0:
        return 0.0
    inside = np.diff(rows.time)[np.diff(rows.segment) == 0]
    return float(inside.sum() / NS_PER_S)


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset as safetensors, atomically."""
    arrays = {name: np.ascontiguousarray(getattr(dataset.rows, name)) for name in _ARRAYS}
    about = _About(dataset.instrument, dataset.horizons_ms, dataset.data_fingerprint, dataset.definitions_sha256)
    # One entry: safetensors does not order several.
    metadata = {"lobsmith": msgspec.json.encode(about).decode()}
    arrays |= {name: np.ascontiguousarray(getattr(dataset.targets, name)) for name in _TARGETS}
    write_atomic(path, save({**arrays, "labels": np.ascontiguousarray(dataset.labels)}, metadata))


def load_dataset(path: Path) -> Dataset:
    """Read a dataset.

    Raises:
        DataError: the file is missing or is not a dataset.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = msgspec.json.decode((file.metadata() or {})["lobsmith"], type=_About)
            arrays = {name: file.get_tensor(name) for name in (*_ARRAYS, *_TARGETS, "labels")}
        return Dataset(
            about.instrument,
            Rows(**{name: arrays[name] for name in _ARRAYS}),
            arrays["labels"],
            Targets(**{name: arrays[name] for name in _TARGETS}),
            about.horizons_ms,
            about.data_fingerprint,
            about.definitions_sha256,
        )
    except (OSError, SafetensorError, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not a dataset: {error}; run the features stage again") from error


def training_datasets(params: Params, directory: Path) -> list[Path]:
    """Return a run's dataset files to train on: the chosen one, with `train.pool` also all others."""
    chosen = directory / DATASET
    if not params.train.pool:
        return [chosen]
    return [chosen, *other_datasets(directory)]


def other_datasets(directory: Path) -> list[Path]:
    """Return a run's dataset files but the chosen one."""
    instrument = load_dataset(directory / DATASET).instrument
    return [path for path in sorted((directory / FEATURES).glob("*.safetensors")) if path.stem != file_stem(instrument)]


def file_stem(instrument: Instrument) -> str:
    """Return an instrument's name in file names."""
    return str(instrument).replace(":", "-")
