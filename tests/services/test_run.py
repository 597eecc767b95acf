"""The Prefect server that commands of a workspace use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lobsmith.errors import ServiceError
from lobsmith.process import Process
from lobsmith.services.background import end_run
from lobsmith.services.run import Run, running_prefect, state_path, write_run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.workspace import Workspace

API = "http://127.0.0.1:4200/api"


@pytest.mark.parametrize(
    ("state", "api"), [(Phase.READY, API), (Phase.ELSEWHERE, API), (Phase.STARTING, None), (Phase.RESTARTING, None)]
)
def test_it_is_that_of_lobsmith_up_once_it_is_ready(tmp_path: Path, state: Phase, api: str | None) -> None:
    workspace = Workspace(tmp_path)
    assert running_prefect(workspace) is None
    services = (ServiceState(name="prefect", state=state), ServiceState(name="mlflow", state=Phase.READY))
    write_run(workspace, Run(process=Process.this(), started_ns=0, prefect_api=API, services=services))
    assert running_prefect(workspace) == api


def test_what_runs_on_another_machine_is_not_ended_from_here(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        elsewhere = msgspec.structs.replace(Process.this(), pid=bystander.pid, host="elsewhere")
        write_run(workspace, Run(process=elsewhere, started_ns=0, prefect_api=API))
        with pytest.raises(ServiceError, match=r"on elsewhere cannot be seen from here; end it with `lobsmith down`"):
            end_run(workspace)
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("state", [None, b"corrupt"], ids=["not written yet", "corrupt"])
def test_one_whose_state_is_not_known_is_ended_all_the_same(tmp_path: Path, state: bytes | None) -> None:
    workspace = Workspace(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from lobsmith.services.run import sole_run; "
        "from lobsmith.workspace import Workspace\n"
        "with sole_run(Workspace(Path(sys.argv[1]))): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            assert up.stdout.readline() == "held\n"
            if state is not None:
                state_path(workspace).write_bytes(state)
            ended = end_run(workspace)
            assert ended is not None
            assert (ended.process.pid, up.wait(0)) == (up.pid, -signal.SIGTERM)
        finally:
            up.kill()
    assert end_run(workspace) is None


def test_what_ran_once_counts_no_more(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    ended = Process(
        **{name: getattr(Process.this(), name) for name in Process.__struct_fields__} | {"started_ticks": 1}
    )
    services = (ServiceState(name="prefect", state=Phase.READY),)
    write_run(workspace, Run(process=ended, started_ns=0, prefect_api=API, services=services))
    assert running_prefect(workspace) is None


@pytest.mark.parametrize(("module", "name"), [("prefect_server", "prefect/prefect.db"), ("mlflow_server", "mlflow.db")])
def test_a_server_with_a_corrupt_database_ends_with_one_line(tmp_path: Path, module: str, name: str) -> None:
    path = Workspace(tmp_path).home / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"corrupt" * 1000)
    arguments = ["0"] if module == "prefect_server" else [str(tmp_path), "0"]
    completed = subprocess.run(
        [sys.executable, "-m", f"lobsmith.services.{module}", *arguments],
        env={**os.environ, "PREFECT_HOME": str(path.parent)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    [line] = completed.stderr.splitlines()
    assert (completed.returncode, line.startswith(f"Error: {path}: ")) == (1, True)
    assert "database cannot be used: file is not a database" in line
