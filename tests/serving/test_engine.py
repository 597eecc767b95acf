"""The in-process engine on a published version."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress import GOLDEN, MODEL
from lobsmith.compress.golden import load_golden
from lobsmith.errors import ReleaseError, RequestError
from lobsmith.release.publish import publish
from lobsmith.release.repository import Repository
from lobsmith.serving.engine import Engine
from lobsmith.workspace import Workspace
from tests.release import toy


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    artifact = toy.artifact(workspace.root / "run")
    version = publish(workspace, toy.params(), artifact, model="toy", contract=toy.CONTRACT).version
    return Repository(workspace.repository).directory("toy", version)


def test_it_reproduces_the_golden_vectors(directory: Path) -> None:
    engine, golden = Engine(directory), load_golden(directory / GOLDEN)
    probabilities, outlook, state = engine.infer(golden.features, golden.state)
    np.testing.assert_allclose(probabilities, golden.probabilities, atol=1e-6)
    np.testing.assert_allclose(outlook, golden.outlook, atol=1e-6)
    np.testing.assert_allclose(state, golden.next_state, atol=1e-6)
    assert str(engine.version) == directory.name


def test_rows_one_by_one_equal_rows_at_once(directory: Path) -> None:
    engine = Engine(directory)
    rows = np.random.default_rng(0).normal(size=(2, 50, toy.F)).astype(np.float32)
    at_once = engine.infer(rows, np.zeros((2, toy.S), np.float32))
    assert at_once.outlook.shape == (2, 50, 2, 5)
    state = np.zeros((2, toy.S), np.float32)
    for t in range(50):
        step, outlook, state = engine.infer(rows[:, t : t + 1], state)
        np.testing.assert_allclose(step[:, 0], at_once.probabilities[:, t], atol=1e-5)
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
        Engine(directory).infer(features, state)


def test_a_changed_file_is_not_loaded(directory: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / MODEL).write_bytes((tmp_path / MODEL).read_bytes() + b"\0")
    with pytest.raises(ReleaseError, match=r"model\.onnx: changed"):
        Engine(tmp_path)
