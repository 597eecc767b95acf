"""`<model>_trt` beside `<model>` in the real Triton.

There is neither a GPU nor NVIDIA's TensorRT backend where these tests run. What a client sees of plans is their name
and the wire contract, so the ONNX file of the same version, under the plans' name, stands in for them.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from click.testing import CliRunner
from msgspec import structs

from lobsmith.cli.main import cli
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import ServingError
from lobsmith.params import ClientParams, Params
from lobsmith.release.context import Release
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import check_files, write_manifest
from lobsmith.release.version.signing import signer
from lobsmith.release.version.triton_config import config_text
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, with_free_ports
from lobsmith.serving.triton.control import TritonControl
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.workspace import Workspace
from tests.release import plans
from tests.served import publish_small, rows
from tests.small import params_file, small_params

pytestmark = pytest.mark.integration

CLIENT = ClientParams(deadline_s=10.0, poll_s=0.2)
"""A deadline that a busy machine keeps."""


@pytest.fixture
def params() -> Params:
    return with_free_ports(small_params())


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    """A project with two versions of `lob`."""
    shutil.copy(params_file(), tmp_path / "params.yaml")
    workspace = Workspace(tmp_path)
    for seed in (1, 2):
        publish_small(workspace, params, seed=seed)
    return workspace


def stand_in(workspace: Workspace, root: Path, onnx: Repository) -> Repository:
    """Make `lob_trt` of the ONNX files of all versions of `lob`, in the repository at `root`."""
    versions = onnx.listed("lob")
    for version in versions:
        directory = root / "lob_trt" / str(version)
        shutil.copytree(onnx.directory("lob", version), directory)
        write_manifest(directory, structs.replace(onnx.verify("lob", version), model="lob_trt"), signer(workspace))
    contract = onnx.contract("lob")
    assert contract is not None
    text = config_text("lob_trt", contract, versions=versions, prime_rows=64, max_batch=64, warmup=5)
    (root / "lob_trt" / "config.pbtxt").write_text(text)
    return Repository(root, onnx.trust)


class Stream:
    """A client of a running server, what it answered, and how often each model ran."""

    def __init__(self, control: TritonControl, kind: type[GrpcTransport] | type[HttpTransport]) -> None:
        self.endpoint = control.endpoint
        url = self.endpoint.grpc_url if kind is GrpcTransport else self.endpoint.http_url
        self.client = StreamClient.open(kind(url), "lob", CLIENT)
        self.probabilities: list[np.ndarray] = []

    def step(self, data: np.ndarray) -> str:
        """Ask about each row; return the one model that answered all of them."""
        predictions = [self.client.step(row) for row in data]
        assert {(p.reason, p.detail) for p in predictions} == {(None, None)}
        self.probabilities += [p.probabilities for p in predictions]
        [model] = {p.model for p in predictions}
        return model

    def executions(self, model: str) -> int:
        with tritonclient.http.InferenceServerClient(self.endpoint.http_url) as client:
            return sum(
                statistics["execution_count"] for statistics in client.get_inference_statistics(model)["model_stats"]
            )

    def await_executions(self, model: str, count: int) -> None:
        """Wait for Triton's count of a model: it counts a request after it has sent the answer."""
        end = time.monotonic() + 60
        while (have := self.executions(model)) != count:
            assert time.monotonic() < end, f"{model} ran {have} times, not {count}"
            time.sleep(0.05)


@pytest.fixture(params=[GrpcTransport, HttpTransport], ids=["grpc", "http"])
def served(request, workspace: Workspace, params: Params) -> Iterator[tuple[TritonControl, Stream]]:
    repository = Repository.of(workspace)
    stand_in(workspace, workspace.repository, repository)
    with running_triton(workspace, params) as control:
        stream = Stream(control, request.param)
        yield control, stream
        stream.client.close()


def test_a_stream_goes_from_the_plans_to_the_model_and_back(served, workspace: Workspace) -> None:
    control, stream = served
    repository, data = Repository.of(workspace), rows(160)
    versions = repository.listed("lob")
    before = stream.executions("lob_trt"), stream.executions("lob")
    assert stream.step(data[:40]) == "lob_trt"
    stream.await_executions("lob_trt", before[0] + 40)
    stream.await_executions("lob", before[1])
    control.unload("lob_trt")
    # The first of these rows finds out, and is answered all the same.
    assert stream.step(data[40:80]) == "lob"
    stream.await_executions("lob", before[1] + 40)
    control.load("lob_trt", versions)
    time.sleep(CLIENT.poll_s)
    assert stream.step(data[80:120]) == "lob_trt"
    # Plans of the older version alone are of no use to a client of the newest.
    control.load("lob_trt", versions[:1])
    assert stream.step(data[120:]) == "lob"
    path = repository.directory("lob", versions[-1]) / "model.onnx"
    uninterrupted, _, _ = OnnxModel(path).predict(data)
    np.testing.assert_allclose(np.stack(stream.probabilities), uninterrupted, atol=1e-5)


def test_plans_of_another_machine_are_skipped_without_harm(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    version = repository.active("lob")
    plans.build(workspace.root / "engine", repository.verify("lob", version), ("1.0",))
    of = repository.verify("lob", version)
    publish_engine(Release(workspace, params), workspace.root / "engine", of, validate=lambda directory, trust: None)
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        assert control.ready_versions("lob") == repository.listed("lob")
        assert control.ready_versions("lob_trt") == []
        [skipped] = [event for event in events if event.kind is EventKind.SKIPPED]
        assert (skipped.model, skipped.version) == ("lob_trt", version)
        assert "Triton has no tensorrt backend in" in skipped.message
        assert not [event for event in events if event.kind is EventKind.FAILED]
        stream = Stream(control, GrpcTransport)
        assert stream.step(rows(10)) == "lob"
        stream.client.close()
        shown = CliRunner().invoke(cli, ["--root", str(workspace.root), "status", "--json"])
        assert shown.exit_code == 0, shown.output
        assert "no tensorrt backend" in " ".join(shown.output.split())


def test_a_server_takes_no_plans_of_another_machine_and_drops_those_of_a_version_taken_back(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    repository = Repository.of(workspace)
    old, new = repository.listed("lob")
    of = repository.verify("lob", new)
    plans.build(workspace.root / "engine", of)

    with running_triton(workspace, params) as control:
        engine, server = workspace.root / "engine", running_server(workspace, params)
        with pytest.raises(ServingError, match=f"lob_trt/{new}: Triton has no tensorrt backend"):
            publish_engine(Release(workspace, params, server), engine, of, validate=check_files)
        assert repository.models() == ["lob"]
        publish_engine(Release(workspace, params), engine, of, validate=check_files)
        onnx = stand_in(workspace, tmp_path / "elsewhere", repository)
        shutil.copy(repository.directory("lob", new) / "model.onnx", repository.directory("lob_trt", new))
        TritonControl(control.endpoint, onnx).load("lob_trt", [new])
        assert control.ready_versions("lob_trt") == [new]
        repository.list_versions("lob", [old])
        running_server(workspace, params).serve("lob", old)
        assert control.ready_versions("lob") == [old]
        assert control.ready_versions("lob_trt") == []
