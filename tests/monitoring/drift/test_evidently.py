"""The real Evidently: reports of it, its workspace, its pages, and what happens where it fails."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from lobsmith.errors import PortBusyError
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.evidently import Side, draw, project_of
from lobsmith.monitoring.drift.evidently_ui import evidently_ui, evidently_workspace
from lobsmith.monitoring.drift.report import Reported, read_content, write_report
from lobsmith.params import Params, load_params
from lobsmith.workspace import Workspace
from tests.browser import browser
from tests.monitoring.drift import drifted
from tests.small import params_file
from tests.trading.recorded import eventually

pytestmark = pytest.mark.slow

ANSWERS = (
    "prediction at 50 ms",
    "probability of down at 50 ms",
    "probability of unchanged at 50 ms",
    "probability of up at 50 ms",
    "target at 50 ms",
)


@dataclass(frozen=True)
class Project:
    workspace: Workspace
    params: Params
    reported: Reported

    @property
    def pages(self) -> Path:
        return evidently_workspace(self.workspace)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    workspace = Workspace(tmp_path_factory.mktemp("drift"))
    (workspace.root / "params.yaml").write_text(params_file().read_text())
    params = load_params(params_file(), {"drift_report.deadline_s": 250})
    reported = write_report(
        workspace, params, drifted.check(), *drifted.sides(), changes=drifted.CHANGES, happenings=drifted.HAPPENINGS
    )
    return Project(workspace, params, reported)


def metrics(path: Path) -> dict[str, object]:
    return {metric["metric_name"]: metric["value"] for metric in json.loads(path.read_bytes())["metrics"]}


def checks_of(path: Path) -> list[tuple[str, str]]:
    return [(test["name"], test["status"]) for test in json.loads(path.read_bytes())["tests"]]


def test_features_predictions_and_targets_are_reported(project: Project) -> None:
    values = metrics(project.reported.evidently_json)
    assert project.reported.evidently_failed is None
    drifts = {name: value for name, value in values.items() if name.startswith("ValueDrift")}
    assert len(drifts) == 75 + len(ANSWERS)
    for name in (*ANSWERS, "spread", "imbalance_1"):
        assert sum(f"column={name}," in text for text in drifts) == 1
    [spread] = [value for name, value in drifts.items() if "column=spread," in name]
    assert spread > 1.0
    assert any(name.startswith("MeanValue(column=spread") for name in values)
    assert {status for _, status in checks_of(project.reported.evidently_json)} == {"SUCCESS"}


def test_the_page_the_history_and_the_links_agree(project: Project) -> None:
    done = project.reported
    [line] = history.read(project.workspace, drifted.MODEL)
    content = read_content(project.workspace, drifted.MODEL, line)
    assert content.check == drifted.check()
    assert content.evidently.report is not None
    assert 'href="evidently.html"' in done.page.read_text()
    markdown = done.as_markdown(project.workspace)
    # Without a server there is no address.
    for path in (done.page, done.evidently_html):
        assert f"`{path}`" in markdown
    assert done.headline in markdown


def test_reports_open_in_a_browser(project: Project) -> None:
    with browser() as page:
        page.open(project.reported.evidently_html.as_uri())
        assert page.wait_for("document.querySelectorAll('.js-plotly-plot').length > 5")
        assert page.errors == []
        assert not [url for url in page.requested if url.startswith("http")]
        with evidently_ui(project.pages) as url:
            page.open(f"{url}/projects/{project_of(drifted.MODEL)}/reports")
            assert page.wait_for(f"document.body.innerText.includes({drifted.INSTRUMENT!r})")
            assert page.errors == []
            assert {httpx.URL(url).host for url in page.requested if url.startswith("http")} == {"127.0.0.1"}


def test_evidently_s_pages_can_be_read_and_not_written(project: Project) -> None:
    with evidently_ui(project.pages) as url:
        [listed] = httpx.get(f"{url}/api/projects", timeout=60).json()
        assert (listed["id"], listed["name"]) == (project_of(drifted.MODEL), drifted.MODEL)
        assert httpx.delete(f"{url}/api/projects/{listed['id']}", timeout=60).status_code == httpx.codes.FORBIDDEN
        taken = pytest.raises(PortBusyError, match=r"is taken by process .*; free it, or pass another --port$")
        with taken, evidently_ui(project.pages, httpx.URL(url).port):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_its_pages_end_with_the_command(project: Project, way: signal.Signals) -> None:
    command = [sys.executable, "-m", "lobsmith", "--root", str(project.workspace.root), "report", "drift", "--open"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": "true"})
    try:
        for printed in child.stdout:
            if address := re.search(r"http://127.0.0.1:\d+", printed):
                break
        assert httpx.get(f"{address[0]}/api/version", timeout=60).is_success
        child.send_signal(way)
        status = child.wait(90)
    finally:
        child.kill()
    assert status == {signal.SIGINT: 130, signal.SIGHUP: 128 + way, signal.SIGKILL: -way}[way]
    eventually(lambda: is_closed(address[0]))


def is_closed(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError as error:
        return isinstance(error, httpx.ConnectError)
    return False


def test_nothing_to_compare_fails_a_test_of_the_report(project: Project, tmp_path: Path) -> None:
    reference, recent = drifted.sides(300, 0)
    drawn = draw(project.workspace, project.params, drifted.check(), reference, Side(recent.rows), tmp_path)
    assert not isinstance(drawn, str), drawn
    assert [status for _, status in checks_of(Path(drawn.json))] == ["FAIL", "FAIL"]


def test_without_outcomes_the_report_says_so(project: Project, tmp_path: Path) -> None:
    reference, recent = drifted.sides(300, 300)
    unknown = drifted.answers(300, drifted.NOW_NS, unknown=300)
    drawn = draw(project.workspace, project.params, drifted.check(), reference, Side(recent.rows, unknown), tmp_path)
    assert not isinstance(drawn, str), drawn
    assert not [name for name in metrics(Path(drawn.json)) if "target" in name]
    assert [status for _, status in checks_of(Path(drawn.json))] == ["SUCCESS", "FAIL"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drift_report.deadline_s": 0.2}, "deadline_s"),
        ({"drift_report.rows": 20, "drift_report.deadline_s": 250}, "Evidently failed"),
    ],
)
def test_an_evidently_failure_stops_no_check(tmp_path: Path, changes: dict[str, float], reason: str) -> None:
    workspace, params = Workspace(tmp_path), load_params(params_file(), changes)
    evidently_workspace(workspace).parent.mkdir(parents=True)
    # A file in the way of the folder: what Evidently draws cannot be kept.
    evidently_workspace(workspace).touch()
    done = write_report(workspace, params, drifted.check(), *drifted.sides(30, 30))
    assert reason in done.evidently_failed
    assert "\n" not in done.evidently_failed
    assert (done.evidently_html, done.evidently_json) == (None, None)
    assert msgspec.json.encode(done.evidently_failed).decode().strip('"') in done.json.read_text()
    assert "1 of the 1 newest checks have none." in done.page.read_text()
    assert [line.evidently_failed for line in history.read(workspace, drifted.MODEL)] == [done.evidently_failed]


def test_writers_at_once_leave_a_workspace_that_can_be_read(tmp_path: Path) -> None:
    import pandas as pd
    from evidently import Report
    from evidently.metrics import RowCount
    from evidently.ui.workspace import Workspace as Evidently

    from lobsmith.monitoring.drift import evidently_child
    from lobsmith.monitoring.drift.evidently import Job

    job = Job(
        arrays="",
        workspace=str(tmp_path / "evidently"),
        project=project_of("lob"),
        model="lob",
        name="",
        looked_ns=0,
        tags=(),
        metadata={},
        features=(),
        horizon_ms=None,
        shown=(),
        minimum_rows=1,
        page="",
        json="",
        keep=5,
        lock_s=30.0,
    )
    snapshots = tmp_path / "evidently" / job.project / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / ".half.json.x").write_text("{")
    runs = [Report([RowCount()]).run(pd.DataFrame({"x": np.arange(rows)}), None) for rows in range(1, 13)]
    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda run: evidently_child.add(job, run), runs))
    pages = Evidently(str(tmp_path / "evidently"))
    assert [project.name for project in pages.list_projects()] == ["lob"]
    kept = {str(run) for run in pages.list_runs(job.project)}
    assert kept == set(sorted(added)[-5:])
    assert all(pages.get_run(job.project, run).metric_results for run in kept)
    assert len(list(snapshots.iterdir())) == 5
