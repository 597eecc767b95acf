"""Prefect's server creates the runs that `prefect.yaml` schedules; Prefect's worker completes them, as does ours."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from lobsmith.lease import hold_lease
from lobsmith.process import HEARTBEAT, Heartbeat, heartbeat_memory
from lobsmith.services.flows.schedule import next_runs
from tests.release.registrations import workspace_with_mlflow

ROOT = Path(__file__).parents[2]
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
SERVICE = (sys.executable, "-m", "lobsmith.services.flows")
BUSY = httpx.codes.SERVICE_UNAVAILABLE
WATCHED = "monitor"
"""The deployment whose run is waited for: with no version in service its flow completes at once."""


def named(deployment: str) -> dict[str, Any]:
    return {"name": {"any_": [deployment]}}


class Prefect:
    """A Prefect server, the commands that talk to it, and one log of them all."""

    server: psutil.Process

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
            # A hundred runs of each deployment, made at once, would lock its database for seconds.
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "20",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TMPDIR": str(home),  # a killed worker leaves its files
        }
        self.options = {"cwd": project, "env": environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}

    def run(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            completed = subprocess.run([*PREFECT, *arguments], stdout=log, timeout=250, check=False, **self.options)
        assert completed.returncode == 0, self.logged()

    @contextmanager
    def running(
        self, *arguments: str, of: tuple[str, ...] = PREFECT, beats: int | None = None
    ) -> Iterator[psutil.Process]:
        """Run a command until the end of the block, where it is killed with every process it has started."""
        options = dict(self.options)
        if beats is not None:
            environment = {**self.options["env"], HEARTBEAT: str(beats)}
            options |= {"env": environment, "pass_fds": [beats]}
        with self.log.open("ab") as log:
            started = subprocess.Popen([*of, *arguments], stdout=log, **options)
        try:
            yield psutil.Process(started.pid)
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

    def post(self, path: str, **body: Any) -> Any:
        # Its SQLite refuses what it cannot order; Prefect's own clients ask again, too.
        while (answer := httpx.post(f"{self.api}/{path}", json=body, timeout=60)).status_code == BUSY:
            time.sleep(0.2)
        return answer.raise_for_status().json()

    def runs(self, deployment: str, state: str) -> int:
        planned_deployments = {"type": {"any_": [state]}}
        return self.post("flow_runs/count", deployments=named(deployment), flow_runs={"state": planned_deployments})

    def begun(self, deployment: str) -> dict[str, Any]:
        """Begin a run of a deployment; return it once its flow runs."""
        [deployed] = self.post("deployments/filter", deployments=named(deployment))
        run = self.post(f"deployments/{deployed['id']}/create_flow_run")
        self.eventually(f"a run of {deployment} runs", lambda: self.state(run) == "RUNNING")
        self.eventually("the worker says where", lambda: self.read(run)["infrastructure_pid"] is not None)
        return self.read(run)

    def read(self, run: dict[str, Any]) -> dict[str, Any]:
        return httpx.get(f"{self.api}/flow_runs/{run['id']}", timeout=30).raise_for_status().json()

    def state(self, run: dict[str, Any]) -> str:
        return self.read(run)["state_type"]

    def eventually(self, what: str, holds: Callable[[], bool], within_s: float = 400.0) -> None:
        deadline = time.monotonic() + within_s
        while not self.is_so(holds):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:g} s: {what}. Prefect logged:\n{self.logged()}", pytrace=False)
            time.sleep(0.2)

    @staticmethod
    def is_so(holds: Callable[[], bool]) -> bool:
        try:
            return holds()
        except httpx.TimeoutException:  # the server is too busy to say
            return False

    def logged(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]


def project_in(folder: Path, deploy: Callable[[dict[str, Any]], None]) -> Path:
    """The project before its first retrain, beside pipelines of its own; `deploy` changes its prefect.yaml."""
    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines" / "__init__.py").write_text("raise ImportError('pipelines of the project')")
    shutil.copy(ROOT / "params.yaml", folder)
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    deploy(deployed)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(deployed))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """`WATCHED` is due sooner than in a minute."""

    def sooner(deployed: dict[str, Any]) -> None:
        [watched] = [deployment for deployment in deployed["deployments"] if deployment["name"] == WATCHED]
        watched["schedules"] = [{"interval": 10}]

    return project_in(tmp_path / "project", sooner)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_deployment_is_scheduled_and_a_scheduled_run_completes(project: Path, tmp_path: Path) -> None:
    prefect = Prefect(project, tmp_path / "prefect")
    names = [deployment["name"] for deployment in yaml.safe_load((project / "prefect.yaml").read_text())["deployments"]]
    with prefect.running("server", "start", "--port", str(prefect.port), "--no-ui"):
        prefect.eventually("the server answers", lambda: prefect.answers("health"))
        with prefect.running("worker", "start", "--pool", "lobsmith", "--type", "process", "--limit", "1"):
            prefect.eventually("the worker has its pool", lambda: prefect.answers("work_pools/lobsmith"))
            prefect.run("deploy", "--all")
            for name in names:
                prefect.eventually(f"{name} is scheduled", lambda name=name: prefect.runs(name, "SCHEDULED") > 0)
            prefect.eventually(f"a run of {WATCHED} completes", lambda: prefect.runs(WATCHED, "COMPLETED") > 0)


EVERY_S = 10
NAMES = ("every-six-hours", "reconcile", "shadow", "monitor", "drift")


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server and a project whose deployments are due every few seconds, beside a flow that takes ten minutes.

    Another retrain holds the lease all the time, so that those of the schedule end as skipped.
    """

    def hurry(deployed: dict[str, Any]) -> None:
        for deployment in deployed["deployments"]:
            deployment["schedules"] = [{"interval": EVERY_S}]
        deployed["deployments"].append(
            {"name": "slow", "entrypoint": "slow.py:slow", "work_pool": {"name": "lobsmith"}}
        )

    folder = tmp_path_factory.mktemp("service")
    root = project_in(folder / "project", hurry)
    (root / "slow.py").write_text("import time\nfrom prefect import flow\n\n@flow\ndef slow():\n    time.sleep(600)\n")
    workspace = workspace_with_mlflow(root)
    prefect = Prefect(root, folder / "prefect")
    with (
        hold_lease(workspace.retrain_lease, "retrain", ttl_s=60.0, wait_s=0.0),
        prefect.running("server", "start", "--port", str(prefect.port), "--no-ui") as prefect.server,
    ):
        prefect.eventually("the server answers", lambda: prefect.answers("health"))
        yield prefect


@contextmanager
def serving(prefect: Prefect) -> Iterator[psutil.Process]:
    """The service of the flows, from the completion of a run on."""
    before = datetime.now(UTC)
    with prefect.running(of=SERVICE) as service:
        prefect.eventually("a run completes", lambda: completed_since(prefect, WATCHED, before))
        yield service


def completed_since(prefect: Prefect, deployment: str, time: datetime) -> bool:
    planned_deployments = {"start_time": {"after_": time.isoformat()}, "state": {"type": {"any_": ["COMPLETED"]}}}
    return prefect.post("flow_runs/count", deployments=named(deployment), flow_runs=planned_deployments) > 0


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_service_completes_runs_of_every_deployment_and_of_those_it_has_missed_the_newest(prefect: Prefect) -> None:
    with serving(prefect) as service:
        for name in NAMES:
            prefect.eventually(f"two runs of {name} complete", lambda name=name: prefect.runs(name, "COMPLETED") > 1)
        listed = {run.deployment: run for run in next_runs(prefect.api)}
        processes = service.children(recursive=True)
        service.kill()
        away = datetime.now(UTC)
        assert psutil.wait_procs(processes, timeout=60)[1] == []
    manual = listed.pop("slow/slow")
    assert (manual.due, manual.last) == (None, None)
    assert set(listed) == {
        "drift/drift",
        "monitor/monitor",
        "reconcile/reconcile",
        "retrain/every-six-hours",
        "shadow/shadow",
    }
    assert all(run.due is not None and abs((run.due - away).total_seconds()) < 60 for run in listed.values()), listed
    assert {run.last for run in listed.values()} <= {"Completed", "Skipped", "Running"}

    time.sleep(3 * EVERY_S)
    back = datetime.now(UTC)
    with serving(prefect):
        for name in NAMES:
            prefect.eventually(f"{name} runs again", lambda name=name: completed_since(prefect, name, back))
            between = {"expected_start_time": {"after_": away.isoformat(), "before_": back.isoformat()}}
            order = "EXPECTED_START_TIME_ASC"
            missed = prefect.post("flow_runs/filter", deployments=named(name), flow_runs=between, sort=order)
            assert len(missed) >= 2
            assert all("superseded" in run["state"]["message"] for run in missed[:-1]), (name, missed)
    for name in NAMES:
        assert (name, prefect.runs(name, "CRASHED"), prefect.runs(name, "FAILED")) == (name, 0, 0)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_has_crashed_and_a_cancelled_one_ends_with_its_process(prefect: Prefect) -> None:
    with serving(prefect) as service:
        killed = prefect.begun("slow")
        os.kill(int(killed["infrastructure_pid"]), signal.SIGKILL)
        prefect.eventually("it has crashed", lambda: prefect.state(killed) == "CRASHED")

        cancelled = prefect.begun("slow")
        state = {"type": "CANCELLING", "name": "Cancelling"}
        prefect.post(f"flow_runs/{cancelled['id']}/set_state", state=state, force=False)
        prefect.eventually("it is cancelled", lambda: prefect.state(cancelled) == "CANCELLED")
        assert not psutil.pid_exists(int(cancelled["infrastructure_pid"]))

        orphan = prefect.begun("slow")
        [zygote] = service.children()
        zygote.kill()
        prefect.eventually("its run ends with the zygote", lambda: prefect.state(orphan) == "CRASHED")
        now = datetime.now(UTC)
        prefect.eventually("another zygote runs what is next", lambda: completed_since(prefect, WATCHED, now))

        last = prefect.begun("slow")
        service.terminate()
        service.wait(timeout=90)
        assert not psutil.pid_exists(int(last["infrastructure_pid"]))
        assert prefect.state(last) == "CRASHED"


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_beats_while_its_zygote_answers_whether_or_not_the_server_does(prefect: Prefect) -> None:
    with heartbeat_memory() as descriptor:
        alive = Heartbeat(descriptor)
        with prefect.running(of=SERVICE, beats=descriptor) as service:
            prefect.eventually("it is ready", lambda: alive.age_s() is not None)
            [zygote] = service.children()

            def beats() -> bool:
                before = time.monotonic()
                time.sleep(4)
                return (alive.age_s() or 0) < time.monotonic() - before

            zygote.suspend()
            time.sleep(1)
            assert not beats()
            zygote.resume()
            prefect.eventually("it beats again", beats)
            hung = [prefect.server, *prefect.server.children(recursive=True)]
            for process in hung:
                process.suspend()
            prefect.eventually("it beats without the server", beats)
            for process in hung:
                process.resume()
