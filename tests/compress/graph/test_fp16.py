from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.fp16 import convert_half
from lobsmith.compress.quantise.quantise import quantise
from lobsmith.compress.quantise.smoke_run import check_runs
from lobsmith.compress.runtime import ModelOutputs, OnnxModel
from lobsmith.errors import PrecisionError
from lobsmith.features.definitions import COUNT
from tests.compress.test_export import make_network
from tests.small import small_params

SETTINGS = small_params().compress
HalfPrecision = Literal["fp16", "bf16"]
TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    export_onnx(make_network(), path)
    return path


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_the_converted_graph_computes_the_same(
    precision: HalfPrecision, tolerance: float, source: Path, tmp_path: Path
) -> None:
    """ONNX's reference evaluator runs bf16; ONNX Runtime does not."""
    convert_half(source, tmp_path / "half.onnx", precision)
    model = OnnxModel(source)
    state = model.cold_state(2)
    evaluator = ReferenceEvaluator(str(tmp_path / "half.onnx"))
    for seed in range(2):
        features = np.random.default_rng(seed).normal(size=(2, 12, COUNT)).astype(np.float32)
        expected = model.run(features, state)
        actual = ModelOutputs(*evaluator.run(None, {"features": features, "state": state}))
        for name, array in actual._asdict().items():
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, getattr(expected, name), atol=5 * tolerance)
        assert 0 < np.abs(actual.probabilities - expected.probabilities).max() < tolerance
        state = actual.next_state


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_arithmetic_is_half_and_what_needs_range_is_not(precision: HalfPrecision, source: Path, tmp_path: Path) -> None:
    convert_half(source, tmp_path / "half.onnx", precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "half.onnx"), strict_mode=True)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    halves = {node.op_type for node in graph.node if types.get(node.output[0]) == TYPES[precision]} - {"Cast"}
    assert halves == {"Conv", "LeakyRelu", "LSTM", "MatMul"}
    floats = {node.op_type for node in graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT}
    assert floats >= {"Where", "Softmax", "Sub", "Div", "Clip"}
    assert floats.isdisjoint({"Conv", "LSTM", "MatMul"})


def test_outlying_features_and_a_cold_mask_stay_finite_in_fp16(source: Path, tmp_path: Path) -> None:
    """Both are beyond 65504, the largest fp16: a feature of 1e6 is clipped in float32, the mask is -1e30."""
    quantise(source, tmp_path / "half.onnx", "fp16", [], SETTINGS)
    features = np.random.default_rng(0).normal(size=(1, 40, COUNT)).astype(np.float32)
    features[0, ::5] *= 1e6
    model, half = OnnxModel(source), OnnxModel(tmp_path / "half.onnx")
    expected, actual = (graph.run(features, graph.cold_state()) for graph in (model, half))
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=2e-2)
    assert actual.next_state[0, -1] == expected.next_state[0, -1] == 16


def test_bf16_is_refused_where_onnx_runtime_has_no_kernel(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="bf16: not on this machine: .*compress.precisions") as raised:
        quantise(source, tmp_path / "half.onnx", "bf16", [], SETTINGS)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(PrecisionError, match="fp16: not on this machine: .*rotobuf"):
        check_runs(tmp_path / "broken.onnx", "fp16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_same_graph_gives_the_same_bytes(precision: HalfPrecision, source: Path, tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        convert_half(source, tmp_path / name, precision)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    network = make_network()
    assert network.readout is not None
    with torch.no_grad():
        network.readout.weight[0, 0] = 1e6
    export_onnx(network, tmp_path / "model.onnx")
    with pytest.raises(PrecisionError, match="1e\\+06"):
        quantise(tmp_path / "model.onnx", tmp_path / "half.onnx", "fp16", [], SETTINGS)
    assert not (tmp_path / "half.onnx").exists()
