"""The real services together: ready, back after SIGKILL of each, and nothing left after SIGKILL of them all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from lobsmith.cli.up_table import process_tree
from lobsmith.params import as_table, load_params
from lobsmith.services.guard import GRACE_S, marked
from lobsmith.services.run import Run, read_run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.workspace import Workspace
from tests.answered import logged, rows_of
from tests.served import publish_small
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
BACK_S, TRITON_BACK_S = 10.0, 3.0
"""Of a machine that does nothing else; where processes queue for its cores, all takes as many times as long.

The load is an average of the last minute, so half of it is added.
"""


class Project:
    """A project with a published model, and `lobsmith` run in it."""

    def __init__(self, folder: Path) -> None:
        self.params = load_params(ROOT / "params.yaml", SMALL)
        (folder / "params.yaml").write_text(yaml.safe_dump(as_table(self.params)))
        shutil.copy(ROOT / "prefect.yaml", folder)
        self.workspace = Workspace(folder)
        publish_small(self.workspace, self.params, seed=1)

    def lobsmith(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lobsmith", "--root", str(self.workspace.root), *arguments]
        folder = self.workspace.root
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder, check=False)

    def run(self) -> Run:
        run = read_run(self.workspace)
        assert run is not None
        return run

    def service(self, name: str) -> ServiceState:
        return next(service for service in self.run().services if service.name == name)

    def processes(self) -> dict[int, str]:
        commands = {}
        for pid in marked(str(self.workspace.root)):
            with suppress(psutil.Error):
                commands[pid] = " ".join(psutil.Process(pid).cmdline())[:120]
        return commands


def eventually(what: str, holds: Callable[[], bool], within_s: float = 240.0) -> float:
    """Wait, and return for how many seconds."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > within_s:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    created = Project(tmp_path)
    try:
        yield created
    finally:
        run = read_run(created.workspace)
        for pid in [*([] if run is None else [run.process.pid]), *created.processes()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_runs_comes_back_and_goes(project: Project) -> None:
    before = {path.name for path in project.workspace.root.iterdir()}
    begun = time.monotonic()
    live = ("up", "--detach", "--free-ports", "--live", "--", "--simulate", "7")
    completed = project.lobsmith(*live)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    figures: dict[str, float] = {"all ready": time.monotonic() - begun}
    run = project.run()
    assert [(service.name, service.state) for service in run.services] == [
        (name, Phase.READY) for name in ("prefect", "mlflow", "triton", "flows", "evidently", "live")
    ]
    pages = {"what serves": run.page}
    pages |= {service.name: service.address for service in run.services if service.page}
    assert completed.stdout.splitlines()[0] == f"open {run.page}"
    assert completed.stdout.splitlines()[-1] == "open " + ", ".join(f"{url} ({name})" for name, url in pages.items())
    for url in pages.values():
        assert "<html" in httpx.get(url, follow_redirects=True, timeout=60).text.lower()
    for service in run.services:
        for process, resident in process_tree(service.pid or 0):
            print(f"{service.name:<10} {resident / 2**20:5.0f} MiB  {' '.join(process.cmdline())[:90]}")

    second = project.lobsmith("up", "--free-ports")
    assert second.returncode == 1
    assert [f"process {run.process.pid} " in line for line in second.stderr.splitlines()] == [True]
    logs = project.lobsmith("logs", "mlflow", "--lines", "50")
    assert "Application startup complete" in logs.stdout

    monitor = deployed(run)["monitor"]
    schedule = f"{run.prefect_api}/deployments/{monitor['id']}/schedules/{monitor['schedules'][0]['id']}"
    httpx.patch(schedule, json={"active": False}, timeout=60).raise_for_status()

    queues = [_queue()]
    for name, pid in [(service.name, service.pid) for service in run.services]:
        os.kill(pid or 0, signal.SIGKILL)
        eventually(f"{name} is seen to have ended", lambda name=name, pid=pid: project.service(name).pid != pid)
        figures[name] = eventually(
            f"{name} is ready again", lambda name=name: project.service(name).state is Phase.READY
        )
        queues.append(_queue())
    endpoint = read_endpoint(project.workspace)
    assert endpoint is not None
    os.kill(endpoint.triton_pid, signal.SIGKILL)
    figures["Triton alone"] = eventually("Triton serves again", lambda: _serves_again(project, endpoint.triton_pid))
    queue = max(*queues, _queue())
    print(json.dumps({name: round(seconds, 1) for name, seconds in figures.items()}), f"limits times {queue:.1f}")
    limits = dict.fromkeys(figures, BACK_S) | {"all ready": 6 * BACK_S, "Triton alone": TRITON_BACK_S}
    assert {name: seconds for name, seconds in figures.items() if seconds > queue * limits[name]} == {}

    paused = [name for name, deployment in deployed(run).items() if not deployment["schedules"][0]["active"]]
    assert paused == ["monitor"], "what was done in Prefect's page is left as it is"

    [zygote] = psutil.Process(project.service("flows").pid).children()
    stopped = {"flows": zygote, "live": psutil.Process(project.service("live").pid)}
    for process in stopped.values():
        process.suspend()
    for name in stopped:
        eventually(f"{name} is seen to hang", lambda name=name: project.service(name).state is Phase.SILENT)
    for process in stopped.values():
        process.resume()
    for name in stopped:
        eventually(f"{name} answers again", lambda name=name: project.service(name).state is Phase.READY)

    # Services that were not killed have not ended either.
    assert {service.name: service.restarts for service in project.run().services} == dict.fromkeys(
        (service.name for service in run.services), 1
    )
    os.kill(run.process.pid, signal.SIGKILL)
    eventually("no process is left", lambda: project.processes() == {}, GRACE_S + 60)
    assert read_run(project.workspace) is None

    again = project.lobsmith(*live)
    assert again.returncode == 0, again.stdout + again.stderr
    down = project.lobsmith("down")
    assert (down.returncode, down.stdout) == (0, "ended live, evidently, flows, triton, mlflow, prefect\n")
    assert project.processes() == {}
    assert read_endpoint(project.workspace) is None
    assert {path.name for path in project.workspace.root.iterdir()} == before
    assert list((project.workspace.up / "empty").iterdir()) == []

    # Two sessions were killed, the last one was ended; each recorder took over what the one before had not logged.
    sessions = logged(project.workspace, "lob")
    captured = rows_of(sorted(project.workspace.captures.glob("*.gz")), project.params)
    times = np.array([row.time_ns for rows in sessions for row in rows])
    print(f"{len(captured)} rows captured, {len(times)} logged in {len(sessions)} sessions")
    assert np.setdiff1d(captured, times).size == 0
    assert {row.reason for rows in sessions for row in rows} <= {None, "unavailable", "deadline", "no_version"}


def deployed(run: Run) -> dict[str, dict[str, Any]]:
    deployments = httpx.post(f"{run.prefect_api}/deployments/filter", json={}, timeout=60).raise_for_status().json()
    return {deployment["name"]: deployment for deployment in deployments}


def _queue() -> float:
    """How many times as long as on an idle machine everything takes."""
    return max(1.0, 1.5 * os.getloadavg()[0] / (os.cpu_count() or 1))


def _serves_again(project: Project, killed: int) -> bool:
    endpoint = read_endpoint(project.workspace)
    if endpoint is None or endpoint.triton_pid == killed:
        return False
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://{endpoint.http_url}/v2/models/lob/ready", timeout=1).is_success
    return False
