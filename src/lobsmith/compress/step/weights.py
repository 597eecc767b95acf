"""The attention network's weights, read from the exported graph.

A walk from outputs to features checks every operation, and every constant's type and size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lobsmith.compress.step.kernel import CLASSES, LARGEST_INPUT, OUTLOOK, SLOPE
from lobsmith.errors import PrecisionError, ReleaseError

_CONVOLUTIONS = 3

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A layer x W + b: `weight` float32 [inputs, outputs], `bias` float32 [outputs]."""

    weight: Float
    bias: Float


@dataclass(frozen=True)
class StepWeights:
    """A network of F features, C channels, L layers of H units, a ring of K rows, keys of A numbers and O horizons.

    Attributes:
        location: float32 [F], subtracted from each feature.
        scale: float32 [F], then their divisor.
        convolutions: F → C, C → C, C → C.
        lstm: of each layer, inputs and h side by side → 4 H, gates in the order input, output, forget, new.
        query: H → A; as are `key` and `value`.
        age_bias: float32 [K], the newest row first.
        readout: h, attended and standardised inputs side by side → O * 8, calibrated, ordered as in `FoldedNetwork`.
        volatility_scale: float32 [O].
        state_size: S of the wire, at least the network's.
    """

    location: Float
    scale: Float
    convolutions: tuple[Linear, ...]
    lstm: tuple[Linear, ...]
    query: Linear
    key: Linear
    value: Linear
    age_bias: Float
    readout: Linear
    volatility_scale: Float
    state_size: int

    @property
    def own_state_size(self) -> int:
        """State that the network uses."""
        units, attention = self.query.weight.shape
        return 2 * len(self.lstm) * units + 2 * len(self.age_bias) * attention + 1


def read_weights(path: Path) -> StepWeights:
    """Read the weights from an exported model with float32 weights.

    Raises:
        PrecisionError: the model is of another network or precision.
        ReleaseError: the file is no ONNX model.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's exceptions have no common base class
        raise ReleaseError(f"{path}: not an ONNX model; export it again") from error
    return _GraphWalk(path, model.graph).weights()


class _GraphWalk:
    """Walks a graph backwards."""

    def __init__(self, path: Path, graph: Any) -> None:
        self.path, self.graph = path, graph
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def weights(self) -> StepWeights:
        logits = self.chain("probabilities", "Softmax", "Reshape", "Split")
        volatility_scale = self.outlook(logits)
        readout, joined = self.linear(logits)
        recurrent, attended, inputs = self.inputs(joined, "Concat", 3)
        location, scale = self.standardised(inputs)
        age_bias, fused, source = self.attention(attended)
        if source != recurrent:
            self.refuse("attention and readout see different tensors")
        lstm, embedded = self.lstm(recurrent)
        weights = StepWeights(
            location=location,
            scale=scale,
            convolutions=self.convolutions(embedded, inputs),
            lstm=lstm,
            **fused,
            age_bias=age_bias,
            readout=readout,
            volatility_scale=volatility_scale,
            state_size=self.state_size(),
        )
        self.check(weights)
        return weights

    def outlook(self, logits: str) -> Float:
        """Check that all outputs come from the same logits; return the scale of volatilities."""
        binary, move, volatility = self.inputs("outlook", "Concat", 3)
        softplus, scale = self.inputs(self.chain(volatility, "Unsqueeze"), "Mul", 2)
        sources = {
            self.chain(binary, "Reshape", "Sigmoid", "Split"),
            self.chain(move, "Unsqueeze", "Split"),
            self.chain(softplus, "Softplus", "Split"),
        }
        if sources != {logits}:
            self.refuse("its outputs are not made of the same logits")
        return self.constant(scale, 1)

    def standardised(self, inputs: str) -> tuple[Float, Float]:
        divided, low, high = self.inputs(inputs, "Clip", 3)
        if self.constant(high, 0) != LARGEST_INPUT or self.constant(low, 0) != -LARGEST_INPUT:
            self.refuse(f"its inputs are not clipped at {LARGEST_INPUT:g}")
        centred, scale = self.inputs(divided, "Div", 2)
        features, location = self.inputs(centred, "Sub", 2)
        if features != "features":
            self.refuse("its inputs are not its features")
        return self.constant(location, 1), self.constant(scale, 1)

    def attention(self, attended: str) -> tuple[Float, dict[str, Linear], str]:
        """Return the bias by age, query, key and value, and their common input."""
        shares, values = self.inputs(attended, "MatMul", 2)
        _, _, masked = self.inputs(self.chain(shares, "Softmax"), "Where", 3)
        scaled, bias = self.inputs(masked, "Add", 2)
        products, root = self.inputs(scaled, "Div", 2)
        query, transposed = self.inputs(products, "MatMul", 2)
        _, key = self.inputs(self.chain(transposed, "Transpose"), "Concat", 2)
        _, value = self.inputs(values, "Concat", 2)
        age_bias = self.constant(self.inputs(bias, "Gather", 2)[0], 1)
        total = self.chain(query, "Split")
        split = self.makers[query]
        if {self.chain(key, "Split"), self.chain(value, "Split")} != {total}:
            self.refuse("query, key and value are not one layer")
        fused, source = self.linear(total)
        width = fused.weight.shape[1] // 3
        if abs(float(self.constant(root, 0)) - width**0.5) > 1e-6 * width:
            self.refuse("attention logits are not divided by the root of the keys' width")
        layers = {}
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            first = width * list(split.output).index(tensor)
            part = slice(first, first + width)
            layers[name] = Linear(fused.weight[:, part], fused.bias[part])
        return age_bias, layers, source

    def lstm(self, recurrent: str) -> tuple[tuple[Linear, ...], str]:
        """Return the layers, and the first layer's input."""
        layers: list[Linear] = []
        name = self.chain(recurrent, "Transpose")
        while self.makers.get(name) is not None and self.makers[name].op_type == "Squeeze":
            node = self.node(self.chain(name, "Squeeze"), "LSTM")
            if [entry.name for entry in node.attribute] != ["hidden_size"] or len(node.input) != 7 or node.input[4]:
                self.refuse("its LSTM has options")
            weight, recurrence, bias = (
                self.constant(constant, rank) for constant, rank in zip(node.input[1:4], (3, 3, 2), strict=True)
            )
            units = recurrence.shape[2]
            sizes = (weight.shape[:2], recurrence.shape, bias.shape)
            if sizes != ((1, 4 * units), (1, 4 * units, units), (1, 8 * units)):
                self.refuse("the weights of its LSTM do not fit together")
            both = np.concatenate([weight[0], recurrence[0]], axis=1).T
            layers.append(Linear(both, bias[0, : 4 * units] + bias[0, 4 * units :]))
            name = node.input[0]
        return tuple(reversed(layers)), self.chain(name, "Transpose")

    def convolutions(self, embedded: str, inputs: str) -> tuple[Linear, ...]:
        layers = []
        for _ in range(_CONVOLUTIONS):
            leaky = self.node(embedded, "LeakyRelu")
            if abs(_attributes(leaky).get("alpha", 0.0) - SLOPE) > 1e-6:
                self.refuse(f"its LeakyReLU has another slope than {SLOPE:g}")
            embedded, weight, bias = self.inputs(leaky.input[0], "Conv", 3)
            kernel = self.constant(weight, 3)
            if kernel.shape[2] != 1:
                self.refuse("its convolutions see more than one row")
            layers.append(Linear(kernel[:, :, 0].T, self.constant(bias, 1)))
        if self.chain(embedded, "Transpose") != inputs:
            self.refuse("its convolutions do not see its inputs")
        return tuple(reversed(layers))

    def linear(self, name: str) -> tuple[Linear, str]:
        """Return the layer that makes a tensor, and its input."""
        first, second = self.inputs(name, "Add", 2)
        bias, product = (first, second) if first in self.constants else (second, first)
        source, weight = self.inputs(product, "MatMul", 2)
        return Linear(self.constant(weight, 2), self.constant(bias, 1)), source

    def state_size(self) -> int:
        shapes = {tensor.name: tensor.type.tensor_type.shape.dim for tensor in self.graph.input}
        if set(shapes) != {"features", "state"}:
            self.refuse("its inputs are not features and state")
        return int(shapes["state"][1].dim_value)

    def check(self, weights: StepWeights) -> None:
        """Refuse inconsistent sizes."""
        features, channels = weights.convolutions[0].weight.shape
        units, attention = weights.query.weight.shape
        horizons = len(weights.volatility_scale)
        layers = len(weights.lstm)
        first = [(features, channels)] + [(channels, channels)] * (_CONVOLUTIONS - 1)
        lstm = [(channels + units, 4 * units)] + [(2 * units, 4 * units)] * (layers - 1)
        readout = (units + attention + features, (CLASSES + OUTLOOK) * horizons)
        expected = [*first, *lstm, *[(units, attention)] * 3, readout]
        linear = (*weights.convolutions, *weights.lstm, weights.query, weights.key, weights.value, weights.readout)
        if layers == 0 or [layer.weight.shape for layer in linear] != expected:
            self.refuse("its layers do not fit together")
        if [layer.bias.shape for layer in linear] != [(shape[1],) for shape in expected]:
            self.refuse("its biases do not fit its weights")
        if weights.location.shape != (features,) or weights.scale.shape != (features,):
            self.refuse("its scales do not fit its features")
        if weights.state_size < weights.own_state_size:
            self.refuse("its state is too small for it")

    def chain(self, name: str, *operations: str) -> str:
        """Walk back through operations, along the first input of each."""
        for operation in operations:
            name = self.node(name, operation).input[0]
        return name

    def inputs(self, name: str, operation: str, count: int) -> Sequence[str]:
        node = self.node(name, operation)
        if len(node.input) != count:
            self.refuse(f"{operation} {name} has {len(node.input)} inputs")
        return list(node.input)

    def node(self, name: str, operation: str) -> Any:
        node = self.makers.get(name)
        if node is None or node.op_type != operation:
            self.refuse(f"{name} comes of {'nothing' if node is None else node.op_type}, not of {operation}")
        return node

    def constant(self, name: str, rank: int) -> Float:
        node = self.makers.get(name)
        if node is not None and node.op_type == "Identity":  # written by the exporter for equal constants
            return self.constant(node.input[0], rank)
        tensor = self.constants.get(name)
        if node is not None and node.op_type == "Constant":
            tensor = _attributes(node).get("value")
        value = None if tensor is None else numpy_helper.to_array(tensor)
        if value is None or value.dtype != np.float32 or value.ndim != rank or not np.isfinite(value).all():
            self.refuse(f"{name} is no finite float32 constant of {rank} axes")
        return np.asarray(value, np.float32)

    def refuse(self, reason: str) -> NoReturn:
        raise PrecisionError(
            f"{self.path}: not a network that the compiled step supports ({reason}); ONNX Runtime runs it"
        )


def _attributes(node: Any) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
