"""Prefect's own server creates the runs that `prefect.yaml` schedules, and its own worker completes them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
WATCHED = "monitor"
"""The deployment whose run is waited for: with no version in service its flow completes at once."""


class Prefect:
    """A Prefect server, the commands that talk to it, and one log of them all."""

    def __init__(self, project: Path, home: Path) -> None:
        home.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "log"
        environment = {
            **os.environ,
            "LOBSMITH_ROOT": str(project),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(home),
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TMPDIR": str(home),  # a killed worker leaves its files
        }
        self.options = {"cwd": project, "env": environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}

    def run(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run([*PREFECT, *arguments], stdout=log, timeout=90, check=False, **self.options)
        assert done.returncode == 0, self.logged()

    @contextmanager
    def running(self, *arguments: str) -> Iterator[None]:
        """Run a command until the end of the block, where it is killed with every process it has started."""
        with self.log.open("ab") as log:
            started = subprocess.Popen([*PREFECT, *arguments], stdout=log, **self.options)
        try:
            yield
        finally:
            started.send_signal(signal.SIGSTOP)  # a stopped process starts no other one
            if started.returncode is None:
                for child in psutil.Process(started.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            started.kill()
            started.wait()

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.api}/{path}").is_success
        except httpx.TransportError:
            return False

    def runs(self, deployment: str, state: str) -> int:
        wanted = {
            "deployments": {"name": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"any_": [state]}}},
        }
        return httpx.post(f"{self.api}/flow_runs/count", json=wanted, timeout=30).raise_for_status().json()

    def eventually(self, what: str, holds: Callable[[], bool], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:g} s: {what}. Prefect logged:\n{self.logged()}", pytrace=False)
            time.sleep(0.2)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project before its first retrain; `WATCHED` is due sooner than in a minute."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    [watched] = [one for one in deployed["deployments"] if one["name"] == WATCHED]
    watched["schedules"] = [{"interval": 10}]
    (folder / "prefect.yaml").write_text(yaml.safe_dump(deployed))
    return folder


@pytest.mark.integration
@pytest.mark.slow
def test_every_deployment_is_scheduled_and_a_scheduled_run_completes(project: Path, tmp_path: Path) -> None:
    prefect = Prefect(project, tmp_path / "prefect")
    names = [one["name"] for one in yaml.safe_load((project / "prefect.yaml").read_text())["deployments"]]
    with prefect.running("server", "start", "--port", str(prefect.port), "--no-ui"):
        prefect.eventually("the server answers", lambda: prefect.answers("health"))
        with prefect.running("worker", "start", "--pool", "lobsmith", "--type", "process", "--limit", "1"):
            prefect.eventually("the worker has its pool", lambda: prefect.answers("work_pools/lobsmith"))
            prefect.run("deploy", "--all")
            for name in names:
                prefect.eventually(f"{name} is scheduled", lambda name=name: prefect.runs(name, "SCHEDULED") > 0, 30)
            prefect.eventually(f"a run of {WATCHED} completes", lambda: prefect.runs(WATCHED, "COMPLETED") > 0)
