"""A graph for one row of one stream (B = T = 1): without loops and shape arithmetic, on vectors [1, N].

- An LSTM is one matrix product and its gates (TensorRT makes a loop of every ONNX LSTM).
- A 1×1 convolution is a matrix product.
- A change of shape that moves no number vanishes.

Numbers are the general graph's, summed in the same order except for the LSTM's two products, which become one.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lobsmith.compress.graph.fuse import drop_unused
from lobsmith.compress.graph.squeeze import Shape, shapes_of, squeeze_shapes
from lobsmith.files import write_atomic

_BATCH, _TIME = "batch", "time"


def specialise(source: Path, destination: Path) -> None:
    """Write an exported model's graph for B = T = 1; inputs and outputs keep names and ranks."""
    model = onnx.load(str(source))
    fix_shapes(model)
    model = fold_constants(model)
    unroll_lstm(model)
    squeeze_shapes(model)
    model = fold_constants(model)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(destination, model.SerializeToString(deterministic=True))


def fix_shapes(model: Any, batch: int = 1, rows: int = 1) -> None:
    """Fix batch and time of the inputs and outputs, in place."""
    for tensor in (*model.graph.input, *model.graph.output):
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param in (_BATCH, _TIME):
                dimension.dim_value = batch if dimension.dim_param == _BATCH else rows
    # The exporter's shapes of intermediate values are for any batch and time.
    del model.graph.value_info[:]


def fold_constants(model: Any) -> Any:
    """Return the model constant-folded by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="lobsmith-") as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            # They would reshape around matrix products, and split where a single part is read.
            disabled_optimizers=["MatMulAddFusion", "GatherSliceToSplitFusion"],
        )
        return onnx.load(str(path))


def unroll_lstm(model: Any) -> None:
    """Replace, in place, each LSTM over one row by a product and its gates (Hochreiter & Schmidhuber 1997).

    Several directions, custom activations or more rows are left alone.
    """
    graph, shapes = model.graph, shapes_of(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "LSTM" and shapes[node.input[0]][0] == 1 and _is_plain(node, constants):
            nodes += _one_row(graph, constants, node, shapes)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)


def _is_plain(node: Any, constants: dict[str, Any]) -> bool:
    """Return whether an LSTM is PyTorch's: forward, no options, all weights and both states given."""
    options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute} | {"hidden_size": 0}
    defaults = {"hidden_size": 0, "direction": b"forward", "input_forget": 0, "layout": 0}
    complete = len(node.input) == 7 and all(node.input[5:]) and all(name in constants for name in node.input[1:4])
    return complete and not node.input[4] and options.items() <= defaults.items()


def _one_row(graph: Any, constants: dict[str, Any], node: Any, shapes: dict[str, Shape]) -> list[Any]:
    """Return the nodes of one LSTM step; ONNX orders the gates input, output, forget, cell."""
    inputs, weight, recurrence, bias, _, hidden, cell = node.input[:7]
    prefix = f"{node.output[0] or node.output[1]}_step"
    units = constants[recurrence].shape[2]
    width = constants[weight].shape[2]
    values = {
        "kernel": np.concatenate([constants[weight][0], constants[recurrence][0]], axis=1).T.copy(),
        "bias": constants[bias][0, : 4 * units] + constants[bias][0, 4 * units :],
        "gates_widths": np.array([3 * units, units], np.int64),
        "units_widths": np.array([units] * 3, np.int64),
        "inputs_shape": np.array([1, width], np.int64),
        "units_shape": np.array([1, units], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, f"{prefix}_{name}") for name, value in values.items())
    operations: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Reshape", [inputs, "inputs_shape"], ["x"], {}),
        ("Reshape", [hidden, "units_shape"], ["h"], {}),
        ("Reshape", [cell, "units_shape"], ["c"], {}),
        ("Concat", ["x", "h"], ["xh"], {"axis": 1}),
        ("Gemm", ["xh", "kernel", "bias"], ["gates"], {}),
        ("Split", ["gates", "gates_widths"], ["open", "new"], {"axis": 1}),
        ("Sigmoid", ["open"], ["opened"], {}),
        ("Split", ["opened", "units_widths"], ["i", "o", "f"], {"axis": 1}),
        ("Tanh", ["new"], ["g"], {}),
        ("Mul", ["f", "c"], ["kept"], {}),
        ("Mul", ["i", "g"], ["added"], {}),
        ("Add", ["kept", "added"], ["next_c"], {}),
        ("Tanh", ["next_c"], ["squashed"], {}),
        ("Mul", ["o", "squashed"], ["next_h"], {}),
    ]
    outside = {inputs, hidden, cell}

    def full(name: str) -> str:
        return name if name in outside else f"{prefix}_{name}"

    nodes = [
        helper.make_node(op, [full(name) for name in ins], [full(name) for name in outs], name=full(outs[0]), **options)
        for op, ins, outs, options in operations
    ]
    for output, value in zip(node.output, ("next_h", "next_h", "next_c"), strict=False):
        if output:
            shape = f"{prefix}_{output}_shape"
            graph.initializer.append(numpy_helper.from_array(np.array(shapes[output], np.int64), shape))
            nodes.append(helper.make_node("Reshape", [full(value), shape], [output], name=f"{prefix}_{output}"))
    return nodes
