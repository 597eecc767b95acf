"""The attention network on one row of one stream as one compiled call, without ONNX Runtime.

Weights are read from the exported model and checked against ONNX Runtime on some rows.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lobsmith.compress.runtime import BoundModel, Float, OnnxModel, StepModel
from lobsmith.compress.step.kernel import CLASSES, LANES, MARKS, MASKED, OUTLOOK, PLACES, SIZES, lend_state, step
from lobsmith.compress.step.weights import Linear, StepWeights, read_weights
from lobsmith.errors import PrecisionError

TOLERANCE = 1e-4
"""Largest difference from ONNX Runtime's outputs and state, relative above 1."""
_ROWS_BEYOND_RING = 8
_ALIGNMENT = 64
"""Bytes of a cache line."""


class CompiledStep:
    """A `StepModel` model for one row of one stream (B = T = 1), interchangeable with `BoundModel`.

    `state` writes the state out in the wire's form, and the next step reads it back: get `state` anew after each step.
    Not thread-safe. Values that are not finite spread to outputs and state.
    """

    runtime = "compiled"
    step: Callable[[], None]

    def __init__(self, path: Path) -> None:
        """Read the weights of an exported float32 model with dynamic batch and time, and compare with ONNX Runtime.

        Raises:
            PrecisionError: it is not the attention network, or the outputs differ.
            ReleaseError: ONNX Runtime cannot load it.
        """
        weights = read_weights(path)
        served = OnnxModel(path)
        self._arena, self._layout = _arranged(weights)
        horizons = len(weights.volatility_scale)
        self.features = self._view("features", len(weights.location)).reshape(1, 1, -1)
        self.probabilities = self._view("probabilities", CLASSES * horizons).reshape(1, 1, horizons, CLASSES)
        self.outlook = self._view("outlook", OUTLOOK * horizons).reshape(1, 1, horizons, OUTLOOK)
        self._state = self._view("state", weights.state_size).reshape(1, -1)
        self.step = partial(step, self._arena, self._layout)
        difference = self._difference(served, weights)
        if not difference <= TOLERANCE:
            raise PrecisionError(
                f"{path}: the compiled step differs from ONNX Runtime by {difference:.1e}, more than {TOLERANCE:g}; "
                "ONNX Runtime runs it"
            )
        for array in (self.features, self.probabilities, self.outlook, self.state):
            array[:] = 0.0

    @property
    def state(self) -> Float:
        """The state after the last call, float32 [1, S]; writing zeros begins a new stream."""
        lend_state(self._arena, self._layout)
        return self._state

    def _view(self, name: str, size: int) -> Float:
        start = int(self._layout[PLACES.index(name)])
        return self._arena[start : start + size]

    def _difference(self, served: OnnxModel, weights: StepWeights) -> float:
        """Return the largest difference over a cold start and a full ring."""
        count = len(weights.age_bias) + _ROWS_BEYOND_RING
        noise = np.random.default_rng(0).normal(size=(count, 1, 1, served.feature_count))
        state, differences = served.cold_state(), []
        self.state[:] = state
        for row in (noise * weights.scale + weights.location).astype(np.float32):
            self.features[:] = row
            self.step()
            probabilities, outlook, state = served.run(row, state)
            differences += [_relative(self.probabilities, probabilities), _relative(self.outlook, outlook)]
        return float(np.max([*differences, _relative(self.state, state)]))


def open_step(model: Path, step: Path) -> StepModel:
    """Return the fastest model of single rows: the compiled step, or else ONNX Runtime on the graph `step`.

    Raises:
        ReleaseError: ONNX Runtime cannot load a file.
    """
    try:
        return CompiledStep(model)
    except PrecisionError:
        return BoundModel(step)


def _relative(actual: Float, expected: Float) -> float:
    return float(np.max(np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))))


def _arranged(weights: StepWeights) -> tuple[Float, npt.NDArray[np.uint64]]:
    """Return arena and layout of a cold stream; the first step reads the state, zeros."""
    sizes = _sizes(weights)
    flat = _flat(weights, sizes)
    lengths = _lengths(sizes, len(flat))
    starts = np.cumsum([0, *(_padded(length) for length in lengths.values())])
    arena = _aligned(int(starts[-1]))
    places = dict(zip(lengths, starts.tolist(), strict=False))
    for name, values in (
        ("location", weights.location),
        ("scale", (1.0 / weights.scale.astype(np.float64)).astype(np.float32)),
        ("age_bias", _masked(weights.age_bias[::-1], sizes["padded_K"])),
        ("volatility_scale", weights.volatility_scale),
        ("weights", flat),
    ):
        arena[places[name] : places[name] + len(values)] = values
    numbers = [*(places[name] for name in PLACES), *(sizes[name] for name in SIZES), *(1 for _ in MARKS)]
    return arena, np.array(numbers, np.uint64)


def _sizes(weights: StepWeights) -> dict[str, int]:
    features, channels = weights.convolutions[0].weight.shape
    units, attention = weights.query.weight.shape
    ring, horizons = len(weights.age_bias), len(weights.volatility_scale)
    own = {"F": features, "C": channels, "H": units, "K": ring, "A": attention}
    return {
        **own,
        **{f"padded_{name}": _padded(size) for name, size in own.items()},
        "L": len(weights.lstm),
        "S": weights.state_size,
        "horizons": horizons,
        "O": _padded((CLASSES + OUTLOOK) * horizons),
    }


def _lengths(sizes: dict[str, int], weights: int) -> dict[str, int]:
    """Return the length of each part of the arena, in order: a layer's inputs are adjacent."""
    features, channels, units = (sizes[f"padded_{name}"] for name in "FCH")
    ring, width = sizes["padded_K"], sizes["padded_A"]
    layers, horizons = sizes["L"], sizes["horizons"]
    return {
        "features": features,
        "location": features,
        "scale": features,
        "first": channels,
        "second": channels,
        "embedding": channels,
        "hidden": layers * units,
        "attended": width,
        "inputs": features,
        "cell": layers * units,
        "gates": 4 * units,
        "query": 3 * width,
        "scores": ring,
        "age_bias": ring,
        "keys": ring * width,
        "values": ring * width,
        "logits": sizes["O"],
        "weights": weights,
        "volatility_scale": horizons,
        "probabilities": CLASSES * horizons,
        "outlook": OUTLOOK * horizons,
        "count": 1,
        "state": sizes["S"],
    }


def _masked(bias: Float, size: int) -> Float:
    """Mask the padding beyond the ring."""
    return np.concatenate([bias, np.full(size - len(bias), MASKED)])


def _flat(weights: StepWeights, sizes: dict[str, int]) -> Float:
    """Return the layers in order of use, each its bias and its matrix [inputs, outputs]."""
    features, units, attention = (sizes[name] for name in "FHA")
    halved = np.repeat([0.5, 0.5, 0.5, 1.0], units).astype(np.float32)
    root = np.float32(attention**-0.5)
    attention_layers = (_scaled(weights.query, root), weights.key, weights.value)
    layers = [
        *(_wide(layer, layer.weight.shape[:1], layer.weight.shape[1:]) for layer in weights.convolutions),
        *(
            _wide(_scaled(layer, halved), (layer.weight.shape[0] - units, units), (units,) * 4)
            for layer in weights.lstm
        ),
        _wide(
            Linear(
                np.concatenate([layer.weight for layer in attention_layers], axis=1),
                np.concatenate([layer.bias for layer in attention_layers]),
            ),
            (units,),
            (attention,) * 3,
        ),
        _wide(weights.readout, (units, attention, features), weights.readout.weight.shape[1:]),
    ]
    return np.concatenate([part.ravel() for layer in layers for part in (layer.bias, layer.weight)])


def _scaled(layer: Linear, factor: Float | np.float32) -> Linear:
    return Linear(layer.weight * factor, layer.bias * factor)


def _wide(layer: Linear, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Linear:
    """Zero-pad each part of a layer's inputs and outputs."""
    rows, columns = _spread(inputs), _spread(outputs)
    weight = np.zeros((sum(map(_padded, inputs)), sum(map(_padded, outputs))), np.float32)
    bias = np.zeros(weight.shape[1], np.float32)
    weight[np.ix_(rows, columns)] = layer.weight
    bias[columns] = layer.bias
    return Linear(weight, bias)


def _spread(sizes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the indices of parts' numbers after each part is padded."""
    starts = np.cumsum([0, *map(_padded, sizes)])
    return np.concatenate([start + np.arange(size) for start, size in zip(starts, sizes, strict=False)])


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def _aligned(size: int) -> Float:
    """Return zeros aligned to a cache line."""
    block = np.zeros(size + _ALIGNMENT // 4, np.float32)
    start = -block.ctypes.data % _ALIGNMENT // 4
    return block[start : start + size]
