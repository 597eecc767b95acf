"""An exported graph in another precision.

| precision      | what is in it | what stays float32 |
|----------------|---------------|--------------------|
| `fp32`         | nothing       | everything         |
| `int8_dynamic` | LSTM, products and convolutions; activations are scaled anew in each call | the rest |
| `int8_static`  | products with weights and convolutions, as Q/DQ over ranges of training rows | the rest |
| `fp16`, `bf16` | convolutions, LSTM, all products | standardisation, softmax, counts, calibration |
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lobsmith.compress import FP32
from lobsmith.compress.graph.fp16 import convert_half
from lobsmith.compress.quantise.ranges import activation_ranges
from lobsmith.compress.quantise.smoke_run import check_runs
from lobsmith.compress.runtime import Float
from lobsmith.errors import PrecisionError
from lobsmith.files import write_atomic
from lobsmith.params import CompressParams

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_LARGEST = 127
"""Of a symmetric int8."""
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Marks a graph as prepared; without it ONNX Runtime warns on the root logger."""


def quantise(
    source: Path, destination: Path, precision: str, streams: Sequence[Float], settings: CompressParams
) -> None:
    """Write an exported float32 graph in another precision, with the same inputs and outputs, atomically.

    The same arguments give the same bytes. A failure removes an earlier file: no stale candidate passes for a new one.

    Args:
        precision: one of the table above.
        streams: float32 [N, F], training rows for `int8_static`.
        settings: how ranges are measured.

    Raises:
        PrecisionError: nothing to quantise, streams unfit for calibration, or ONNX Runtime cannot run the result here.
    """
    writers: dict[str, Callable[[Path, Path], None]] = {
        FP32: lambda source, destination: write_atomic(destination, source.read_bytes()),
        "int8_dynamic": _int8_dynamic,
        "int8_static": partial(_int8_static, streams=streams, settings=settings),
        "fp16": partial(convert_half, precision="fp16"),
        "bf16": partial(convert_half, precision="bf16"),
    }
    if precision not in writers:
        raise PrecisionError(f"unknown precision {precision!r}; choose one of {', '.join(writers)}")
    if not (destination.exists() and destination.samefile(source)):
        destination.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="lobsmith-") as directory:
        candidate = Path(directory) / destination.name
        writers[precision](source, candidate)
        check_runs(candidate, precision)
        write_atomic(destination, candidate.read_bytes())


def _load(source: Path) -> Any:
    """Read a graph, with aliases resolved: the exporter writes equal weights as Identity of another."""
    model = onnx.load_model(str(source), load_external_data=False)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    same = {name: weight for name, weight in same.items() if weight in weights}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    for node in [node for node in graph.node if node.op_type == "Identity" and node.output[0] in same]:
        graph.node.remove(node)
    return model


def _weighted(model: Any) -> list[Any]:
    """Return convolutions and products with weights; products of two activations stay float32."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in weights and node.input[0] not in weights
    ]


def _int8_dynamic(source: Path, destination: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _load(source)
    nodes = [node.name for node in (*_weighted(model), *(n for n in model.graph.node if n.op_type == "LSTM"))]
    if not nodes:
        raise PrecisionError(f"int8_dynamic: {source} has nothing to quantise; leave it in fp32")
    mark = model.metadata_props.add()
    mark.key, mark.value = _PREPROCESSED
    quantize_dynamic(
        model,
        str(destination),
        op_types_to_quantize=[*_PRODUCTS, "LSTM"],
        nodes_to_quantize=nodes,
        weight_type=QuantType.QInt8,
        per_channel=False,
    )
    _save(onnx.load_model(str(destination)), destination)


def _int8_static(source: Path, destination: Path, *, streams: Sequence[Float], settings: CompressParams) -> None:
    """Write Q/DQ pairs around the quantised nodes only.

    ONNX Runtime's quantiser rounds an activation for all its readers, LSTM and attention included. Biases stay float32:
    TensorRT takes no Q/DQ on int32.
    """
    model = _load(source)
    graph = model.graph
    nodes = _weighted(model)
    if not nodes:
        raise PrecisionError(f"int8_static: {source} has no product with weights; leave it in fp32")
    tensors = list(dict.fromkeys(node.input[0] for node in nodes))
    ranges = activation_ranges(model, tensors, streams, settings)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    quantised = {node.name for node in nodes}
    nodes_out: list[Any] = []
    converted: set[str] = set()
    for node in list(graph.node):
        if node.name in quantised:
            activation, weight = node.input[0], node.input[1]
            if activation not in converted:
                nodes_out += _rounded_activation(graph, activation, ranges[activation])
            if weight not in converted:
                nodes_out += _rounded_weight(graph, weights[weight], _output_axis(node, weights[weight]))
            converted |= {activation, weight}
            node.input[0], node.input[1] = f"{activation}_dequantized", f"{weight}_dequantized"
        nodes_out.append(node)
    read = {name for node in nodes_out for name in node.input}
    weights_left = [tensor for tensor in graph.initializer if tensor.name in read]
    graph.CopyFrom(helper.make_graph(nodes_out, graph.name, graph.input, graph.output, weights_left))
    _save(model, destination)


def _output_axis(node: Any, weight: Any) -> int:
    """Return the weight's output axis."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and any(entry.name == "transB" and entry.i for entry in node.attribute):
        return 0
    return len(weight.dims) - 1


def _rounded_activation(graph: Any, name: str, limit: float) -> list[Any]:
    _add(graph, f"{name}_scale", np.asarray(limit / _LARGEST, np.float32))
    _add(graph, f"{name}_zero", np.asarray(0, np.int8))
    scaling = [f"{name}_scale", f"{name}_zero"]
    integers, rounded = f"{name}_quantized", f"{name}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [name, *scaling], [integers], integers),
        helper.make_node("DequantizeLinear", [integers, *scaling], [rounded], rounded),
    ]


def _rounded_weight(graph: Any, weight: Any, axis: int) -> list[Any]:
    values = numpy_helper.to_array(weight)
    others = tuple(other for other in range(values.ndim) if other != axis)
    limits = np.abs(values).max(axis=others, keepdims=True)
    if not np.isfinite(limits).all():
        raise PrecisionError(f"int8_static: {weight.name} holds numbers that are not finite; train the network again")
    # A channel of zeros is exact at any scale.
    scales = (np.where(limits > 0, limits, 1.0) / _LARGEST).astype(np.float32)
    integers, rounded = f"{weight.name}_quantized", f"{weight.name}_dequantized"
    _add(graph, integers, np.clip(np.rint(values / scales), -_LARGEST, _LARGEST).astype(np.int8))
    _add(graph, f"{weight.name}_scale", scales.reshape(-1))
    _add(graph, f"{weight.name}_zero", np.zeros(scales.size, np.int8))
    inputs = [integers, f"{weight.name}_scale", f"{weight.name}_zero"]
    return [helper.make_node("DequantizeLinear", inputs, [rounded], rounded, axis=axis)]


def _add(graph: Any, name: str, values: npt.NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(values, name))


def _save(model: Any, destination: Path) -> None:
    for mark in [entry for entry in model.metadata_props if entry.key == _PREPROCESSED[0]]:
        model.metadata_props.remove(mark)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(destination, model.SerializeToString(deterministic=True))
