"""Our `onnxruntime` backend with a stand-in for the module that Triton's stub provides."""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lobsmith.release.version import contract
from lobsmith.serving import backends
from tests.release import toy
from tests.release.scores import write_score


@dataclass
class Tensor:
    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


@dataclass
class TritonError:
    message: str
    code: str
    INVALID_ARG = "invalid"
    INTERNAL = "internal"


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None


@dataclass
class Counting:
    """An ONNX Runtime session that counts its runs."""

    session: Any
    batches: list[int] = field(default_factory=list)

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.batches.append(len(feed["features"]))
        return self.session.run(names, feed)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    stub = ModuleType("triton_python_backend_utils")
    stub.Tensor, stub.TritonError, stub.InferenceResponse = Tensor, TritonError, InferenceResponse
    stub.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name == name), None)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    path = Path(backends.__file__).parent / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("backend_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(backend: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "toy" / "7").mkdir(parents=True)
    toy.write_model(tmp_path / "toy" / "7" / "model.onnx")
    instance = backend.TritonPythonModel()
    instance.initialize({"model_repository": str(tmp_path / "toy"), "model_version": "7"})
    instance.session = Counting(instance.session)
    return instance


def request(features: np.ndarray, state: np.ndarray | None = None) -> list[Tensor]:
    state = np.zeros((len(features), toy.S), np.float32) if state is None else state
    return [Tensor("features", features), Tensor("state", state)]


def some(batch: int, rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, rows, toy.F)).astype(np.float32)


def test_the_longest_request_is_that_of_the_contract(backend: ModuleType) -> None:
    assert backend.MAX_ROWS == contract.MAX_ROWS


def test_a_score_is_served_whatever_its_tensors_and_lengths_are(backend: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    write_score(tmp_path / "7" / "model.onnx", features=toy.F)
    model = backend.TritonPythonModel()
    model.initialize({"model_repository": str(tmp_path), "model_version": "7"})
    blocks = [some(1, 16, 0), some(2, 128, 1), some(1, 16, 2), some(1, 2, 3)[:, :, :1]]
    *answers, refused = model.execute([[Tensor("rows", block)] for block in blocks])
    for block, answer in zip(blocks, answers, strict=False):
        outputs = {tensor.name: tensor.array for tensor in answer.output_tensors}
        want = (block**2).mean(axis=1)
        np.testing.assert_allclose(outputs["contributions"], want, rtol=1e-5)
        np.testing.assert_allclose(outputs["score"], want.sum(axis=1, keepdims=True), rtol=1e-5)
    assert refused.error.message == "rows: expected float32 [B, T, 3], got [1, 2, 1]"


def test_requests_of_one_length_share_a_run_and_get_their_own_answers(model: Any) -> None:
    requests = [request(some(b, t, seed)) for seed, (b, t) in enumerate([(1, 1), (2, 3), (1, 1), (3, 1), (1, 3)])]
    together = model.execute(requests)
    assert sorted(model.session.batches) == [3, 5]
    for single, response in zip(requests, together, strict=True):
        [alone] = model.execute([single])
        assert response.error is None
        assert [tensor.name for tensor in response.output_tensors] == ["probabilities", "outlook", "next_state"]
        for have, want in zip(response.output_tensors, alone.output_tensors, strict=True):
            assert have.name == want.name
            np.testing.assert_allclose(have.array, want.array, atol=1e-6)


def test_a_wrong_request_is_refused_alone(model: Any) -> None:
    nan, infinite = some(1, 4, 0), np.zeros((1, toy.S), np.float32)
    nan[0, 2, 1], infinite[0, 1] = np.nan, -np.inf
    wrong = {
        "features[0, 2, 1] is nan": request(nan),
        "state[0, 1] is -inf": request(some(1, 4, 1), infinite),
        "1 to 256 rows, got 257": request(some(1, 257, 2)),
        "expected float32 [B, T, 3], got [1, 4, 2]": request(some(1, 4, 3)[:, :, :2]),
        "expected float32 [1, 2], got [2, 2]": request(some(1, 4, 4), np.zeros((2, toy.S), np.float32)),
        "expected float32, got float64": request(some(1, 4, 5).astype(np.float64)),
        "state: missing": request(some(1, 4, 6))[:1],
    }
    responses = model.execute([request(some(1, 4, 7)), *wrong.values(), request(some(1, 4, 8))])
    assert responses[0].error is None
    assert responses[-1].error is None
    for part, response in zip(wrong, responses[1:-1], strict=True):
        assert part in response.error.message
        assert response.error.code == TritonError.INVALID_ARG


def test_a_failing_run_is_an_error_for_each_of_its_requests(model: Any) -> None:
    class Broken:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("out of\nmemory")

    model.session = Broken()
    responses = model.execute([request(some(1, 1, seed)) for seed in range(3)])
    assert [response.error.message for response in responses] == ["ONNX Runtime: out of memory"] * 3
