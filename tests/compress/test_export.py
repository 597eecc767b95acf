from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs

from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import TOLERANCE, golden_vectors, load_golden, measure_prime_rows, save_golden
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import ReleaseError
from lobsmith.features.definitions import COUNT
from lobsmith.files import sha256_file
from lobsmith.gates.parity import parity
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import NETWORKS, build
from lobsmith.params import ModelParams
from tests.another_process import run_in_another_process

HORIZONS = (100, 1000)
PARAMS = ModelParams(name="lob", network="cnn_lstm_attention", channels=8, hidden=12, layers=2, ring=16, attention=6)


def make_network(seed: int = 1) -> Network:
    torch.manual_seed(seed)
    network = build(PARAMS, COUNT, HORIZONS).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(make_network(), path)
    return path


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1000, COUNT)).astype(np.float32)


def test_chunks_equal_steps_and_pytorch(path: Path, rows: np.ndarray) -> None:
    verdict = parity(make_network(), OnnxModel(path), rows, 1e-5)
    assert verdict.passed, verdict
    assert verdict.value <= 1e-5
    assert set(verdict.evidence) >= {"at_once", "stepped", "batch"}


def test_the_state_after_a_chunk_equals_that_after_its_steps(path: Path, rows: np.ndarray) -> None:
    model = OnnxModel(path)
    _, _, chunked = model.predict(rows, chunk=1000)
    _, _, stepped = model.predict(rows, chunk=1)
    np.testing.assert_allclose(chunked, stepped, atol=1e-5)


def test_parity_refuses_another_network(path: Path, rows: np.ndarray) -> None:
    assert not parity(make_network(seed=2), OnnxModel(path), rows, 1e-5).passed


def test_parity_refuses_a_network_with_constant_outputs(tmp_path: Path, rows: np.ndarray) -> None:
    torch.manual_seed(1)
    constant = build(PARAMS, COUNT, HORIZONS).eval()
    export_onnx(constant, tmp_path / "model.onnx")
    verdict = parity(constant, OnnxModel(tmp_path / "model.onnx"), rows, 1e-5)
    assert not verdict.passed
    assert verdict.evidence["constant"]


@pytest.mark.parametrize("seed", [1, 2])
def test_parity_compares_every_output(path: Path, rows: np.ndarray, seed: int) -> None:
    """Networks that differ in their auxiliary outputs only are two networks."""
    network = make_network()
    network.calibration.move_scale.fill_(seed)
    assert parity(network, OnnxModel(path), rows, 1e-5).passed is (seed == 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_registry_is_exported_as_it_is(name: str, rows: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build(structs.replace(PARAMS, network=name), COUNT, HORIZONS).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    export_onnx(network, tmp_path / "model.onnx")
    model = OnnxModel(tmp_path / "model.onnx")
    assert (model.feature_count, model.state_size) == (COUNT, network.state_size)
    verdict = parity(network, model, rows, 1e-5)
    assert verdict.passed, verdict


def test_one_file_with_dynamic_batch_and_time(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    size = 2 * 2 * 12 + 2 * 16 * 6 + 1
    assert shapes["features"] == ["batch", "time", COUNT]
    assert shapes["state"] == ["batch", size]
    assert shapes["probabilities"][:2] == shapes["outlook"][:2] == ["batch", "time"]
    assert list(shapes) == ["features", "state", "probabilities", "outlook", "next_state"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_another_process_exports_the_same_bytes(path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lobsmith.compress.export import export_onnx;"
        "from tests.compress.test_export import make_network; export_onnx(make_network(), Path(sys.argv[1]))"
    )
    target = tmp_path / "again.onnx"
    run_in_another_process(code, target)
    assert sha256_file(target) == sha256_file(path)


def test_after_priming_a_cold_start_agrees(path: Path, rows: np.ndarray) -> None:
    model = OnnxModel(path)
    prime = measure_prime_rows(model, rows)
    assert 1 < prime < 400
    reference, _, _ = model.predict(rows)
    cold, _, _ = model.predict(rows[500:])
    assert np.abs(cold[prime:] - reference[500 + prime :]).max() <= TOLERANCE


def test_golden_vectors_survive_a_round_trip(path: Path, rows: np.ndarray, tmp_path: Path) -> None:
    golden = golden_vectors(OnnxModel(path), rows)
    save_golden(golden, tmp_path / "golden.safetensors")
    loaded = vars(load_golden(tmp_path / "golden.safetensors"))
    assert list(loaded) == ["features", "state", "probabilities", "outlook", "next_state"]
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, getattr(golden, name))


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_bad_model_file_is_one_clear_error(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match="model.onnx"):
        OnnxModel(tmp_path / "model.onnx")
