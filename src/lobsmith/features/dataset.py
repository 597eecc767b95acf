"""What a model learns from: the rows of a training window with their labels."""

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lobsmith.errors import DataError, ThinWindowError
from lobsmith.features.definitions import definitions_sha256
from lobsmith.features.labels import UNKNOWN, direction_labels
from lobsmith.features.stream import FeatureStream, Rows
from lobsmith.files import write_atomic
from lobsmith.market.instrument import Instrument
from lobsmith.market.session import Session, fingerprint, load_session
from lobsmith.params import LabelParams, Params, WindowParams

_NS_PER_S = 1e9
DATASET = "dataset.safetensors"
_ARRAYS = ("raw", "features", "time", "mid", "segment", "complete")


@dataclass(frozen=True)
class Dataset:
    """Rows of one instrument and their labels.

    `labels` is int8 [N, H]: 0 down, 1 unchanged, 2 up, -1 unknown.
    """

    instrument: Instrument
    rows: Rows
    labels: npt.NDArray[np.int8]
    horizons_ms: tuple[int, ...]
    data_fingerprint: str
    definitions_sha256: str

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """bool [N]: the feature vector is complete and every label is known."""
        known: npt.NDArray[np.bool_] = self.rows.complete & (self.labels != UNKNOWN).all(axis=1)
        return known


def build_dataset(session: Session, params: Params) -> Dataset:
    """Compute features and labels of a whole session."""
    rows = FeatureStream(session.instrument, params.features).push(session.events)
    return Dataset(
        session.instrument,
        rows,
        _labels(rows, params.labels),
        params.labels.horizons_ms,
        fingerprint(session),
        definitions_sha256(params.features, params.labels),
    )


def _labels(rows: Rows, params: LabelParams) -> npt.NDArray[np.int8]:
    return direction_labels(rows.time, rows.mid, rows.segment, params.horizons_ms)


def training_window(dataset: Dataset, params: WindowParams) -> Dataset:
    """Return the newest rows that a retrain learns from.

    Raises:
        ThinWindowError: gap-free segments cover too little of the window, or it holds too few usable rows.
    """
    rows = dataset.rows
    if len(rows) == 0:
        raise ThinWindowError(f"{dataset.instrument}: no row at all; the data has no change of the touch")
    start = int(np.searchsorted(rows.time, rows.time[-1] - int(params.length_s * _NS_PER_S)))
    window = Dataset(
        dataset.instrument,
        rows.slice(start, len(rows)),
        dataset.labels[start:],
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
    """Return the time that lies inside gap-free segments, seconds."""
    if len(rows) == 0:
        return 0.0
    inside = np.diff(rows.time)[np.diff(rows.segment) == 0]
    return float(inside.sum() / _NS_PER_S)


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset as safetensors, whole or not at all."""
    arrays = {name: np.ascontiguousarray(getattr(dataset.rows, name)) for name in _ARRAYS}
    metadata = {
        "instrument": msgspec.json.encode(dataset.instrument).decode(),
        "horizons_ms": json.dumps(dataset.horizons_ms),
        "data_fingerprint": dataset.data_fingerprint,
        "definitions_sha256": dataset.definitions_sha256,
    }
    write_atomic(path, save({**arrays, "labels": dataset.labels}, metadata))


def load_dataset(path: Path) -> Dataset:
    """Read a dataset.

    Raises:
        DataError: the file is missing or is not a dataset.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in (*_ARRAYS, "labels")}
        return Dataset(
            msgspec.json.decode(metadata["instrument"], type=Instrument),
            Rows(**{name: arrays[name] for name in _ARRAYS}),
            arrays["labels"],
            tuple(json.loads(metadata["horizons_ms"])),
            metadata["data_fingerprint"],
            metadata["definitions_sha256"],
        )
    except (OSError, SafetensorError, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not a dataset: {error}; run the features stage again") from error


def build_features(params: Params, session_path: Path, destination: Path) -> Dataset:
    """Compute, window and save a dataset: the features stage."""
    dataset = training_window(build_dataset(load_session(session_path), params), params.window)
    save_dataset(dataset, destination)
    return dataset
