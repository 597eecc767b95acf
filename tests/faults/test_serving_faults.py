"""Faults of the running server, with the real Triton: F9, F10, F11, F12, F13, F14, F16, F18, F50."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from lobsmith.cli.main import cli
from lobsmith.compress import MODEL
from lobsmith.errors import ServingError
from lobsmith.files import sha256_file
from lobsmith.params import Params
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest, write_manifest
from lobsmith.release.version.signing import signer
from lobsmith.serving.running_server import RunningServer, running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, with_free_ports
from lobsmith.serving.triton import embedded
from lobsmith.serving.triton.control import TritonControl, connect
from lobsmith.serving.triton.embedded import backends_folder
from lobsmith.serving.triton.loading import wait_until_idle
from lobsmith.serving.triton.warmup import traffic, warmed_up
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.workspace import Workspace
from tests.served import publish_small, rows
from tests.small import params_file, small_params

pytestmark = pytest.mark.integration

# A line of the backend before which a version is not loaded yet, and one after which it has run.
_LOADING = '        path = Path(args["model_repository"])'
_ANSWERED = "        ends = list("


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two published versions."""
    workspace = Workspace(tmp_path_factory.mktemp("template"))
    shutil.copy(params_file(), workspace.params)
    for seed in (1, 2):
        publish_small(workspace, small_params(), seed=seed)
    return workspace


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(template.root, tmp_path / "project")
    return Workspace(tmp_path / "project")


@pytest.fixture
def params() -> Params:
    return with_free_ports(small_params())


@pytest.fixture
def hasty() -> Params:
    """Parameters with a short deadline for loads, which a load on a busy machine keeps."""
    return with_free_ports(small_params(**{"serving.load_deadline_s": 10}))


@contextmanager
def served(workspace: Workspace, params: Params) -> Iterator[tuple[RunningServer, TritonControl]]:
    with running_triton(workspace, params) as control:
        server = running_server(workspace, params)
        assert server is not None
        yield server, control


def publish(workspace: Workspace, params: Params, server: RunningServer, seed: int = 9) -> int:
    return publish_small(workspace, params, seed=seed, server=server).version


def eventually(holds: Callable[[], bool], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


def change_backend(path: Path, before: str, line: str) -> None:
    """Put a line into the backend that versions loaded from now on run with."""
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, f"        {line}\n{before}"))


def backend_of(workspace: Workspace) -> Path:
    return backends_folder(workspace) / "onnxruntime" / "model.py"


def hang(flag: Path) -> str:
    """Return a line that hangs for as long as a file exists."""
    flag.touch()
    return f"while Path({str(flag)!r}).exists(): __import__('time').sleep(0.05)"


def answering(control: TritonControl, model: str = "lob") -> list[int]:
    """Return the versions that answer, of those that are READY."""
    transport = GrpcTransport(control.endpoint.grpc_url)
    state = np.zeros((1, transport.describe(model).state_size), np.float32)
    versions = [transport.infer(model, v, rows(3)[None], state, 5.0).version for v in control.ready_versions(model)]
    transport.close()
    return versions


def states(control: TritonControl, model: str = "lob") -> dict[int | None, str]:
    return {row.version: row.state for row in control.index() if row.model == model}


def stubs(control: TritonControl) -> set[int]:
    children = Path(f"/proc/{control.endpoint.triton_pid}/task").glob("*/children")
    return {int(pid) for path in children for pid in path.read_text().split()}


def reseal(workspace: Workspace, model: str, version: int) -> None:
    """Sign a changed version again: its hashes hold, whatever it is."""
    repository = Repository.of(workspace)
    directory = repository.directory(model, version)
    manifest = read_manifest(directory, repository.trust)
    files = {name: sha256_file(directory / name) for name in manifest.files}
    changed = structs.replace(manifest, files=files, artifact_id=files[MODEL])
    write_manifest(directory, changed, signer(workspace))


def test_f9_triton_killed_during_a_load(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    """The publisher waits for the next Triton, which serves what is listed: the new version too."""
    with served(workspace, params) as (server, control):
        change_backend(backend_of(workspace), _LOADING, hang(tmp_path / "flag"))
        published: list[int] = []
        publisher = threading.Thread(target=lambda: published.append(publish(workspace, params, server)))
        publisher.start()
        eventually(lambda: "LOADING" in states(control).values())
        os.kill(control.endpoint.triton_pid, signal.SIGKILL)
        publisher.join()
        again = connect(workspace)
        assert again is not None
        assert again.endpoint.triton_pid != control.endpoint.triton_pid
        assert answering(again) == Repository.of(workspace).listed("lob")
        assert answering(again)[-1:] == published


@pytest.mark.slow
def test_f10_a_load_that_hangs_is_taken_back_and_the_server_is_usable(
    workspace: Workspace, hasty: Params, tmp_path: Path
) -> None:
    before = Repository.of(workspace).listed("lob")
    with served(workspace, hasty) as (server, control):
        http = HttpTransport(control.endpoint.http_url)
        state = np.zeros((1, http.describe("lob").state_size), np.float32)
        change_backend(backend_of(workspace), _LOADING, hang(tmp_path / "flag"))
        failed: list[Exception] = []

        def attempt() -> None:
            try:
                publish(workspace, hasty, server)
            except ServingError as error:
                failed.append(error)

        publisher = threading.Thread(target=attempt)
        publisher.start()
        while publisher.is_alive():
            assert answering(control) == before
            # On a connection that was there before: a load must not hold up what shares a thread with it.
            http.infer("lob", before[0], rows(1)[None], state, 5.0)
        http.close()
        assert "not loaded within" in str(failed[0])
        assert Repository.of(workspace).listed("lob") == before
        (tmp_path / "flag").unlink()
        new = publish(workspace, hasty, server, seed=10)
        assert answering(control) == [*before, new]
        assert connect(workspace).endpoint == control.endpoint


def test_f11_a_version_that_is_not_served_is_not_taken_for_served(workspace: Workspace, params: Params) -> None:
    with served(workspace, params) as (server, control):
        before = control.ready_versions("lob")
        with pytest.raises(ServingError, match="17"):
            server.serve("lob", 17)
        assert answering(control) == before


def test_f12_no_load_meets_an_unload_under_way(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    old, new = repository.listed("lob")
    with served(workspace, params) as (server, control):
        control.load("lob", [old])
        assert "UNLOADING" in states(control).values()
        wait_until_idle(control, "lob", time.monotonic() + 60)
        assert set(states(control).values()) == {"READY", "UNAVAILABLE"}
        control.unload("lob")
        server.serve("lob", new)
        assert answering(control) == [old, new]
        server.withdraw("lob", [old, new])
        assert set(states(control).values()) == {"UNAVAILABLE"}
        assert connect(workspace).endpoint == control.endpoint


@pytest.mark.slow
def test_f13_a_version_that_fails_its_warm_up_is_taken_back(workspace: Workspace, params: Params) -> None:
    """Triton reports READY each time: it does not check the answers."""
    repository = Repository.of(workspace)
    old, new = repository.listed("lob")
    with served(workspace, params) as (server, control):
        intact = backend_of(workspace).read_text()
        for line in (
            "answers[0][:] = np.nan",
            "answers[0][:] = 1 / 3",
            "answers[0][:] *= 2",
            "answers[2][:] = np.inf",
            "if any(request['features'].any() for request in group): raise RuntimeError('no answer')",
        ):
            backend_of(workspace).write_text(intact)
            change_backend(backend_of(workspace), _ANSWERED, line)
            repository.list_versions("lob", [old])
            server.withdraw("lob", [new])
            repository.list_versions("lob", [old, new])
            with pytest.raises(ServingError, match="warm-up"):
                server.serve("lob", new)
            assert control.ready_versions("lob") == [old, new]
        with pytest.raises(ServingError, match="warm-up"):
            publish(workspace, params, server)
        assert control.ready_versions("lob") == [old, new]
    assert repository.listed("lob") == [old, new]


@pytest.mark.parametrize("which", ["newest", "oldest"])
def test_f14_a_valid_version_that_triton_cannot_load(workspace: Workspace, params: Params, which: str) -> None:
    repository = Repository.of(workspace)
    good, bad = repository.listed("lob") if which == "newest" else repository.listed("lob")[::-1]
    (repository.directory("lob", bad) / MODEL).write_bytes(b"no model")
    reseal(workspace, "lob", bad)
    events: list[ServeEvent] = []
    with running_triton(workspace, params, on_event=events.append) as control:
        assert answering(control) == [good]
        status = CliRunner().invoke(cli, ["--root", str(workspace.root), "status", "--json"])
        assert json.loads(status.stdout)["models"]["lob"]["faults"].keys() == {str(bad)}
    assert [event.version for event in events if event.kind is EventKind.SKIPPED] == [bad]
    [entry] = [entry for entry in journal.read(workspace.journal) if entry.action == journal.INTEGRITY_ERROR]
    assert (entry.model, entry.version_to) == ("lob", bad)
    assert "Triton cannot load it" in entry.reason


@pytest.mark.slow
def test_f14_a_version_that_hangs_at_a_cold_start(
    workspace: Workspace, hasty: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Repository.of(workspace).listed("lob")
    backend = Path(shutil.copy(embedded._BACKEND, tmp_path / "model.py"))
    line = hang(tmp_path / "flag").replace("while ", f"while args['model_version'] == '{new}' and ")
    change_backend(backend, _LOADING, line)
    monkeypatch.setattr(embedded, "_BACKEND", backend)
    events: list[ServeEvent] = []
    with running_triton(workspace, hasty, on_event=events.append) as control:
        assert answering(control) == [old]
        (tmp_path / "flag").unlink()
        running_server(workspace, hasty).serve("lob", new)
        assert answering(control) == [old, new]
    assert [event.version for event in events if event.kind is EventKind.SKIPPED] == [new]


def test_f16_publishing_touches_no_older_version(workspace: Workspace, params: Params) -> None:
    with served(workspace, params) as (server, control):
        files = [path for path in workspace.repository.rglob("*") if path.is_file() and path.name != "config.pbtxt"]
        times, processes = {path: path.stat().st_mtime_ns for path in files}, stubs(control)
        publish(workspace, params, server)
        assert {path: path.stat().st_mtime_ns for path in files} == times
        assert processes < stubs(control)


@pytest.mark.slow
def test_f16_a_rewritten_time_costs_a_reload_and_no_answer(workspace: Workspace, params: Params) -> None:
    repository = Repository.of(workspace)
    with served(workspace, params) as (server, control):
        (repository.directory("lob", repository.listed("lob")[0]) / MODEL).touch()
        new: list[int] = []
        publisher = threading.Thread(target=lambda: new.append(publish(workspace, params, server)))
        publisher.start()
        while publisher.is_alive():
            assert len(answering(control)) >= 2
        assert answering(control) == repository.listed("lob")
        assert repository.active("lob") == new[0]


@pytest.mark.slow
def test_f50_warm_ups_are_no_traffic(workspace: Workspace, params: Params) -> None:
    with served(workspace, params) as (server, control):
        new = publish(workspace, params, server)
        warmed = warmed_up(workspace, "lob", new)
        assert warmed is not None
        assert warmed.requests == params.serving.warmup_rows
        assert 0 < warmed.p50_us <= warmed.p99_us
        assert control.counts("lob")[new][0] >= warmed.requests
        assert {counts.requests for counts in traffic(workspace, control, "lob").values()} == {0}
        answering(control)
        server.serve("lob", new)
        assert {counts.requests for counts in traffic(workspace, control, "lob").values()} == {1}
        os.kill(control.endpoint.triton_pid, signal.SIGKILL)
        server.serve("lob", new)
        again = connect(workspace)
        assert {counts.requests for counts in traffic(workspace, again, "lob").values()} == {0}


@pytest.mark.slow
def test_f18_memory_does_not_grow_over_loads_and_unloads(workspace: Workspace, params: Params) -> None:
    cycles = 30
    repository = Repository.of(workspace)
    old, new = repository.listed("lob")

    def cycle(server: RunningServer) -> None:
        repository.list_versions("lob", [old])
        server.serve("lob", old)
        server.withdraw("lob", [new])
        repository.list_versions("lob", [old, new])
        server.serve("lob", new)

    def resident_mib(control: TritonControl) -> tuple[float, float]:
        """Return the memory of the server, and of its model processes together."""
        sizes = [
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            for pid in (control.endpoint.triton_pid, *stubs(control))
        ]
        return sizes[0], sum(sizes[1:])

    def shared_memory() -> int:
        prefix = embedded.Triton(workspace, params.serving)._shared_memory_prefix()
        return len(list(embedded._SHARED_MEMORY.glob(f"{prefix}*")))

    with served(workspace, params) as (server, control):
        for _ in range(5):
            cycle(server)
        first = resident_mib(control)
        regions = shared_memory()
        for _ in range(cycles):
            cycle(server)
        last = resident_mib(control)
        print(f"server {first[0]:.0f} to {last[0]:.0f} MiB, model processes {first[1]:.0f} to {last[1]:.0f} MiB")
        assert len(stubs(control)) == 2
        assert shared_memory() == regions
        assert last[0] < first[0] + cycles
        assert last[1] < 1.1 * first[1]
