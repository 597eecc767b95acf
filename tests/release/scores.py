"""A drift score of a few nodes that keeps the wire contract, and variants that do not."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


def write_score(
    path: Path,
    *,
    features: int,
    scale: float = 1.0,
    offset: float = 0.0,
    swallow: bool = False,
    mix: bool = False,
    block: str | int = "rows",
    name: str = "rows",
) -> Path:
    """Write the mean square of each feature over the rows of a block, and their sum.

    Args:
        path: the file.
        features: F.
        scale: of the score.
        offset: added to it.
        swallow: take what is no number for zero.
        mix: take the mean score of all blocks of a batch from each.
        block: dimension of the rows; a number fixes it.
        name: of the input.
    """
    constants = {
        "scale": np.array([scale], np.float32),
        "offset": np.array([offset], np.float32),
        "zero": np.array([0], np.float32),
        "last_axis": np.array([1], np.int64),
    }
    cleaned = [
        helper.make_node("IsNaN", [name], ["broken"]),
        helper.make_node("Where", ["broken", "zero", name], ["clean"]),
    ]
    mixed = [
        helper.make_node("ReduceMean", ["scored"], ["company"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["scored", "company"], ["score"]),
    ]
    taken = "clean" if swallow else name
    nodes = [
        *(cleaned if swallow else []),
        helper.make_node("Mul", [taken, taken], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["contributions"], axes=[1], keepdims=0),
        helper.make_node("ReduceSum", ["contributions", "last_axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["scored" if mix else "score"]),
        *(mixed if mix else []),
    ]
    graph = helper.make_graph(
        nodes,
        "score",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", block, features])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["batch", features]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_reference(path: Path, *, features: int) -> Path:
    """Write a few raw rows."""
    raw = np.random.default_rng(4).normal(size=(300, features)).astype(np.float32)
    save_file({"raw.0": raw}, path)
    return path
