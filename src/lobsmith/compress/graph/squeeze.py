"""Squeeze shapes: in a graph of fixed shapes, tensors with one axis longer than 1 become [1, N].

Changes of shape that move no number vanish, 1×1 convolutions become matrix products, and cuts of front axes become
cuts of vectors. Numbers and the order of their sums do not change.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lobsmith.compress.graph.fuse import drop_unused

Shape = tuple[int, ...]
_MOVES_NOTHING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
_UNARY = {"LeakyRelu", "Relu", "Sigmoid", "Tanh", "Softplus", "Clip", "Not", "Cast", "Neg", "Exp", "Sqrt"}
_BINARY = {"Add", "Sub", "Mul", "Div", "Where", "And", "Or", "GreaterOrEqual", "Less", "LessOrEqual", "Greater"}


def shapes_of(model: Any) -> dict[str, Shape]:
    """Return the shape of every tensor of a graph whose shapes are fixed."""
    _state_lstm_shapes(model.graph)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    return shapes


def _state_lstm_shapes(graph: Any) -> None:
    """Add shapes that ONNX cannot infer: outputs of ONNX Runtime's quantised LSTM over one row."""
    known = {value.name for value in graph.value_info}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLSTM":
            units = _attribute(node, "hidden_size")
            for name, shape in zip(node.output, ([1, 1, 1, units], [1, 1, units], [1, 1, units]), strict=False):
                if name and name not in known:
                    graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def squeeze_shapes(model: Any) -> None:
    """Compute on [1, …, 1, N] as [1, N], in place."""
    _ShapeSqueezer(model).run()


class _ShapeSqueezer:
    """Rewrites a graph node by node.

    `stored` maps old tensors to the new ones with their numbers, whose shapes are in `shapes`. A `Reshape` is made once
    and reused.
    """

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.old = shapes_of(model)
        self.shapes = dict(self.old)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.stored: dict[str, str] = {}
        self.transposed: dict[str, str] = {}
        self.outputs = {output.name for output in self.graph.output}
        self.nodes: list[Any] = []

    def run(self) -> None:
        rules: tuple[Callable[[Any], bool], ...] = (
            self._view,
            self._product,
            self._elementwise,
            self._contiguous,
            self._softmax,
        )
        for node in list(self.graph.node):
            if not any(rule(node) for rule in rules):
                node.input[:] = self._unchanged(node.input)
                self.nodes.append(node)
        for name in sorted(self.outputs & self.stored.keys()):
            self._emit("Reshape", [self.stored[name], self._numbers(np.array(self.old[name]))], name, self.old[name])
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        drop_unused(self.graph)

    def _view(self, node: Any) -> bool:
        """Drop a node that moves no number."""
        if node.op_type == "Transpose":
            shape = self.old[node.input[0]]
            order = [axis for axis in _attribute(node, "perm") if shape[axis] != 1]
            if order != sorted(order):
                self.transposed[node.output[0]] = node.input[0]
                return False
        elif node.op_type not in _MOVES_NOTHING:
            return False
        if node.input[0] in self.constants:
            return False
        self.stored[node.output[0]] = self.stored.get(node.input[0], node.input[0])
        return True

    def _product(self, node: Any) -> bool:
        """Replace a product of a vector with a matrix, or its 1×1 convolution, by a plain product."""
        if node.op_type == "Conv":
            vector, weight = (self.old[name] for name in node.input[:2])
            if len(weight) != 3 or weight[2] != 1 or _attribute(node, "group", 1) != 1 or vector != (1, weight[1], 1):
                return False
            inputs = [
                self._vector(node.input[0]),
                self._as(node.input[1], weight[:2]),
                *self._unchanged(node.input[2:]),
            ]
            self._emit("Gemm", inputs, self._flat(node.output[0]), (1, weight[0]), transB=1)
            return True
        if node.op_type != "MatMul":
            return False
        vector, matrix = (self.old[name] for name in node.input)
        if len(matrix) < 2 or _size(matrix) != _size(matrix[-2:]) or _size(vector) != matrix[-2]:
            return False
        left, source = self._vector(node.input[0]), self.transposed.get(node.input[1])
        output, shape = self._flat(node.output[0]), (1, matrix[-1])
        if source is not None and self.old[source][-2:] == (matrix[-1], matrix[-2]):
            self._emit("Gemm", [left, self._as(source, (matrix[-1], matrix[-2]))], output, shape, transB=1)
        else:
            self._emit("MatMul", [left, self._as(node.input[1], matrix[-2:])], output, shape)
        return True

    def _elementwise(self, node: Any) -> bool:
        """Compute elementwise on vectors where only scalars are broadcast."""
        if node.op_type not in _UNARY | _BINARY:
            return False
        shape = _without_ones(self.old[node.output[0]])
        operands = node.input if node.op_type in _BINARY else node.input[:1]
        if any(_without_ones(self.old[name]) not in (shape, ()) for name in operands):
            return False
        self._emit_like(node, [*map(self._vector, operands), *self._unchanged(node.input[len(operands) :])])
        return True

    def _contiguous(self, node: Any) -> bool:
        """Join or cut vectors along an axis with no longer axis before it."""
        if node.op_type not in {"Concat", "Split", "Slice", "Gather"}:
            return False
        joins = node.op_type == "Concat"
        if not joins and any(name not in self.constants for name in node.input[1:]):
            return False
        return self._joined(node) if joins else self._cut(node)

    def _joined(self, node: Any) -> bool:
        shape = self.old[node.output[0]]
        if _size(shape[: _attribute(node, "axis") % len(shape)]) != 1:
            return False
        self._emit_like(node, [self._vector(name) for name in node.input], axis=1)
        return True

    def _cut(self, node: Any) -> bool:
        values = [np.atleast_1d(self.constants[name]) for name in node.input[1:]]
        shape = self.old[node.input[0]]
        single = all(value.size == 1 for value in values)
        if node.op_type == "Split":
            supported = len(values) == 1
        else:
            # A slice's inputs are its starts, ends, axes and strides.
            unit_strides = len(values) >= 3 and all(stride == 1 for stride in values[3:])
            supported = single and (node.op_type == "Gather" or unit_strides)
        if not supported:
            return False
        axis = (int(values[2][0]) if node.op_type == "Slice" else _attribute(node, "axis", 0)) % len(shape)
        inner = _size(shape[axis + 1 :])
        if _size(shape[:axis]) != 1:
            return False
        vector = self._vector(node.input[0])
        if node.op_type == "Split":
            self._emit_like(node, [vector, self._numbers(values[0] * inner)], axis=1)
        elif node.op_type == "Slice":
            taken = range(shape[axis])[slice(int(values[0][0]), int(values[1][0]))]
            self._slice(node, vector, taken[0] * inner, (taken[-1] + 1) * inner)
        else:
            first = int(values[0][0]) % shape[axis]
            self._slice(node, vector, first * inner, (first + 1) * inner)
        return True

    def _slice(self, node: Any, vector: str, begin: int, end: int) -> None:
        inputs = [vector, *(self._numbers(np.array([number])) for number in (begin, end, 1))]
        self._emit("Slice", inputs, self._flat(node.output[0]), (1, end - begin))

    def _softmax(self, node: Any) -> bool:
        shape = self.old[node.output[0]]
        last = _attribute(node, "axis", -1) % len(shape) == len(shape) - 1 if shape else False
        if node.op_type != "Softmax" or not last or _size(shape) != shape[-1]:
            return False
        self._emit_like(node, [self._vector(node.input[0])], axis=1)
        return True

    def _emit_like(self, node: Any, inputs: list[str], **changed: Any) -> None:
        """Add the same operation on vectors."""
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute} | changed
        outputs = [self._flat(name) for name in node.output]
        for flat, name in zip(outputs, node.output, strict=True):
            self.shapes[flat] = (1, _size(self.old[name]))
        self.nodes.append(helper.make_node(node.op_type, inputs, outputs, name=outputs[0], **attributes))

    def _emit(self, operation: str, inputs: list[str], output: str, shape: Shape, **attributes: Any) -> None:
        self.shapes[output] = shape
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))

    def _flat(self, name: str) -> str:
        """Name the vector that holds a tensor's numbers."""
        self.stored[name] = f"{name}_flat"
        return f"{name}_flat"

    def _unchanged(self, names: Iterable[str]) -> list[str]:
        """Return new tensors with old ones' numbers and shapes; omitted inputs stay omitted."""
        return [self._as(name, self.old[name]) if name else "" for name in names]

    def _vector(self, name: str) -> str:
        return self._as(name, (1, _size(self.old[name])))

    def _as(self, name: str, shape: Shape) -> str:
        """Return a new tensor with an old one's numbers, in the given shape."""
        stored = self.stored.get(name, name)
        if self.shapes[stored] == shape:
            return stored
        label = f"{stored}_as_{'x'.join(map(str, shape))}"
        if stored in self.constants:
            return self._initializer(label, self.constants[stored].reshape(shape))
        if label not in self.shapes:
            self._emit("Reshape", [stored, self._numbers(np.array(shape))], label, shape)
        return label

    def _numbers(self, values: npt.NDArray[np.int64]) -> str:
        values = np.asarray(values, np.int64)
        return self._initializer(f"numbers_{'_'.join(map(str, values.tolist()))}", values)

    def _initializer(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name], self.shapes[name], self.old[name] = value, value.shape, value.shape
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
