"""The in-process engine on a published version."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lobsmith.compress import GOLDEN, MODEL
from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors, load_golden
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import ReleaseError, RequestError
from lobsmith.models.networks.registry import build
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import wire_contract
from lobsmith.serving.engine import Engine
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish
from tests.served import rows
from tests.small import small_params


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    artifact = toy.artifact(workspace.root / "run")
    version = publish(Release(workspace, toy.params()), artifact, model="toy", contract=toy.CONTRACT).version
    return Repository.of(workspace).directory("toy", version)


def test_it_reproduces_the_golden_vectors(directory: Path) -> None:
    engine, golden = Engine(directory, toy.trust_of(directory)), load_golden(directory / GOLDEN)
    probabilities, outlook, state = engine.infer(golden.features, golden.state)
    np.testing.assert_allclose(probabilities, golden.probabilities, atol=1e-6)
    np.testing.assert_allclose(outlook, golden.outlook, atol=1e-6)
    np.testing.assert_allclose(state, golden.next_state, atol=1e-6)
    assert str(engine.version) == directory.name


def test_rows_one_by_one_equal_rows_at_once(directory: Path) -> None:
    engine = Engine(directory, toy.trust_of(directory))
    rows = np.random.default_rng(0).normal(size=(2, 50, toy.F)).astype(np.float32)
    at_once = engine.infer(rows, np.zeros((2, toy.S), np.float32))
    assert at_once.outlook.shape == (2, 50, 2, 5)
    state = np.zeros((2, toy.S), np.float32)
    for t in range(50):
        probabilities, outlook, state = engine.infer(rows[:, t : t + 1], state)
        np.testing.assert_allclose(probabilities[:, 0], at_once.probabilities[:, t], atol=1e-5)
        np.testing.assert_allclose(outlook[:, 0], at_once.outlook[:, t], atol=1e-5)
    np.testing.assert_allclose(state, at_once.next_state, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "state", "message"),
    [
        (
            np.zeros((1, 1, 4), np.float32),
            np.zeros((1, 2), np.float32),
            r"expected \[B, T, 3\], got \[1, 1, 4\]",
        ),
        (np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32), r"features: expected \[B, T, 3\], got \[1, 3\]"),
        (np.zeros((1, 0, 3), np.float32), np.zeros((1, 2), np.float32), "1 to 256 rows"),
        (np.zeros((1, 257, 3), np.float32), np.zeros((1, 2), np.float32), "1 to 256 rows"),
        (np.zeros((1, 1, 3)), np.zeros((1, 2), np.float32), "features: expected float32, got float64"),
        (np.zeros((2, 1, 3), np.float32), np.zeros((1, 2), np.float32), r"state: expected \[2, 2\], got \[1, 2\]"),
        (np.full((1, 1, 3), np.nan, np.float32), np.zeros((1, 2), np.float32), r"features\[0, 0, 0\] is nan"),
        (np.zeros((1, 1, 3), np.float32), np.full((1, 2), np.inf, np.float32), r"state\[0, 0\] is inf"),
    ],
)
def test_a_wrong_request_is_refused(directory: Path, features: np.ndarray, state: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Engine(directory, toy.trust_of(directory)).infer(features, state)


def test_a_changed_file_is_not_loaded(directory: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / MODEL).write_bytes((tmp_path / MODEL).read_bytes() + b"\0")
    with pytest.raises(ReleaseError, match=r"model\.onnx: changed"):
        Engine(tmp_path, toy.trust_of(directory))


@pytest.fixture(scope="module")
def with_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    params = small_params()
    torch.manual_seed(4)
    contract = wire_contract(params)
    network = build(params.model, contract.feature_count, contract.horizons_ms).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = workspace.root / "model.onnx"
    export_onnx(network, path)
    specialise(path, workspace.root / "step.onnx")
    artifact = Artifact(
        model_path=path,
        step_path=workspace.root / "step.onnx",
        golden=golden_vectors(OnnxModel(path), rows(128)),
        prime_rows=16,
        instruments=(),
        data_fingerprint="0" * 64,
        verdicts=(),
        metrics={},
    )
    version = publish(Release(workspace, params), artifact, model="lob", contract=contract).version
    return Repository.of(workspace).directory("lob", version)


def test_single_rows_through_their_own_graph_equal_chunks(with_step: Path) -> None:
    engine, features = Engine(with_step, toy.trust_of(with_step)), rows(300)[None]
    state = np.zeros((1, engine.manifest.contract.state_size), np.float32)
    at_once = engine.infer(features[:, :250], state)
    answers = []
    for t in range(250):
        answer = engine.infer(features[:, t : t + 1], state)
        state = answer.next_state
        answers.append(answer)
    np.testing.assert_allclose(
        np.concatenate([answer.probabilities for answer in answers], axis=1), at_once.probabilities, atol=1e-5
    )
    np.testing.assert_allclose(
        np.concatenate([answer.outlook for answer in answers], axis=1), at_once.outlook, atol=1e-5
    )
    np.testing.assert_allclose(state, at_once.next_state, atol=1e-5)
    # The state goes from one graph to the other in the middle of a stream.
    rest = engine.infer(features[:, 250:], state)
    whole = engine.infer(features[:, 250:], at_once.next_state)
    np.testing.assert_allclose(rest.probabilities, whole.probabilities, atol=1e-5)


def test_an_answer_is_the_callers_to_keep(with_step: Path) -> None:
    engine = Engine(with_step, toy.trust_of(with_step))
    state = np.zeros((1, engine.manifest.contract.state_size), np.float32)
    first = engine.infer(rows(1)[None], state)
    kept = [tensor.copy() for tensor in first]
    engine.infer(rows(1, seed=5)[None], first.next_state)
    for tensor, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(tensor, before)
    assert not state.any()


def test_threads_that_share_an_engine_do_not_mix_their_streams(with_step: Path) -> None:
    engine = Engine(with_step, toy.trust_of(with_step))
    size = engine.manifest.contract.state_size

    def stream(seed: int) -> np.ndarray:
        state, answers = np.zeros((1, size), np.float32), []
        for row in rows(200, seed=seed):
            answer = engine.infer(row[None, None], state)
            state = answer.next_state
            answers.append(answer.probabilities[0, 0])
        return np.stack(answers)

    alone = [stream(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(stream, range(4)))
    for expected, actual in zip(alone, together, strict=True):
        np.testing.assert_array_equal(expected, actual)


def test_one_row_that_is_not_finite_is_refused(with_step: Path) -> None:
    """F29: a fused graph may hide it."""
    engine = Engine(with_step, toy.trust_of(with_step))
    features = rows(1)[None].copy()
    features[0, 0, 3] = np.nan
    with pytest.raises(RequestError, match=r"features\[0, 0, 3\] is nan"):
        engine.infer(features, np.zeros((1, engine.manifest.contract.state_size), np.float32))
