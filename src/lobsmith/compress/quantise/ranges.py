"""Int8 ranges of activations, measured on training rows with the state carried."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lobsmith.compress.runtime import Float
from lobsmith.errors import PrecisionError
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNCHANGED, UNKNOWN
from lobsmith.params import CompressParams

WARM_UP = 64
"""Unmeasured rows at the start of each stream, which warm the state."""
_PIECE = 128
_LONGEST_HORIZON_MS = 1000
_Flags = npt.NDArray[np.bool_]
_CHUNK = 64
_BINS = 8192
_ENTROPY_BINS = 512
"""Bins of the entropy method, whose time is quadratic in them."""
_ENTROPY_LEVELS = 128
_UNUSED_RANGE = 1.0
"""Of an all-zero tensor: any range represents it."""


@dataclass(frozen=True)
class _Piece:
    """Measured rows `start` to `stop`; the `WARM_UP` rows before are in the same gap-free run."""

    start: int
    stop: int


def calibration_streams(dataset: Dataset, rows: npt.NDArray[np.int64], count: int, seed: int) -> list[Float]:
    """Sample gap-free streams, stratified by rare moves; no row is measured twice.

    Half of the pieces hold a significant move within a second or, where those run out, any change of the mid.

    Args:
        rows: int64, rising: the training rows.
        count: rows to measure in all, besides the warm-up; fewer where there are no more.

    Returns:
        Streams float32 [N, F] in time order, each after `WARM_UP` rows; the runs themselves where none is longer.
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
    total = min(-(-count // _PIECE), len(pieces))
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for flags in (_significant(dataset), _moving(dataset)):
        flagged = [index for index, piece in enumerate(pieces) if flags[piece.start : piece.stop].any()]
        chosen += _draw(generator, flagged, chosen, total // 2 - len(chosen))
    chosen += _draw(generator, range(len(pieces)), chosen, total - len(chosen))
    return [features[pieces[index].start - WARM_UP : pieces[index].stop].copy() for index in sorted(chosen)]


def _draw(generator: np.random.Generator, among: Any, besides: list[int], count: int) -> list[int]:
    remaining = np.setdiff1d(np.asarray(among, np.int64), np.asarray(besides, np.int64))
    sample = generator.choice(remaining, size=min(max(count, 0), len(remaining)), replace=False)
    return [int(index) for index in sample]


def _runs(dataset: Dataset, rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the half-open spans of consecutive training rows of one segment."""
    if len(rows) == 0:
        return []
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(dataset.rows.segment[rows]) != 0)) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks)]


def _near(dataset: Dataset) -> list[int]:
    """Return the horizons of up to a second; the first where all are longer."""
    return [h for h, horizon in enumerate(dataset.horizons_ms) if horizon <= _LONGEST_HORIZON_MS] or [0]


def _significant(dataset: Dataset) -> _Flags:
    return np.asarray((dataset.targets.significant[:, _near(dataset)] == 1).any(axis=1), np.bool_)


def _moving(dataset: Dataset) -> _Flags:
    labels = dataset.labels[:, _near(dataset)]
    return np.asarray(((labels != UNCHANGED) & (labels != UNKNOWN)).any(axis=1), np.bool_)


def activation_ranges(
    model: Any, tensors: Sequence[str], streams: Sequence[Float], settings: CompressParams
) -> dict[str, float]:
    """Return the magnitude at which each tensor is clipped.

    Args:
        model: the float32 graph, an `onnx.ModelProto`.
        tensors: names of the activations.
        streams: float32 [N, F]; their first `WARM_UP` rows, or half of a short one, only warm the state. At most
            `settings.calibration_rows` rows are measured, rounded up to a chunk.

    Raises:
        PrecisionError: no rows, a wrong number of features, or features or activations that are not finite.
    """
    session = _session(model, tensors)
    _check(streams, _width(session, "features"))
    largest = dict.fromkeys(tensors, 0.0)
    for values in _activations(session, tensors, streams, settings.calibration_rows):
        for name, value in values.items():
            # Python's max would drop a NaN.
            largest[name] = float(np.maximum(largest[name], np.abs(value).max(initial=0.0)))
    for name, limit in largest.items():
        if not np.isfinite(limit):
            raise PrecisionError(f"int8_static: {name} is not finite on the calibration rows; train the model again")
    counts = {name: np.zeros(_BINS, np.int64) for name in tensors}
    for values in _activations(session, tensors, streams, settings.calibration_rows):
        for name, value in values.items():
            if largest[name] > 0:
                counts[name] += np.histogram(np.abs(value), bins=_BINS, range=(0.0, largest[name]))[0]
    return {
        name: _threshold(counts[name], largest[name], settings) if largest[name] > 0 else _UNUSED_RANGE
        for name in tensors
    }


def _session(model: Any, tensors: Sequence[str]) -> Any:
    import onnxruntime

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _width(session: Any, name: str) -> int:
    (width,) = [int(tensor.shape[-1]) for tensor in session.get_inputs() if tensor.name == name]
    return width


def _check(streams: Sequence[Float], features: int) -> None:
    if not any(len(stream) for stream in streams):
        raise PrecisionError("int8_static: there is no row to calibrate on; give more training data")
    for number, stream in enumerate(streams):
        if stream.ndim != 2 or stream.shape[1] != features:
            raise PrecisionError(
                f"int8_static: calibration stream {number} has shape {list(stream.shape)}, not [rows, {features}]"
            )
        bad = np.flatnonzero(~np.isfinite(stream).all(axis=1))
        if len(bad):
            raise PrecisionError(
                f"int8_static: row {bad[0]} of calibration stream {number} is not finite ({len(bad)} of {len(stream)} "
                f"are not); mend the features"
            )


def _activations(
    session: Any, tensors: Sequence[str], streams: Sequence[Float], limit: int
) -> Iterator[dict[str, Float]]:
    """Yield the tensors of each measured chunk."""
    state_size = _width(session, "state")
    measured = 0
    for stream in streams:
        state = np.zeros((1, state_size), np.float32)
        warm_up = min(WARM_UP, len(stream) // 2)
        if warm_up:
            (state,) = session.run(["next_state"], {"features": stream[np.newaxis, :warm_up], "state": state})
        for start in range(warm_up, len(stream), _CHUNK):
            if measured >= limit:
                return
            rows = stream[np.newaxis, start : start + _CHUNK]
            state, *values = session.run(["next_state", *tensors], {"features": rows, "state": state})
            measured += rows.shape[1]
            yield dict(zip(tensors, values, strict=True))


def _threshold(counts: npt.NDArray[np.int64], largest: float, settings: CompressParams) -> float:
    if settings.calibration == "percentile":
        reached = np.searchsorted(np.cumsum(counts), settings.percentile / 100 * counts.sum())
        return largest * (min(int(reached), _BINS - 1) + 1) / _BINS
    return _entropy_threshold(counts, largest)


def _entropy_threshold(counts: npt.NDArray[np.int64], largest: float) -> float:
    """Return the cut of least information loss (Migacz 2017, "8-bit inference with TensorRT"), by ONNX Runtime."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    coarse = counts.reshape(_ENTROPY_BINS, -1).sum(axis=1)
    if np.count_nonzero(coarse) == 1:
        return largest  # a constant loses the same at every cut; ONNX Runtime would take the deepest
    edges = np.linspace(-largest, largest, 2 * _ENTROPY_BINS + 1).astype(np.float32)
    histogram = (np.concatenate([coarse[::-1], coarse]), edges, edges[0], edges[-1], edges[-1])
    collector = HistogramCollector("entropy", True, 2 * _ENTROPY_BINS, _ENTROPY_LEVELS, None, None)
    return float(collector.get_entropy_threshold(histogram, _ENTROPY_LEVELS)[1])
