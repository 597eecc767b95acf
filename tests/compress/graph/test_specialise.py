"""The graph for one row: the numbers of the general one, without its loops and shapes."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_dynamic, quantize_static

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import BoundModel, OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import NETWORKS, build
from lobsmith.params import ModelParams

HORIZONS = (50, 100, 1000)
PARAMS = ModelParams(name="lob", network="cnn_lstm_attention", channels=8, hidden=12, layers=2, ring=16, attention=6)


def network(name: str = "cnn_lstm_attention", **changes: object) -> Network:
    torch.manual_seed(3)
    built = build(structs.replace(PARAMS, network=name, **changes), COUNT, HORIZONS).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for tensor in built.calibration.buffers():
        tensor.uniform_(0.5, 1.5)
    return built


def rows(count: int = 120) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, COUNT)).astype(np.float32)


def stepped(path: Path, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model, answers = BoundModel(path), []
    for row in features:
        model.features[0, 0] = row
        model.step()
        answers.append(np.concatenate([model.probabilities[0, 0], model.outlook[0, 0]], axis=1))
    return np.stack(answers), model.state


def assert_same(general: Path, single: Path, tolerance: float = 1e-5) -> None:
    features = rows()
    probabilities, outlook, state = OnnxModel(general).predict(features, chunk=1)
    answers, last = stepped(single, features)
    assert np.ptp(answers, axis=0).min() > 0
    for actual, expected in ((answers, np.concatenate([probabilities, outlook], axis=2)), (last, state)):
        assert np.isfinite(actual).all()
        assert (np.abs(actual - expected) / np.maximum(1, np.abs(expected))).max() < tolerance


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_answers_as_before(name: str, tmp_path: Path) -> None:
    export_onnx(network(name), tmp_path / "general.onnx")
    specialise(tmp_path / "general.onnx", tmp_path / "single.onnx")
    assert_same(tmp_path / "general.onnx", tmp_path / "single.onnx")


def test_no_loop_and_no_arithmetic_on_shapes_is_left(tmp_path: Path) -> None:
    export_onnx(network(), tmp_path / "general.onnx")
    specialise(tmp_path / "general.onnx", tmp_path / "single.onnx")
    before, after = operations(tmp_path / "general.onnx"), operations(tmp_path / "single.onnx")
    assert before["LSTM"] == 2
    assert before["Shape"]
    assert not after.keys() & {"LSTM", "Loop", "Scan", "Shape", "ConstantOfShape", "Range", "Conv", "Expand"}
    graph = onnx.load(tmp_path / "single.onnx").graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["features"] == [1, 1, COUNT]
    assert shapes["probabilities"] == [1, 1, len(HORIZONS), 3]


class _Reader(CalibrationDataReader):
    def __init__(self, state_size: int) -> None:
        state = np.zeros((1, state_size), np.float32)
        self.batches = iter([{"features": rows()[None], "state": state}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def test_quantised_graphs_keep_their_numbers(tmp_path: Path) -> None:
    general = network()
    export_onnx(general, tmp_path / "fp32.onnx")
    quant_pre_process(str(tmp_path / "fp32.onnx"), str(tmp_path / "ready.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(tmp_path / "ready.onnx"),
        str(tmp_path / "static.onnx"),
        _Reader(general.state_size),
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    quantize_dynamic(str(tmp_path / "fp32.onnx"), str(tmp_path / "dynamic.onnx"))
    for name in ("static", "dynamic"):
        specialise(tmp_path / f"{name}.onnx", tmp_path / f"{name}_single.onnx")
        assert_same(tmp_path / f"{name}.onnx", tmp_path / f"{name}_single.onnx")
    assert operations(tmp_path / "static_single.onnx")["QuantizeLinear"] > 3


def test_a_wider_wire_state_is_carried(tmp_path: Path) -> None:
    general = network()
    export_onnx(general, tmp_path / "exact.onnx")
    export_onnx(general, tmp_path / "padded.onnx", general.state_size + 7)
    specialise(tmp_path / "padded.onnx", tmp_path / "single.onnx")
    assert_same(tmp_path / "padded.onnx", tmp_path / "single.onnx")
    exact, state = stepped(tmp_path / "single.onnx", rows())
    probabilities, outlook, _ = OnnxModel(tmp_path / "exact.onnx").predict(rows(), chunk=1)
    np.testing.assert_allclose(exact, np.concatenate([probabilities, outlook], axis=2), rtol=1e-5, atol=1e-6)
    assert not state[0, general.state_size :].any()


def test_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    export_onnx(network(), tmp_path / "general.onnx")
    for name in ("a", "b"):
        specialise(tmp_path / "general.onnx", tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], output: list[int]) -> onnx.ModelProto:
    def value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "one",
        [value("x", [1, 2, 1, 6])],
        [value("y", output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("nodes", "constants", "output"),
    [
        ([("Gather", ["x", "k"], ["y"], {"axis": 1})], {"k": np.array(-1)}, [1, 1, 6]),
        (
            [("Slice", ["x", "a", "b", "axes"], ["y"], {})],
            {"a": np.array([-1]), "b": np.array([2**62]), "axes": np.array([1])},
            [1, 1, 1, 6],
        ),
        (
            [("Slice", ["x", "a", "b", "axes"], ["y"], {})],
            {"a": np.array([1]), "b": np.array([-2]), "axes": np.array([-1])},
            [1, 2, 1, 3],
        ),
        (
            [("Split", ["x", "w"], ["p", "q"], {"axis": 1}), ("Sub", ["q", "p"], ["y"], {})],
            {"w": np.array([1, 1])},
            [1, 1, 1, 6],
        ),
        (
            [("Transpose", ["x"], ["t"], {"perm": [0, 2, 3, 1]}), ("Tanh", ["t"], ["y"], {})],
            {},
            [1, 1, 6, 2],
        ),
        (
            [("Transpose", ["x"], ["t"], {"perm": [2, 1, 0, 3]}), ("Concat", ["t", "x"], ["y"], {"axis": 2})],
            {},
            [1, 2, 2, 6],
        ),
        ([("Softmax", ["x"], ["y"], {"axis": 1})], {}, [1, 2, 1, 6]),
        ([("Add", ["x", "c"], ["y"], {})], {"c": np.arange(12, dtype=np.float32).reshape(2, 1, 6)}, [1, 2, 1, 6]),
        ([("Mul", ["x", "c"], ["y"], {})], {"c": np.arange(6, dtype=np.float32)}, [1, 2, 1, 6]),
        ([("Div", ["c", "x"], ["y"], {})], {"c": np.array([[3.0]], np.float32)}, [1, 2, 1, 6]),
        (
            [("Reshape", ["x", "s"], ["t"], {}), ("MatMul", ["t", "c"], ["y"], {})],
            {"s": np.array([1, 1, 12]), "c": np.arange(24, dtype=np.float32).reshape(12, 2)},
            [1, 1, 2],
        ),
    ],
)
def test_operations_that_are_rewritten_or_left_alone(
    nodes: list[tuple], constants: dict[str, np.ndarray], output: list[int]
) -> None:
    from onnx.reference import ReferenceEvaluator

    from lobsmith.compress.graph.squeeze import squeeze_shapes

    created = [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes]
    model = graph_of(created, constants, output)
    x = np.random.default_rng(2).normal(size=(1, 2, 1, 6)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    squeeze_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    (actual,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(actual, expected)
