"""The compiled step beside ONNX Runtime on the same file."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.fp16 import convert_half
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import BoundModel, OnnxModel
from lobsmith.compress.step import kernel
from lobsmith.compress.step.compiled import CompiledStep
from lobsmith.compress.timing import compare_times
from lobsmith.errors import PrecisionError, ReleaseError, RequestError
from lobsmith.features.stream import FeatureStream
from lobsmith.market.readers import read_captures
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import NETWORKS, build
from lobsmith.params import ModelParams
from lobsmith.serving.engine import check_request
from tests.small import small_params

TOLERANCE = 1e-5
SERVED = ModelParams(name="lob", network="cnn_lstm_attention", channels=16, hidden=32, layers=1, ring=64, attention=16)
ODD = structs.replace(SERVED, channels=7, hidden=13, layers=2, ring=9, attention=5)
PRUNED = structs.replace(SERVED, channels=12, hidden=20, ring=16, attention=6)
DEEP = structs.replace(SERVED, channels=4, hidden=24, layers=3, ring=20, attention=18)


def network(params: ModelParams, features: int, horizons: int = 3, *, seed: int = 3, std: float = 0.3) -> Network:
    torch.manual_seed(seed)
    built = build(params, features, tuple(100 * 2**h for h in range(horizons))).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=std)
    for tensor in (*built.calibration.buffers(), built.scale):
        tensor.uniform_(0.5, 1.5)
    built.location.normal_()
    return built


def exported(params: ModelParams, path: Path, *, features: int = 11, padding: int = 0, **options: float) -> Path:
    source = network(params, features, **options)
    export_onnx(source, path, source.state_size + padding)
    return path


def rows(count: int, features: int = 11) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, features)).astype(np.float32)


def stepped(model: BoundModel | CompiledStep, features: np.ndarray) -> np.ndarray:
    answers = []
    for row in features:
        model.features[0, 0] = row
        model.step()
        answers.append(np.concatenate([model.probabilities[0, 0], model.outlook[0, 0]], axis=1))
    return np.stack(answers)


def by_runtime(
    model: OnnxModel, features: np.ndarray, *, chunk: int = 1, state: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    probabilities, outlook, after = model.predict(features, chunk=chunk, state=state)
    return np.concatenate([probabilities, outlook], axis=2), after


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(actual - expected) / np.maximum(1, np.abs(expected))).max())


def assert_same(path: Path, features: np.ndarray) -> None:
    model = CompiledStep(path)
    expected, state = by_runtime(OnnxModel(path), features)
    actual = stepped(model, features)
    assert np.ptp(actual, axis=0).min() > 0
    assert difference(actual, expected) < TOLERANCE
    assert difference(model.state, state) < TOLERANCE


@pytest.mark.parametrize("params", [SERVED, ODD, PRUNED, DEEP])
@pytest.mark.parametrize("padding", [0, 7])
def test_answers_and_state_are_those_of_onnx_runtime(params: ModelParams, padding: int, tmp_path: Path) -> None:
    path = exported(params, tmp_path / "model.onnx", padding=padding)
    assert_same(path, rows(3 * params.ring + 5))


@pytest.fixture(scope="module")
def real_rows(recorded: Path) -> np.ndarray:
    session = read_captures([recorded / "binance" / "usdm-btcusdt-20240808.gz"])
    features = FeatureStream(session.instrument, small_params().features).push(session.events).features[:3000]
    assert len(features) == 3000
    return features


@pytest.mark.recorded
@pytest.mark.parametrize("params", [SERVED, structs.replace(SERVED, layers=2)])
def test_the_same_on_recorded_rows(params: ModelParams, real_rows: np.ndarray, tmp_path: Path) -> None:
    features = real_rows
    source = network(params, features.shape[1], horizons=4, std=0.2)
    source.location.copy_(torch.from_numpy(features.mean(axis=0)))
    source.scale.copy_(torch.from_numpy(features.std(axis=0).clip(1e-3)))
    export_onnx(source, tmp_path / "model.onnx")
    assert_same(tmp_path / "model.onnx", features)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.fixed_dictionaries(
        {
            "channels": st.integers(1, 40),
            "hidden": st.integers(1, 40),
            "layers": st.integers(1, 3),
            "ring": st.integers(2, 40),
            "attention": st.integers(1, 40),
        }
    ),
    features=st.integers(1, 90),
    horizons=st.integers(1, 6),
    seed=st.integers(0, 9),
    std=st.sampled_from([0.05, 0.2, 0.3]),
)
def test_any_sizes(sizes: dict[str, int], features: int, horizons: int, seed: int, std: float, tmp_path: Path) -> None:
    source = network(structs.replace(SERVED, **sizes), features, horizons, seed=seed, std=std)
    export_onnx(source, tmp_path / "any.onnx")
    inputs = rows(2 * sizes["ring"] + 3, features)
    model = CompiledStep(tmp_path / "any.onnx")
    expected, state = by_runtime(OnnxModel(tmp_path / "any.onnx"), inputs)
    assert difference(stepped(model, inputs), expected) < TOLERANCE
    assert difference(model.state, state) < TOLERANCE


@pytest.mark.parametrize("first", [3, 9, 40])
def test_a_stream_goes_back_and_forth(first: int, tmp_path: Path) -> None:
    """Handed over while the ring is not full, when it just is, and long after."""
    path = exported(ODD, tmp_path / "model.onnx", padding=7)
    features, runtime, model = rows(first + 60), OnnxModel(path), CompiledStep(path)
    expected, _ = by_runtime(runtime, features)
    _, state = by_runtime(runtime, features[:first], chunk=32)
    model.state[:] = state
    np.testing.assert_array_equal(model.state, state)
    between = stepped(model, features[first : first + 30])
    after, _ = by_runtime(runtime, features[first + 30 :], chunk=16, state=model.state.copy())
    assert difference(np.concatenate([between, after]), expected[first:]) < TOLERANCE


def test_zeros_begin_a_new_stream(tmp_path: Path) -> None:
    model = CompiledStep(exported(ODD, tmp_path / "model.onnx"))
    assert not model.state.any()
    cold = stepped(model, rows(25))
    assert np.abs(stepped(model, rows(25)) - cold).max() > 1e-3
    model.state[:] = 0.0
    np.testing.assert_array_equal(stepped(model, rows(25)), cold)


def test_reading_the_state_changes_nothing(tmp_path: Path) -> None:
    path = exported(ODD, tmp_path / "model.onnx")
    model, read = CompiledStep(path), CompiledStep(path)
    expected, actual = stepped(model, rows(25)), []
    for row in rows(25):
        actual.append(stepped(read, row[np.newaxis])[0])
        np.testing.assert_array_equal(read.state, read.state.copy())
    np.testing.assert_array_equal(np.stack(actual), expected)
    np.testing.assert_array_equal(read.state, model.state)


def test_it_takes_the_place_of_a_bound_model(tmp_path: Path) -> None:
    path = exported(ODD, tmp_path / "model.onnx", padding=7)
    specialise(path, tmp_path / "step.onnx")
    model, bound = CompiledStep(path), BoundModel(tmp_path / "step.onnx")
    for name in ("features", "probabilities", "outlook", "state"):
        actual, expected = getattr(model, name), getattr(bound, name)
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert difference(stepped(model, rows(30)), stepped(bound, rows(30))) < TOLERANCE


@pytest.mark.parametrize("forgets", [False, True])
def test_it_is_timed_beside_onnx_runtime(forgets: bool, tmp_path: Path) -> None:
    path = exported(ODD, tmp_path / "model.onnx")
    model, reference = partial(BoundModel, path, rows=5), partial(CompiledStep, path)
    timing = compare_times(model, reference, "step", rows(30), 60, forgets=forgets)
    assert timing.calls == 120
    assert 0 < timing.reference_p50_us <= timing.reference_p99_us


def test_what_serves_needs_no_torch() -> None:
    code = "import sys, lobsmith.compress.step.compiled; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_value_that_is_not_finite_is_refused_before_and_shows_after(tmp_path: Path) -> None:
    model = CompiledStep(exported(ODD, tmp_path / "model.onnx"))
    row = rows(1)
    row[0, 4] = np.nan
    with pytest.raises(RequestError, match="only finite"):
        check_request(row[np.newaxis], model.state, 11, model.state.shape[1])
    assert np.isnan(stepped(model, row)).all()
    assert np.isnan(stepped(model, rows(1))).all()
    model.state[:] = 0.0
    assert np.isfinite(stepped(model, rows(1))).all()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "cnn_lstm_attention"])
def test_other_networks_are_refused(name: str, tmp_path: Path) -> None:
    source = network(structs.replace(SERVED, network=name), 75)
    export_onnx(source, tmp_path / "model.onnx")
    with pytest.raises(
        PrecisionError, match=r"model.onnx: not a network that the compiled step supports .* ONNX Runtime runs it$"
    ):
        CompiledStep(tmp_path / "model.onnx")


def test_other_arithmetics_and_specialised_graphs_are_refused(tmp_path: Path) -> None:
    path = exported(ODD, tmp_path / "model.onnx")
    quantize_dynamic(str(path), str(tmp_path / "int8.onnx"))
    convert_half(path, tmp_path / "fp16.onnx", "fp16")
    specialise(path, tmp_path / "step.onnx")
    for name in ("int8", "fp16", "step"):
        with pytest.raises(PrecisionError, match="the compiled step supports"):
            CompiledStep(tmp_path / f"{name}.onnx")


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_bad_model_file_is_one_clear_error(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises((PrecisionError, ReleaseError), match="model.onnx"):
        CompiledStep(tmp_path / "model.onnx")


def changed(path: Path, operation: str, number: int, value: float) -> None:
    """Overwrite the scalar constant that is an input of the only node of an operation."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == operation)
    (constant,) = (other for other in model.graph.node if other.output[0] == node.input[number])
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(value, np.float32)))
    onnx.save(model, path)


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """The comparison with ONNX Runtime covers what the walk does not check."""
    path = exported(ODD, tmp_path / "model.onnx")
    changed(path, "Where", 1, -1.0)
    with pytest.raises(PrecisionError, match="differs from ONNX Runtime"):
        CompiledStep(path)


def test_another_slope_is_refused(tmp_path: Path) -> None:
    path = exported(ODD, tmp_path / "model.onnx")
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "LeakyRelu").attribute[0].f = 0.2
    onnx.save(model, path)
    with pytest.raises(PrecisionError, match="slope"):
        CompiledStep(path)


def test_exponential_and_hyperbolic_tangent() -> None:
    x = np.concatenate([np.linspace(-86, 20, 20_001), np.geomspace(1e-30, 1, 1000)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs([kernel.exp(value) for value in x] - exact) / exact).max() < 2e-7
    assert 0 < kernel.exp(np.float32(-1e30)) < 1e-37
    wide = np.concatenate([x, -x])
    assert np.abs([kernel.tanh(value) for value in wide] - np.tanh(wide.astype(np.float64))).max() < 3e-7
    for function in (kernel.exp, kernel.tanh):
        assert np.isnan(function(np.float32(np.nan)))
