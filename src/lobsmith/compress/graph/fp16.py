"""A graph in half precision: fp16 or bf16 arithmetic, float32 where range or exactness matter.

ONNX Runtime's converter knows no bf16, and casts through fp16 between nodes kept in float32: features beyond 65504 and
the attention mask, −1e30, would become infinite.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from lobsmith.errors import PrecisionError
from lobsmith.files import write_atomic

HalfPrecision = Literal["fp16", "bf16"]

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_ARITHMETIC = {"Conv", "Gemm", "LSTM", "MatMul"}
_ACTIVATIONS = {"LeakyRelu", "Relu"}
"""Follow a convolution in its precision. ONNX Runtime 1.31 crashes on fp16 Transpose and Squeeze."""
_BF16_OPSET = 22
"""The first with Conv and LSTM in bf16."""


def convert_half(source: Path, destination: Path, precision: HalfPrecision) -> None:
    """Write a graph with products and recurrence in half precision, inputs and outputs in float32.

    Standardisation, the attention's mask and softmax, the state's count and the calibration stay float32. This machine
    may be unable to run it: GPU plans are built from it.

    Raises:
        PrecisionError: the graph has nothing to convert.
    """
    model = onnx.load_model(str(source), load_external_data=False)
    if precision == "bf16":
        model = onnx.version_converter.convert_version(model, _BF16_OPSET)
    if not any(node.op_type in _ARITHMETIC for node in model.graph.node):
        raise PrecisionError(f"{precision}: {source} has no product and no recurrence to convert; leave it in fp32")
    _convert(model, _TYPES[precision])
    onnx.checker.check_model(model, full_check=True)
    write_atomic(destination, model.SerializeToString(deterministic=True))


def _convert(model: Any, dtype: int) -> None:
    graph = model.graph
    floats = _float_tensors(model)
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    halves: dict[str, str] = {}
    """Float tensors to their half-precision counterparts."""
    computed: set[str] = set()
    """Float tensors computed by a half-precision node."""

    def in_half(name: str) -> str:
        if name not in halves:
            halves[name] = f"{name}_half"
            if name in initialisers:
                graph.initializer.append(_rounded(initialisers[name], halves[name], dtype))
            else:
                nodes.append(helper.make_node("Cast", [name], [halves[name]], f"{halves[name]}_cast", to=dtype))
        return halves[name]

    for node in graph.node:
        if not (node.op_type in _ARITHMETIC or (node.op_type in _ACTIVATIONS and node.input[0] in computed)):
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name in floats:
                node.input[index] = in_half(name)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats:
                computed.add(name)
                node.output[index] = halves[name] = f"{name}_half"
                nodes.append(helper.make_node("Cast", [halves[name]], [name], f"{name}_cast", to=TensorProto.FLOAT))
    kept = _without_unread(nodes, {output.name for output in graph.output})
    read = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    graph.CopyFrom(helper.make_graph(kept, graph.name, graph.input, graph.output, weights))


def _float_tensors(model: Any) -> set[str]:
    """Return the names of all float32 tensors; exported graphs have no subgraphs."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return values | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _rounded(tensor: Any, name: str, dtype: int) -> Any:
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        rounded = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise PrecisionError(
            f"{TensorProto.DataType.Name(dtype)}: {tensor.name} goes up to {np.abs(array).max():g}, beyond the type's "
            f"range; use bf16 or fp32"
        )
    return numpy_helper.from_array(rounded, name)


def _without_unread(nodes: list[Any], outputs: set[str]) -> list[Any]:
    """Drop nodes without a reader, mostly casts back to float32."""
    read = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]
