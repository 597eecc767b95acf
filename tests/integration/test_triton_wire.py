"""Every transport gives the same answers; loads that fail or hang leave other models available."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.errors import ServingError
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.repository.repository import Repository
from lobsmith.serving import supervisor
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, serve, with_free_ports
from lobsmith.serving.triton import embedded
from lobsmith.serving.triton.control import TritonControl
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.release import toy

pytestmark = pytest.mark.integration

ROWS = np.random.default_rng(9).normal(size=(1000, toy.F)).astype(np.float32)


def eventually(holds: Callable[[], bool], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def put(workspace: Workspace, scale: float, model: str = "toy") -> int:
    artifact = toy.artifact(workspace.root / "run", scale=scale)
    return publish(Release(workspace, toy.params()), artifact, model=model, contract=toy.CONTRACT).version


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two versions of `toy` and one of `other`."""
    workspace = Workspace(tmp_path_factory.mktemp("template"))
    for scale in (0.3, 0.9):
        put(workspace, scale)
    put(workspace, 0.5, "other")
    return workspace


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(template.root, tmp_path / "project")
    return Workspace(tmp_path / "project")


@pytest.fixture
def params() -> Params:
    return with_free_ports(toy.params())


@pytest.fixture(scope="module")
def running(template: Workspace) -> Iterator[tuple[Workspace, Params, TritonControl]]:
    params = with_free_ports(toy.params())
    with running_triton(template, params) as control:
        yield template, params, control


@pytest.mark.parametrize("kind", ["grpc", "http", "in process"])
def test_rows_in_chunks_equal_rows_one_by_one(running: tuple[Workspace, Params, TritonControl], kind: str) -> None:
    workspace, params, control = running
    repository = Repository.of(workspace)

    def transport() -> GrpcTransport | HttpTransport | InProcessTransport:
        if kind == "in process":
            return InProcessTransport(repository)
        url = control.endpoint.grpc_url if kind == "grpc" else control.endpoint.http_url
        return GrpcTransport(url) if kind == "grpc" else HttpTransport(url)

    stepping = StreamClient.open(transport(), "toy", params.client)
    one_by_one = [stepping.step(row) for row in ROWS]
    stepping.close()
    catching_up = StreamClient.open(transport(), "toy", params.client)
    caught_up = catching_up.predict(ROWS)
    in_chunks = np.stack([p.probabilities for p in caught_up])
    catching_up.close()
    expected = StreamClient.open(InProcessTransport(repository), "toy", params.client).predict(ROWS)
    assert {p.reason for p in one_by_one} == {None}
    assert {p.version for p in one_by_one} == {repository.active("toy")}
    np.testing.assert_allclose(np.stack([p.probabilities for p in one_by_one]), in_chunks, atol=1e-5)
    np.testing.assert_allclose(in_chunks, np.stack([p.probabilities for p in expected]), atol=1e-5)
    outlook = np.stack([p.outlook for p in caught_up])
    assert outlook.shape == (len(ROWS), 2, 5)
    np.testing.assert_allclose(outlook, np.stack([p.outlook for p in expected]), atol=1e-5)


def test_a_rollback_reaches_the_client_and_primes_it(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    old, new = repository.listed("toy")
    with running_triton(workspace, params) as control:
        transport = HttpTransport(control.endpoint.http_url)
        client = StreamClient.open(transport, "toy", params.client)
        assert {p.version for p in client.predict(ROWS[:50])} == {new}
        repository.list_versions("toy", [old])
        running_server(workspace, params).serve("toy", old)
        # At once, without waiting for the next poll of the version: the one that it asks is gone.
        answer = client.step(ROWS[50])
        assert (answer.version, answer.reason) == (old, None)
        prime_rows = transport.describe("toy").prime_rows
        fresh = transport.infer("toy", old, ROWS[None, 50 - prime_rows : 51], np.zeros((1, toy.S), np.float32), 5.0)
        np.testing.assert_allclose(answer.probabilities, fresh.probabilities[0, -1], atol=1e-6)
        np.testing.assert_allclose(answer.outlook, fresh.outlook[0, -1], atol=1e-6)
        client.close()


def test_a_damaged_newest_version_leaves_the_running_server_as_it_is(workspace: Workspace, params: Params) -> None:
    with running_triton(workspace, params) as control:
        before = control.ready_versions("toy")
        version = put(workspace, 1.5)
        (workspace.repository / "toy" / str(version) / "model.onnx").write_bytes(b"")
        with pytest.raises(ServingError, match="changed after publication.*keeps what it serves"):
            running_server(workspace, params).serve("toy", version)
        assert control.ready_versions("toy") == before


def test_a_model_that_cannot_be_loaded_stops_no_other(workspace: Workspace, params: Params) -> None:
    config = workspace.repository / "other" / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"no_such_backend"'))
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        assert control.ready_versions("toy") == Repository.of(workspace).listed("toy")
        assert control.ready_versions("other") == []
    [failed] = [event for event in events if event.kind is EventKind.FAILED]
    assert failed.model == "other"
    assert "no_such_backend" in failed.message
    assert "\n" not in failed.message


def test_a_load_that_hangs_ends_at_its_deadline(workspace: Workspace, params: Params) -> None:
    # A warm-up of this many inferences takes hours, and so does the load.
    config = workspace.repository / "other" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 2", "count: 2000000000"))
    params = msgspec.structs.replace(
        params, serving=msgspec.structs.replace(params.serving, load_deadline_s=8.0, stop_deadline_s=2.0)
    )
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        assert control.ready_versions("toy") == Repository.of(workspace).listed("toy")
    [failed] = [event for event in events if event.kind is EventKind.FAILED]
    assert failed.model == "other"
    assert "within" in failed.message


def test_no_process_and_no_shared_memory_is_left(workspace: Workspace, params: Params) -> None:
    def processes() -> list[str]:
        lines = []
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(status.read_bytes().decode(errors="replace"))
            except OSError:
                continue
        return [line for line in lines if str(workspace.root) in line]

    def regions() -> list[Path]:
        # Only this workspace's: other servers may run on this machine.
        prefix = embedded.Triton(workspace, params.serving)._shared_memory_prefix()
        return list(embedded._SHARED_MEMORY.glob(f"{prefix}*"))

    with running_triton(workspace, params) as control:
        assert len(processes()) == 4
        assert regions()
        os.kill(control.endpoint.triton_pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{control.endpoint.triton_pid}").exists())
    # The stubs were killed with their group; the system may take an instant to bury them.
    eventually(lambda: processes() == [])
    assert regions() == []


def test_a_version_whose_process_was_killed_answers_again(workspace: Workspace, params: Params) -> None:
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        transport = GrpcTransport(control.endpoint.grpc_url)
        client = StreamClient.open(transport, "toy", params.client)
        assert client.step(ROWS[0]).reason is None
        children = Path(f"/proc/{control.endpoint.triton_pid}/task").glob("*/children")
        for stub in [int(pid) for path in children for pid in path.read_text().split()]:
            os.kill(stub, signal.SIGKILL)
        eventually(lambda: sum(event.kind is EventKind.SERVING for event in events) == 2)
        rows = iter(ROWS[1:])
        eventually(lambda: client.step(next(rows)).reason is None)
        client.close()


def test_a_triton_that_keeps_dying_is_given_up(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTARTS", 1)
    starts: list[int] = []

    def kill(event: ServeEvent) -> None:
        if event.kind is EventKind.STARTED:
            starts.append(event.endpoint.triton_pid)
            os.kill(event.endpoint.triton_pid, signal.SIGKILL)

    with pytest.raises(ServingError, match="SIGKILL.*given up"):
        serve(workspace, params, on_event=kill)
    assert len(starts) == 2
    assert not workspace.endpoint.exists()
