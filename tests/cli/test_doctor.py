"""`lobsmith doctor`: checks of the running services, against a real Prefect server."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from lobsmith.cli.doctor_service import service_checks
from lobsmith.process import Process
from lobsmith.services.flows.schedule import POOL, firing
from lobsmith.services.prefect_server import TemporaryServer
from lobsmith.services.run import Run, write_run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace
from tests.cli.test_commands import lobsmith
from tests.small import params_file, small_params

UP, DEPLOY = "`lobsmith up` starts it", "`prefect --no-prompt deploy --all`"
SERVICE = ("schedules", "worker", "serving", "mode")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return tmp_path


def test_a_remedy_with_brackets_is_shown_as_it_is_typed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    shown = lobsmith(root, "doctor").stdout
    assert 'pip install "lobsmith[tensorrt-rtx]"' in shown.replace("\n", "")


def test_services_that_do_not_run_are_optional_and_have_a_remedy(root: Path) -> None:
    result = lobsmith(root, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == int(any(check["needed"] and not check["found"] for check in checks.values()))
    for name, remedy in zip(SERVICE, ("lobsmith up", "lobsmith up", "lobsmith serve", "lobsmith retrain"), strict=True):
        assert (checks[name]["found"], checks[name]["needed"]) == (False, False)
        assert f"`{remedy}`" in checks[name]["detail"]


@pytest.mark.slow
@pytest.mark.integration
def test_a_schedule_is_late_after_two_periods_without_a_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(root)

    def checks() -> dict[str, tuple[bool, str]]:
        return {check.name: (check.found, check.detail) for check in service_checks(workspace, small_params())}

    with TemporaryServer(root) as server, httpx.Client(base_url=server.api) as client:
        server.wait_ready()
        monkeypatch.setenv("PREFECT_API_URL", server.api)
        assert checks()["schedules"] == (False, f"{server.api} has no deployment; {UP}, or {DEPLOY}")
        assert not checks()["worker"][0]

        def post(path: str, **body: Any) -> Any:
            return client.post(path, json=body).raise_for_status().json()

        flow = post("/flows/", name="drift")["id"]
        post("/work_pools/", name=POOL, type="process")
        schedules = [{"schedule": {"interval": 300}, "active": True}]
        deployment = post("/deployments/", name="drift", flow_id=flow, work_pool_name=POOL, schedules=schedules)["id"]
        post(f"/deployments/{deployment}/schedule", min_runs=3)
        now = datetime.now(UTC)
        [fresh], [old] = (firing(server.api, now - timedelta(minutes=minutes)) for minutes in (10, 12))
        assert (fresh.late, fresh.period_s, fresh.started) == (False, 300, None)
        assert old.late
        assert checks()["schedules"] == (True, "1 on time; newest run never")
        monkeypatch.delenv("PREFECT_API_URL")
        write_run(workspace, running_for(timedelta(minutes=12), server.api))
        late = checks()["schedules"]
        assert late[0] is False
        assert late[1].startswith("late: drift every 5.0 min, newest run never; see `lobsmith logs flows`")
        post("/flow_runs/", flow_id=flow, deployment_id=deployment, state={"type": "RUNNING", "name": "Running"})
        assert checks()["schedules"][0] is True
        assert checks()["schedules"][1].startswith("1 on time; newest run ")
        client.post(f"/work_pools/{POOL}/workers/heartbeat", json={"name": "here"}).raise_for_status()
        assert checks()["worker"] == (True, f"here polls the pool {POOL}")


def running_for(age: timedelta, api: str) -> Run:
    """Return the state of a `lobsmith up` of this process."""
    started_ns = time.time_ns() - int(age.total_seconds() * NS_PER_S)
    services = (ServiceState(name="prefect", state=Phase.READY),)
    return Run(process=Process.this(), started_ns=started_ns, prefect_api=api, services=services)
