"""`lobsmith up`, `down` and `logs` as their users see them, before anything runs."""

import os
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from rich.console import Console

from lobsmith.cli.main import cli
from lobsmith.cli.up import PORTS
from lobsmith.cli.up_table import Memory, line_of, pages_line, table_of
from lobsmith.params import load_params
from lobsmith.process import Process
from lobsmith.services.flows.schedule import NextRun
from lobsmith.services.overview import InService, Overview, models_in_service
from lobsmith.services.run import Run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.serving.ports import free_ports
from lobsmith.workspace import Workspace
from tests.small import params_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return tmp_path


def lobsmith(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--root", str(root), *arguments])


def test_every_port_has_an_option() -> None:
    params = load_params(params_file())
    assert all(isinstance(getattr(getattr(params, section), name), int) for name, section in PORTS.items())
    described = CliRunner().invoke(cli, ["up", "--help"]).output
    assert [name for name in PORTS if f"--{name.replace('_', '-')}" not in described] == []


def test_what_is_no_option_is_refused_where_no_live_feed_is_asked_for(root: Path) -> None:
    result = lobsmith(root, "up", "--no-such-option")
    assert (result.exit_code, "needs --live" in result.output) == (2, True)


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["in the foreground", "in the background"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"params": "data: 5\n"}, "params.yaml:1: data: expected object, got 5"),
        ({"environment": ("PREFECT_API_URL", "http://127.0.0.1:{port}/api")}, "no server answers"),
    ],
    ids=["params.yaml", "PREFECT_API_URL"],
)
def test_what_is_wrong_from_the_beginning_is_one_line(
    root: Path, detach: list[str], changes: dict, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "params" in changes:
        (root / "params.yaml").write_text(changes["params"])
    else:
        name, value = changes["environment"]
        monkeypatch.setenv(name, value.format(port=free_ports(1)[0]))
        monkeypatch.setenv(
            "PYTHONPATH", os.pathsep.join((str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")))
        )
    result = lobsmith(root, "up", "--free-ports", *detach)
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: ")
    assert text in line


def test_a_speed_that_schedules_cannot_keep_up_with_is_refused_in_one_line(root: Path) -> None:
    result = lobsmith(root, "up", "--speed", "61")
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: --speed 61: at most 60; flows start every 5 s at the most")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "no feed, or two: name SYMBOLs"),
        (("--from", "missing.gz"), "missing.gz: no such file"),
        (("--from", "params.yaml"), "params.yaml: live plays raw captures"),
        (("--speed", "10", "BTCUSDT"), "--speed is for played feeds"),
        (("--", "--simulate", "7", "--speed", "10"), "--speed is of `lobsmith up`"),
    ],
)
def test_a_feed_that_cannot_be_is_refused_before_anything_is_started(
    root: Path, arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    result = lobsmith(root, "up", "--free-ports", "--live", *arguments)
    assert result.exit_code in (1, 2)
    assert result.output.splitlines()[-1].startswith(f"Error: {text}")
    assert not Workspace(root).up.exists()


def test_a_corrupt_database_of_prefect_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the command sets where it is missing stays within this test.
    monkeypatch.setenv("PREFECT_HOME", str(root))
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "10")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (root / "prefect.db").write_bytes(b"corrupt" * 1000)
    result = lobsmith(root, "reconcile")
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"Error: {root}/prefect.db: Prefect's database cannot be used: file is not a database")


def test_down_and_logs_where_nothing_has_run(root: Path) -> None:
    result = lobsmith(root, "down")
    assert (result.exit_code, result.output) == (0, "nothing to end: `lobsmith up` does not run here\n")
    assert lobsmith(root, "logs").output == ""
    unknown = lobsmith(root, "logs", "prefect")
    assert unknown.exit_code == 1
    assert "prefect: no log of that name" in unknown.output


def test_a_corrupt_clock_keeps_nothing_from_being_ended_or_read(root: Path) -> None:
    Workspace(root).home.mkdir()
    Workspace(root).clock.write_text("{")
    assert [lobsmith(root, command).exit_code for command in ("status", "down", "logs")] == [1, 0, 0]


def test_logs_are_shown_by_name_or_all_together(root: Path) -> None:
    folder = Workspace(root).up / "logs"
    folder.mkdir(parents=True)
    (folder / "prefect.log").write_text("a\nb\nc\n")
    (folder / "mlflow.log").write_text("d\n")
    assert lobsmith(root, "logs", "prefect", "--lines", "2").output == "b\nc\n"
    assert lobsmith(root, "logs").output == "mlflow    d\nprefect   a\nprefect   b\nprefect   c\n"
    assert "there are mlflow, prefect" in lobsmith(root, "logs", "triton").output


def test_the_table_shows_what_runs_where_and_what_does_not_and_why(root: Path) -> None:
    pages = {"address": "http://127.0.0.1:5000", "page": True}
    services = (
        ServiceState(name="mlflow", state=Phase.READY, pid=os.getpid(), restarts=2, **pages),
        ServiceState(name="triton", state=Phase.MISSING, why="Triton is not installed [here]"),
    )
    run = Run(process=Process.this(), started_ns=0, prefect_api="", page="http://127.0.0.1:8003", services=services)
    due = datetime.now(UTC) + timedelta(minutes=10, seconds=30)
    overview = Overview(
        models=(InService(model="lob", version=7, mode="normal", reason="calm"),),
        next_runs=(
            NextRun(deployment="drift/drift", due=due, last="Crashed"),
            NextRun(deployment="retrain/every-six-hours", due=None, last=None),
        ),
    )
    console = Console(width=160, file=StringIO())
    console.print(table_of(run, Memory(), overview))
    text = console.file.getvalue()
    assert text.splitlines()[0].strip() == "open http://127.0.0.1:8003"
    assert "http://127.0.0.1:5000" in text
    assert "MiB" in text
    assert "missing: Triton is not installed [here]" in text
    assert "lob 7: normal: calm" in text
    assert "next     drift/drift in 10 min (last run Crashed), retrain/every-six-hours not scheduled" in text
    assert pages_line(run) == "open http://127.0.0.1:5000 (mlflow)"
    # The landing page opens while `lobsmith serve` runs.
    serves = ServiceState(name="triton", state=Phase.READY)
    assert pages_line(replace(run, services=(serves,))) == "open http://127.0.0.1:8003 (what serves)"
    assert line_of(services[0]) == f"mlflow    ready http://127.0.0.1:5000 (process {os.getpid()})"


def test_a_narrow_terminal_gets_lines_that_can_be_read() -> None:
    pages = {"address": "http://127.0.0.1:5000", "page": True}
    services = (
        ServiceState(name="mlflow", state=Phase.READY, pid=os.getpid(), **pages),
        ServiceState(name="triton", state=Phase.RESTARTING, why="exit status 1"),
    )
    console = Console(width=40, file=StringIO())
    run = Run(process=Process.this(), started_ns=0, prefect_api="", services=services)
    console.print(table_of(run, Memory(), Overview(), console.width))
    text = console.file.getvalue().split()
    assert {"mlflow", "ready", "http://127.0.0.1:5000", "triton", "restarting:", "exit"} <= {*text}


def test_models_are_read_from_the_records_of_their_modes(root: Path) -> None:
    workspace = Workspace(root)
    workspace.modes.mkdir(parents=True)
    (workspace.modes / "lob.json").write_text('{"model":"lob","version":7,"mode":"normal","reason":"calm","more":1}')
    (workspace.modes / "corrupt.json").write_text("{")
    assert models_in_service(workspace) == (InService(model="lob", version=7, mode="normal", reason="calm"),)
