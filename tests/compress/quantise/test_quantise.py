import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.fp16 import convert_half
from lobsmith.compress.quantise.quantise import quantise
from lobsmith.compress.quantise.ranges import activation_ranges
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import PrecisionError
from lobsmith.features.definitions import COUNT
from lobsmith.models.networks.registry import build
from lobsmith.params import CompressParams
from lobsmith.release.checks.model_file import check_model_file
from lobsmith.release.version.contract import WireContract
from tests.another_process import run_in_another_process
from tests.compress.test_export import HORIZONS, PARAMS, make_network
from tests.small import small_params

SETTINGS = small_params().compress
needs_tensorrt = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: pip install lobsmith[tensorrt-rtx]"
)
RUNNABLE = ("fp32", "int8_dynamic", "int8_static", "fp16")
METHODS = ("percentile", "entropy")


def settings(**changes: object) -> CompressParams:
    return structs.replace(SETTINGS, **changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    export_onnx(make_network(), path)
    return path


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1000, COUNT)).astype(np.float32)


@pytest.fixture(scope="module")
def candidates(source: Path, rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("candidates")
    made = {}
    for precision in RUNNABLE:
        made[precision] = directory / f"{precision}.onnx"
        quantise(source, made[precision], precision, [rows[:400], rows[400:700]], SETTINGS)
    assert sorted(directory.iterdir()) == sorted(made.values())
    return made


@pytest.mark.parametrize("precision", RUNNABLE)
def test_a_candidate_keeps_the_wire_contract(precision: str, candidates: dict[str, Path]) -> None:
    state = OnnxModel(candidates["fp32"]).state_size
    contract = WireContract(feature_count=COUNT, state_size=state, horizons_ms=HORIZONS, definitions_sha256="0" * 64)
    check_model_file(candidates[precision], contract)


@pytest.mark.parametrize(("precision", "tolerance"), [("int8_dynamic", 0.1), ("int8_static", 0.1), ("fp16", 2e-3)])
def test_a_candidate_says_nearly_what_the_source_says(
    precision: str, tolerance: float, candidates: dict[str, Path], source: Path, rows: np.ndarray
) -> None:
    """The first rows are cold: their attention is masked all over the ring."""
    want, have = OnnxModel(source).predict(rows), OnnxModel(candidates[precision]).predict(rows)
    difference = np.abs(have[0] - want[0]).max()
    assert 0 < difference < tolerance
    assert (have[0].argmax(axis=2) == want[0].argmax(axis=2)).mean() > 0.97
    np.testing.assert_allclose(have[1], want[1], atol=5 * tolerance)


@pytest.mark.parametrize("precision", ["int8_static", "fp16"])
def test_chunks_steps_and_batches_agree(precision: str, candidates: dict[str, Path], rows: np.ndarray) -> None:
    model = OnnxModel(candidates[precision])
    at_once, stepped = model.predict(rows[:64], chunk=64), model.predict(rows[:64], chunk=1)
    # A sum in another order may round to the next integer.
    np.testing.assert_allclose(stepped[0], at_once[0], atol=5e-3)
    both = model.run(np.stack([rows[:64], rows[64:128]]), model.cold_state(2))
    np.testing.assert_allclose(both.probabilities[0], at_once[0], atol=5e-3)


def test_fp32_is_a_copy(candidates: dict[str, Path], source: Path) -> None:
    assert candidates["fp32"].read_bytes() == source.read_bytes()


def test_static_int8_quantises_products_with_weights_and_leaves_the_rest(candidates: dict[str, Path]) -> None:
    graph = onnx.load(candidates["int8_static"]).graph
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = {tensor.name: tensor for tensor in graph.initializer}
    quantised = 0
    for node in graph.node:
        dequantised = [name in made_by and made_by[name].op_type == "DequantizeLinear" for name in node.input]
        if not any(dequantised):
            continue
        quantised += 1
        assert node.op_type in ("Conv", "Gemm", "MatMul")
        assert dequantised == [True, True, False][: len(node.input)]
        weight = made_by[node.input[1]]
        assert kinds[weight.input[0]].data_type == onnx.TensorProto.INT8
        axis = 0 if node.op_type == "Conv" else 1
        assert list(kinds[weight.input[1]].dims) == [kinds[weight.input[0]].dims[axis]]
    assert quantised == 5
    assert not any(kinds[one].data_type == onnx.TensorProto.INT32 for one in kinds)


def test_static_int8_weights_are_off_by_at_most_half_a_step(candidates: dict[str, Path], source: Path) -> None:
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    quantised = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(candidates["int8_static"]).graph.initializer
    }
    names = [name.removesuffix("_quantized") for name in quantised if name.endswith("_quantized")]
    assert len(names) == 5
    for name in names:
        weight, scale = weights[name], quantised[f"{name}_scale"]
        scale = scale.reshape(-1, 1, 1) if weight.ndim == 3 else scale
        assert (np.abs(quantised[f"{name}_quantized"] * scale - weight) <= scale * 0.5001).all()
        assert np.abs(quantised[f"{name}_quantized"]).max() == 127


def test_dynamic_int8_quantises_the_lstm(candidates: dict[str, Path]) -> None:
    kinds = {node.op_type for node in onnx.load(candidates["int8_dynamic"]).graph.node}
    assert kinds >= {"DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger"}
    assert "LSTM" not in kinds


def test_another_process_writes_the_same_bytes(candidates: dict[str, Path], source: Path, tmp_path: Path) -> None:
    precisions = "int8_dynamic", "int8_static", "fp16"
    code = (
        "import sys, numpy as np; from pathlib import Path; from lobsmith.compress.quantise.quantise import quantise;"
        "from tests.compress.quantise.test_quantise import SETTINGS, COUNT;"
        "rows = np.random.default_rng(0).normal(size=(1000, COUNT)).astype(np.float32);"
        "[quantise(Path(sys.argv[1]), Path(sys.argv[2]) / one, one, [rows[:400], rows[400:700]], SETTINGS)"
        " for one in sys.argv[3:]]"
    )
    done = run_in_another_process(code, source, tmp_path, *precisions)
    for precision in precisions:
        assert (tmp_path / precision).read_bytes() == candidates[precision].read_bytes(), precision
    assert done.stdout == done.stderr == b""


@pytest.mark.parametrize("method", METHODS)
def test_ranges_cover_almost_all_and_leave_out_the_outlier(method: str, source: Path, rows: np.ndarray) -> None:
    tensor = "/Clip_output_0"
    calm = 0.1 * rows[:600]
    wild = calm.copy()
    wild[300, 7] = 5.0
    model = onnx.load(source)
    limits = activation_ranges(model, [tensor], [wild], settings(calibration=method, percentile=99.9))
    assert 0.2 < limits[tensor] < 1.0
    whole = activation_ranges(model, [tensor], [wild], settings(percentile=100))
    assert whole[tensor] == pytest.approx(5.0)


def test_the_percentile_is_that_of_all_rows_that_count(source: Path, rows: np.ndarray) -> None:
    tensor = "/Clip_output_0"
    limits = activation_ranges(onnx.load(source), [tensor], [rows[:300], rows[300:600]], settings(percentile=95))
    counted = np.abs(np.concatenate([rows[64:300], rows[364:600]]))
    assert limits[tensor] == pytest.approx(np.percentile(counted, 95), rel=2e-3)


def test_no_more_rows_are_measured_than_asked_for(source: Path, rows: np.ndarray) -> None:
    tensor = "/Clip_output_0"
    late = rows.copy()
    late[900:] = 7.0
    limits = activation_ranges(onnx.load(source), [tensor], [late], settings(calibration_rows=256, percentile=100))
    assert limits[tensor] < 7.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e30])
def test_constant_rows_give_a_model_that_is_right_on_them(
    value: float, method: str, source: Path, tmp_path: Path
) -> None:
    constant = np.full((200, COUNT), value, np.float32)
    quantise(source, tmp_path / "int8.onnx", "int8_static", [constant], settings(calibration=method))
    have, want = OnnxModel(tmp_path / "int8.onnx").predict(constant), OnnxModel(source).predict(constant)
    np.testing.assert_allclose(have[0], want[0], atol=0.1)
    elsewhere = OnnxModel(tmp_path / "int8.onnx").predict(
        np.random.default_rng(1).normal(size=constant.shape).astype(np.float32)
    )
    assert np.isfinite(elsewhere[0]).all()


@pytest.mark.parametrize("length", [1, 2, 65])
def test_a_very_short_stream_is_enough(length: int, source: Path, rows: np.ndarray, tmp_path: Path) -> None:
    quantise(source, tmp_path / "int8.onnx", "int8_static", [rows[:length]], SETTINGS)
    assert np.isfinite(OnnxModel(tmp_path / "int8.onnx").predict(rows)[0]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ([], "no row"),
        ([np.zeros((0, COUNT), np.float32)], "no row"),
        ([np.full((100, COUNT), np.nan, np.float32)], "row 0 of calibration stream 0 is not finite"),
        ([np.zeros((9, COUNT), np.float32), np.full((9, COUNT), np.inf, np.float32)], "stream 1 is not finite"),
        ([np.zeros((100, COUNT - 1), np.float32)], "has shape"),
    ],
)
def test_streams_that_say_nothing_are_one_clear_error_and_leave_nothing(
    streams: list[np.ndarray],
    words: str,
    method: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (tmp_path / "int8.onnx").write_bytes(b"of an earlier call")
    with pytest.raises(PrecisionError, match=words) as raised:
        quantise(source, tmp_path / "int8.onnx", "int8_static", streams, settings(calibration=method))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.rglob("*")) == [scratch]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("precision", ["int8_dynamic", "int8_static", "fp16", "bf16"])
def test_a_graph_without_products_has_nothing_to_quantise(precision: str, rows: np.ndarray, tmp_path: Path) -> None:
    float32 = onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Neg", ["features"], ["probabilities"], "negate"),
            onnx.helper.make_node("Identity", ["features"], ["outlook"], "keep"),
            onnx.helper.make_node("Identity", ["state"], ["next_state"], "carry"),
        ],
        "bare",
        [value("features", float32, ["b", "t", COUNT]), value("state", float32, ["b", 1])],
        [value(name, float32, None) for name in ("probabilities", "outlook", "next_state")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    source = tmp_path / "bare.onnx"
    onnx.save(model, source)
    with pytest.raises(PrecisionError, match=precision):
        quantise(source, tmp_path / "other.onnx", precision, [rows], SETTINGS)
    assert list(tmp_path.iterdir()) == [source]


def test_equal_weights_are_quantised_each(tmp_path: Path, rows: np.ndarray) -> None:
    """The exporter writes them once."""
    network = make_network()
    with torch.no_grad():
        network.trunk.key.weight.copy_(network.trunk.query.weight)
        network.trunk.value.weight.zero_()
    export_onnx(network, tmp_path / "model.onnx")
    quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", "int8_static", [rows], SETTINGS)
    products = [node for node in onnx.load(tmp_path / "int8.onnx").graph.node if "dequantized" in "".join(node.input)]
    assert len(products) == 5
    want, have = OnnxModel(tmp_path / "model.onnx").predict(rows), OnnxModel(tmp_path / "int8.onnx").predict(rows)
    np.testing.assert_allclose(have[0], want[0], atol=0.1)


@needs_tensorrt
def test_tensorrt_takes_static_int8(candidates: dict[str, Path]) -> None:
    assert parser_errors(candidates["int8_static"]) == []


@needs_tensorrt
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_takes_half_precision(precision: Literal["fp16", "bf16"], source: Path, tmp_path: Path) -> None:
    convert_half(source, tmp_path / "half.onnx", precision)
    assert parser_errors(tmp_path / "half.onnx") == []


@needs_tensorrt
def test_tensorrt_refuses_dynamic_int8(candidates: dict[str, Path]) -> None:
    """The parser that the other tests ask can say no."""
    assert parser_errors(candidates["int8_dynamic"]) != []


def parser_errors(path: Path) -> list[str]:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parser.parse(path.read_bytes())
    return [parser.get_error(index).desc() for index in range(parser.num_errors)]


def test_an_unknown_precision_names_those_there_are(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="int4.*int8_static"):
        quantise(source, tmp_path / "model.onnx", "int4", [], SETTINGS)


@pytest.mark.parametrize("name", ["lstm", "deeplob", "bin_ctabl"])
@pytest.mark.parametrize("precision", ["int8_static", "fp16"])
def test_other_networks_can_be_compressed(name: str, precision: str, rows: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build(structs.replace(PARAMS, network=name), COUNT, HORIZONS).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    export_onnx(network, tmp_path / "model.onnx")
    quantise(tmp_path / "model.onnx", tmp_path / "small.onnx", precision, [rows[:200]], SETTINGS)
    want, have = (OnnxModel(tmp_path / one).predict(rows[:200]) for one in ("model.onnx", "small.onnx"))
    np.testing.assert_allclose(have[0], want[0], atol=0.1 if precision == "int8_static" else 2e-3)
