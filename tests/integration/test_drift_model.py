"""`<model>_drift` beside `<model>` in the real Triton: a score goes and comes with its version."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from lobsmith.cli.main import cli
from lobsmith.features.definitions import COUNT
from lobsmith.params import Params
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish.promote import promote
from lobsmith.release.publish.score import catch_up
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.serving.endpoint import Endpoint
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, with_free_ports
from lobsmith.serving.triton.control import TritonControl, served_versions
from lobsmith.workspace import Workspace
from tests.served import publish_small
from tests.small import params_file, small_params

pytestmark = pytest.mark.integration


@pytest.fixture
def params() -> Params:
    return with_free_ports(small_params())


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    """A project with one version of `lob` and its score."""
    shutil.copy(params_file(), tmp_path / "params.yaml")
    workspace = Workspace(tmp_path)
    publish_small(workspace, params, seed=1, scored=True)
    return workspace


def block(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(1, rows, COUNT)).astype(np.float32)


def score(endpoint: Endpoint, rows: np.ndarray, version: int | None, *, over: str = "grpc") -> float:
    """Ask a version of `lob_drift`, by default the newest."""
    module = tritonclient.grpc if over == "grpc" else tritonclient.http
    with module.InferenceServerClient(endpoint.grpc_url if over == "grpc" else endpoint.http_url) as client:
        tensor = module.InferInput("rows", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        answer = client.infer("lob_drift", [tensor], model_version="" if version is None else str(version))
        value, contributions = answer.as_numpy("score"), answer.as_numpy("contributions")
    assert (value.shape, contributions.shape) == ((1, 1), (1, COUNT))
    return float(value[0, 0])


def expected(seed: int, rows: np.ndarray) -> float:
    return pytest.approx(seed * (rows**2).mean(axis=1).sum(), rel=1e-4)


def promote_candidate(workspace: Workspace, params: Params, seed: int) -> int:
    server = running_server(workspace, params)
    candidate = publish_small(workspace, params, seed=seed, model="lob_candidate", server=server, scored=True)
    source = Repository.of(workspace).directory("lob_candidate", candidate.version)
    return promote(Release(workspace, params, server), source, model="lob").version


def test_scores_are_asked_by_version_and_go_back_with_their_model(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    with running_triton(workspace, params) as control:
        first = repository.active("lob")
        second, third = (promote_candidate(workspace, params, seed) for seed in (2, 3))
        assert control.ready_versions("lob") == control.ready_versions("lob_drift") == [first, second, third]
        for over in ("grpc", "http"):
            for seed, version in ((1, first), (2, second), (3, third), (3, None)):
                rows = block(16 * seed)
                assert score(control.endpoint, rows, version, over=over) == expected(seed, rows)
        with_nan = block(16)
        with_nan[0, 3, 7] = np.nan
        with pytest.raises(InferenceServerException, match="only finite values are accepted"):
            score(control.endpoint, with_nan, third)

        rollback(Release(workspace, params, running_server(workspace, params)), "lob")
        assert control.ready_versions("lob") == control.ready_versions("lob_drift") == [first, second]
        assert score(control.endpoint, block(128), None) == expected(2, block(128))
        with pytest.raises(InferenceServerException, match=f"{third}"):
            score(control.endpoint, block(128), third)
        assert verify(workspace, served_versions(workspace)) == []

        shown = CliRunner().invoke(cli, ["--root", str(workspace.root), "status", "--json"])
        assert shown.exit_code == 0, shown.output
        assert f'"ready":[{first},{second}]' in "".join(shown.stdout.split())


def test_a_corrupt_score_keeps_no_model_from_answering(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    first = repository.active("lob")
    second = publish_small(workspace, params, seed=2, scored=True).version
    (repository.directory("lob_drift", second) / "model.onnx").write_bytes(b"nonsense")
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        assert control.ready_versions("lob") == [first, second]
        assert control.ready_versions("lob_drift") == [first]
        [skipped] = [event for event in events if event.kind is EventKind.SKIPPED]
        assert (skipped.model, skipped.version) == ("lob_drift", second)
        assert [event.model for event in events if event.kind is EventKind.LOADED] == ["lob", "lob_drift"]
        # The next publication leaves it out, sets it aside, and the one after makes it anew.
        server = running_server(workspace, params)
        third = publish_small(workspace, params, seed=3, scored=True, server=server).version
        assert control.ready_versions("lob") == [first, second, third]
        assert catch_up(Release(workspace, params, server), "lob") == {}
        assert control.ready_versions("lob_drift") == [first, second, third]
        assert verify(workspace, served_versions(workspace)) == []


def test_a_score_that_triton_cannot_load_is_reported_and_tried_again(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.of(workspace)
    with running_triton(workspace, params) as control:
        server = running_server(workspace, params)
        load = TritonControl.load

        def refuse(self, model, versions, **settings):
            # A file that Triton opens and the proof does not: what it refuses cannot be foreseen.
            broken = [
                repository.directory(model, version) / "model.onnx" for version in versions if model == "lob_drift"
            ]
            kept = {path: path.read_bytes() for path in broken[1:]}
            for path in kept:
                path.write_bytes(b"nonsense")
            try:
                load(self, model, versions, **settings)
            finally:
                for path, content in kept.items():
                    path.write_bytes(content)

        with monkeypatch.context() as patch:
            patch.setattr(TritonControl, "load", refuse)
            second = publish_small(workspace, params, seed=2, scored=True, server=server).version
        assert control.ready_versions("lob")[-1] == second
        assert second not in control.ready_versions("lob_drift")
        assert second in catch_up(Release(workspace, params, server), "lob")
        assert catch_up(Release(workspace, params, server), "lob", retry=True) == {}
        assert control.ready_versions("lob_drift") == control.ready_versions("lob")
        assert score(control.endpoint, block(32), second) == expected(2, block(32))
