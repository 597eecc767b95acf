"""The real Triton as a supervised child: locked doors, restarts, clean ends, cold starts with damage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.errors import PortBusyError, RequestError, ServingError
from lobsmith.params import Params
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.signing import SIGNATURE
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, serve, with_free_ports
from lobsmith.serving.triton.control import TritonControl, connect
from lobsmith.serving.triton.embedded import backends_folder
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.transport.base import Answer
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.workspace import Workspace
from tests.served import publish_small, rows
from tests.small import params_file, small_params

pytestmark = pytest.mark.integration


def eventually(holds: Callable[[], bool], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with three published versions."""
    workspace = Workspace(tmp_path_factory.mktemp("template"))
    shutil.copy(params_file(), workspace.params)
    for seed in (1, 2, 3):
        publish_small(workspace, small_params(), seed=seed)
    return workspace


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    # The template's own server may be running: its endpoint is not the copy's.
    shutil.copytree(template.root, tmp_path / "project", ignore=shutil.ignore_patterns("serving"))
    return Workspace(tmp_path / "project")


@pytest.fixture
def params() -> Params:
    return with_free_ports(small_params())


@pytest.fixture(scope="module")
def running(template: Workspace) -> Iterator[tuple[Workspace, Params, TritonControl]]:
    params = with_free_ports(small_params())
    with running_triton(template, params) as control:
        yield template, params, control


def test_every_version_answers_by_number_and_the_newest_by_default(running) -> None:
    workspace, _, control = running
    versions = Repository.of(workspace).listed("lob")
    assert control.ready_versions("lob") == versions
    transport = GrpcTransport(control.endpoint.grpc_url)
    state = np.zeros((1, transport.describe("lob").state_size), np.float32)
    answers = {v: transport.infer("lob", v, rows(5)[None], state, 5.0) for v in versions}
    transport.close()
    client = tritonclient.http.InferenceServerClient(control.endpoint.http_url)
    inputs = []
    for name, array in (("features", rows(5)[None]), ("state", state)):
        inputs.append(tritonclient.http.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    answer = client.infer("lob", inputs)
    for name in ("probabilities", "outlook", "next_state"):
        np.testing.assert_allclose(answer.as_numpy(name), getattr(answers[versions[-1]], name), atol=1e-6)
        assert not np.allclose(getattr(answers[versions[0]], name), getattr(answers[versions[1]], name))
    client.close()


def test_requests_of_many_streams_at_once_are_not_mixed_up(running) -> None:
    _, _, control = running
    version = control.ready_versions("lob")[-1]
    alone = GrpcTransport(control.endpoint.grpc_url)
    size = alone.describe("lob").state_size
    expected = [
        alone.infer("lob", version, rows(1 + n % 3, n)[None], np.zeros((1, size), np.float32), 5.0) for n in range(24)
    ]
    got: dict[int, Answer] = {}

    def ask(n: int) -> None:
        transport = GrpcTransport(control.endpoint.grpc_url)
        for _ in range(10):
            state = np.zeros((1, size), np.float32)
            got[n] = transport.infer("lob", version, rows(1 + n % 3, n)[None], state, 10.0)
        transport.close()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, answer in enumerate(expected):
        np.testing.assert_allclose(got[n].probabilities, answer.probabilities, atol=1e-5)
        np.testing.assert_allclose(got[n].outlook, answer.outlook, atol=1e-5)
        np.testing.assert_allclose(got[n].next_state, answer.next_state, atol=1e-5)
    alone.close()


@pytest.mark.parametrize("kind", [GrpcTransport, HttpTransport])
def test_bad_requests_are_refused_and_disturb_no_other(running, kind) -> None:
    _, _, control = running
    endpoint = control.endpoint
    transport = kind(endpoint.grpc_url if kind is GrpcTransport else endpoint.http_url)
    version = control.ready_versions("lob")[-1]
    size = transport.describe("lob").state_size
    good, state = rows(4)[None], np.zeros((1, size), np.float32)
    nan = good.copy()
    nan[0, 2, 7] = np.nan
    infinite = state.copy()
    infinite[0, 3] = np.inf
    for features, memory in ((nan, state), (good, infinite), (good[:, :, :-1], state), (good, state[:, :-1])):
        with pytest.raises((RequestError, ServingError)):
            transport.infer("lob", version, np.ascontiguousarray(features), np.ascontiguousarray(memory), 5.0)
    with pytest.raises((RequestError, ServingError)):
        transport.infer("lob", version, rows(257)[None], state, 5.0)
    with pytest.raises(ServingError):
        transport.infer("lob", 17, good, state, 5.0)
    answer = transport.infer("lob", version, good, state, 5.0)
    for array in (answer.probabilities, answer.outlook, answer.next_state):
        assert np.isfinite(array).all()
    transport.close()


def test_the_key_is_readable_by_its_owner_only_and_shown_nowhere(running) -> None:
    workspace, _, control = running
    assert workspace.endpoint.stat().st_mode & 0o777 == 0o600
    assert control.endpoint.key not in repr(control.endpoint)
    assert control.endpoint.key not in (workspace.serving / "triton.log").read_text()


def test_a_second_server_of_the_same_workspace_is_refused(running) -> None:
    workspace, _, _ = running
    with pytest.raises(ServingError, match=str(os.getpid())):
        serve(workspace, with_free_ports(small_params()))


def test_a_busy_port_is_refused_by_number(running, tmp_path: Path) -> None:
    _, params, _ = running
    with pytest.raises(PortBusyError, match=str(params.serving.http_port)):
        serve(Workspace(tmp_path), params)


def test_a_client_follows_a_version_that_is_published_while_it_asks(workspace: Workspace, params: Params) -> None:
    with running_triton(workspace, params) as control:
        transport = GrpcTransport(control.endpoint.grpc_url)
        client = StreamClient.open(transport, "lob", params.client)
        data = rows(400)
        first = [client.step(row) for row in data[:200]]
        new = publish_small(workspace, params, seed=4, server=running_server(workspace, params)).version
        assert control.ready_versions("lob")[-1] == new
        time.sleep(params.client.poll_s)
        second = [client.step(row) for row in data[200:]]
        assert {p.reason for p in first + second} == {None}
        assert {p.version for p in second} == {new}
        fresh = transport.infer("lob", new, data[None, 100:300], np.zeros((1, 241), np.float32), 5.0)
        np.testing.assert_allclose(second[99].probabilities, fresh.probabilities[0, -1], atol=2e-3)
        np.testing.assert_allclose(second[99].outlook, fresh.outlook[0, -1], atol=2e-3)
        client.close()


def test_a_killed_triton_is_started_again_and_answers(workspace: Workspace, params: Params) -> None:
    events: list[ServeEvent] = []
    modes: list[bytes] = []
    workspace.modes.mkdir(parents=True)
    (workspace.modes / "lob.json").write_bytes(b"a mode")

    def note(event: ServeEvent) -> None:
        events.append(event)
        # Between the crash of one Triton and the start of the next clients still have to read the mode.
        if event.kind in (EventKind.EXITED, EventKind.SERVING):
            with urllib.request.urlopen(f"http://127.0.0.1:{params.serving.modes_port}/modes/lob", timeout=5) as page:
                modes.append(page.read())

    with running_triton(workspace, params, on_event=note) as control:
        os.kill(control.endpoint.triton_pid, signal.SIGKILL)
        eventually(lambda: sum(event.kind is EventKind.SERVING for event in events) == 2)
        assert modes == [b"a mode"] * 3
        again = connect(workspace)
        assert again is not None
        assert again.ready_versions("lob") == Repository.of(workspace).listed("lob")
        assert again.endpoint.key != control.endpoint.key
        assert again.endpoint.modes_url == f"http://127.0.0.1:{params.serving.modes_port}/modes"
    assert read_endpoint(workspace) is None
    assert events[-1].kind is EventKind.STOPPED


def serve_in_a_process(workspace: Workspace, params: Params) -> subprocess.Popen[bytes]:
    ports = [
        f"--{name}-port={getattr(params.serving, f'{name}_port')}" for name in ("http", "grpc", "metrics", "modes")
    ]
    command = [sys.executable, "-m", "lobsmith", "--root", str(workspace.root), "serve", *ports]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(lambda: (connect(workspace) is not None) or process.poll() is not None)
    eventually(lambda: bool(connect(workspace).ready_versions("lob")))
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_serve_is_the_end_of_triton(workspace: Workspace, params: Params, number: int) -> None:
    process = serve_in_a_process(workspace, params)
    endpoint = connect(workspace).endpoint
    triton = endpoint.triton_pid
    assert "READY" in httpx.get(endpoint.page_url, timeout=60).text
    process.send_signal(number)
    code = process.wait(timeout=90)
    eventually(lambda: not alive(triton))
    assert read_endpoint(workspace) is None
    if number != signal.SIGKILL:
        assert code == (130 if number == signal.SIGINT else 0)
        assert not workspace.endpoint.exists()


MORE_DAMAGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("middle", "manifest", "unsigned")]


@pytest.mark.parametrize("damage", ["newest", "foreign", *MORE_DAMAGE])
def test_a_cold_start_serves_the_valid_versions(workspace: Workspace, params: Params, damage: str) -> None:
    repository = Repository.of(workspace)
    old, middle, new = repository.listed("lob")
    expected = [old, middle, new]
    if damage in ("newest", "middle"):
        damaged = new if damage == "newest" else middle
        path = repository.directory("lob", damaged) / "model.onnx"
        path.write_bytes(path.read_bytes()[:-100])
        expected.remove(damaged)
    elif damage == "manifest":
        (repository.directory("lob", new) / "manifest.json").write_text("{")
        expected.remove(new)
    elif damage == "unsigned":
        (repository.directory("lob", new) / SIGNATURE).unlink()
        expected.remove(new)
    else:
        (workspace.repository / "lob" / "01").mkdir()
        (workspace.repository / "stray").mkdir()
    faulty = set(repository.listed("lob")) - set(expected)
    foreign = {"01", "stray"} if damage == "foreign" else set()
    events: list[ServeEvent] = []
    for _ in range(2):
        with running_triton(workspace, params, on_event=events.append) as control:
            assert control.ready_versions("lob") == expected
            status = json.loads(CliRunner().invoke(cli, ["--root", str(workspace.root), "status", "--json"]).stdout)
        assert {int(version) for version in status["models"]["lob"]["faults"]} == faulty
        assert {
            Path(incident["place"]).name for incident in status["findings"] if incident["kind"] == "foreign"
        } == foreign
    assert {event.version for event in events if event.kind is EventKind.SKIPPED} == faulty
    # Once, however often the server starts.
    journaled = [entry for entry in journal.read(workspace.journal) if entry.action == journal.INTEGRITY_ERROR]
    assert sorted(entry.version_to for entry in journaled if entry.version_to) == sorted(faulty)
    assert sorted(
        entry.reason.split(": ")[0].rpartition("/")[2] for entry in journaled if not entry.version_to
    ) == sorted(foreign)


def test_model_processes_of_a_killed_server_are_ended(workspace: Workspace, params: Params) -> None:
    stub = (backends_folder(workspace) / "python" / "triton_python_backend_stub").absolute()
    others = workspace.root / stub.name
    left, foreign = (subprocess.Popen([str(name), "60"], executable="sleep") for name in (stub, others))
    try:
        with running_triton(workspace, params):
            assert left.wait(60) == -signal.SIGKILL
            assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()
