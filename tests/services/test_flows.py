"""The worker of the flows before a server that refuses something, and what it prints on a full disk."""

import asyncio
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateRejectDetails,
    WorkerFlowRunResponse,
)

from lobsmith.process import Heartbeat
from lobsmith.services.flows.__main__ import _await_prefect
from lobsmith.services.flows.forks import Zygote
from lobsmith.services.flows.worker import ForkWorker
from lobsmith.services.flows.zygote import await_server
from lobsmith.services.service import why_away
from lobsmith.serving.ports import free_ports


class Refusing:
    """A client of a server that hands out three late runs of a deployment and lets none be cancelled."""

    def __init__(self) -> None:
        deployment, pool = uuid4(), uuid4()
        self.requests = 0
        self.due = [
            WorkerFlowRunResponse(
                work_pool_id=pool,
                work_queue_id=pool,
                flow_run=FlowRun(
                    flow_id=uuid4(),
                    deployment_id=deployment,
                    auto_scheduled=True,
                    expected_start_time=datetime.now(UTC) - timedelta(minutes=late),
                ),
            )
            for late in (3, 2, 1)
        ]

    async def get_scheduled_flow_runs_for_work_pool(self, **_about: object) -> list[WorkerFlowRunResponse]:
        self.requests += 1
        return self.due

    async def set_flow_run_state(self, _run: UUID, state: State) -> OrchestrationResult[object]:
        assert state.type is StateType.CANCELLED
        details = StateRejectDetails(reason="a rule of the server's")
        return OrchestrationResult(state=None, status=SetStateStatus.REJECT, details=details)


def test_runs_that_the_server_does_not_let_be_cancelled_are_left_out(tmp_path: Path) -> None:
    worker = ForkWorker(Zygote(tmp_path), Heartbeat())
    client = worker._client = Refusing()
    due = asyncio.run(asyncio.wait_for(worker._get_scheduled_flow_runs(), 60))
    assert (due, client.requests) == (client.due[-1:], 1)


@pytest.fixture
def refusing_with(request: pytest.FixtureRequest) -> Iterator[str]:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(request.param)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("refusing_with", [401, 404], indirect=True)
def test_a_server_that_wants_a_key_is_not_waited_for(refusing_with: str) -> None:
    asyncio.run(asyncio.wait_for(_await_prefect(refusing_with, Heartbeat()), 60))


def test_a_run_waits_for_a_server_that_is_being_started_again() -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    [port] = free_ports(1)
    servers: list[http.server.ThreadingHTTPServer] = []

    def start() -> None:
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", port), Healthy))
        servers[0].serve_forever()

    later = threading.Timer(1.0, start)
    begun = time.monotonic()
    later.start()
    try:
        await_server(f"http://127.0.0.1:{port}/api/", 120)
        # Not at once, and not at its deadline.
        assert 0.9 < time.monotonic() - begun < 100
    finally:
        later.join(1)
        servers[0].shutdown()
        servers[0].server_close()
    begun = time.monotonic()
    await_server(f"http://127.0.0.1:{port}/api", 1.0)
    assert 0.9 < time.monotonic() - begun < 60


@pytest.mark.parametrize("refusing_with", [503], indirect=True)
def test_a_server_that_is_broken_or_absent_is_away(refusing_with: str) -> None:
    assert why_away(refusing_with) == "status 503"
    assert "refused" in (why_away(f"http://127.0.0.1:{free_ports(1)[0]}") or "")
    assert why_away("nowhere") is not None


WRONG_CRON = {
    "deployments": [
        {
            "name": "often",
            "entrypoint": "flows.py:often",
            "work_pool": {"name": "lobsmith"},
            "schedules": [{"cron": "61 * * x *"}],
        }
    ]
}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"deployments": 5}, "Error: prefect.yaml: 1 validation error for PrefectYamlModel deployments "),
        pytest.param(
            WRONG_CRON,
            "Error: prefect.yaml, deployment often: 1 validation error for CronSchedule cron "
            'Value error, Invalid cron string: "61 * * x *"',
            marks=(pytest.mark.slow, pytest.mark.integration),  # Prefect starts a server
        ),
    ],
    ids=["the file", "a cron"],
)
def test_what_is_wrong_with_prefect_yaml_is_one_line_that_names_the_place(
    tmp_path: Path, table: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(table))
    (tmp_path / "flows.py").write_text("from prefect import flow\n\n\n@flow\ndef often() -> None: ...\n")
    code = "from lobsmith.services.flows.register import register; register()"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    [line] = completed.stderr.splitlines()
    assert (completed.returncode, line[: len(message)]) == (1, message)


def test_a_full_disk_under_its_log_is_no_error() -> None:
    code = "from lobsmith.services.flows.forks import print_line; print_line('a line')"
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([sys.executable, "-c", code], stderr=full, check=False).returncode == 0
