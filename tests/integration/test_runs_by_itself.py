"""The lifecycle turns by itself: one `lobsmith up` with a simulated market at twenty times its pace, no other command.

A scheduled retrain trains on the captured feed; shadow evaluation judges its candidate on live rows; an alias moved in
MLflow's own page is served; a version that turns out bad is rolled back; a market that changes turns the mode
conservative, and the page of the drift check names the reason.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
import yaml
from onnx import helper, numpy_helper

from lobsmith import clock
from lobsmith.compress.golden import golden_vectors, load_golden
from lobsmith.compress.runtime import OnnxModel
from lobsmith.drift.verdict import Finding, Kind
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import read_mode
from lobsmith.params import as_table, load_params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.reconcile.requests import register_challenger
from lobsmith.release.registry.aliases import SHADOW, alias_targets, registered
from lobsmith.release.registry.runs import log_run
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.names import score_model
from lobsmith.services.run import read_run
from lobsmith.serving.running_server import running_server
from lobsmith.workspace import Workspace
from tests.browser import Page, browser
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
MODEL, SPEED, CHANGE_AT_S = "lob", 20, 4800
SETTINGS: dict[str, Any] = {
    **SMALL,
    "data.source": "live",
    "window.length_s": 700,
    "paired.measure_s": 60,
    "paired.block_s": 10,
    "shadow.minimum_s": 300,
    "shadow.minimum_blocks": 15,
    "shadow.probes": 0,
    "rollback.minimum_blocks": 6,
    "drift.every_ms": 100,
    "drift.reference_s": 300,
    "drift.recent_s": 60,
    "drift.look_s": 800,
    "drift.false_alarms_a_day": 1,
    "drift.minimum_rows": 50,
    "drift.discriminator.seconds": 5,
    "drift.gate_level": 1.0e-9,
    "drift.feed_limit": 1.0,
    "reference.block_rows": 64,
    "reference.false_alarms_a_day": 100,
    # Evidently takes longer than the time between two checks, on a clock as fast as this.
    "drift_report.deadline_s": 0.05,
    "modes.stale_s": 3600,
}
PERIODS_S = {"every-six-hours": 2000, "reconcile": 300, "shadow": 300, "monitor": 300, "drift": 800}
"""Of the market, as all schedules are: a run of each in a minute of the machine would not fit beside the others."""


class Installation:
    """A project of its own, and what it has done so far."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace.open(root)
        self.params = load_params(self.workspace.params)
        self.repository = Repository.of(self.workspace)

    def lobsmith(self, *arguments: str, within_s: float = 300.0) -> str:
        command = [sys.executable, "-m", "lobsmith", "--root", str(self.workspace.root), *arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "LOBSMITH_"))}
        done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False, env=environment)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def eventually(self, what: str, holds: Callable[[], Any], within_s: float) -> Any:
        deadline = time.monotonic() + within_s
        while not (result := holds()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:g} s: {what}\n{self.diagnosis()}", pytrace=False)
            time.sleep(0.5)
        return result

    def diagnosis(self) -> str:
        logs = (self.workspace.home / "up" / "logs").glob("*.log")
        newest = [f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in sorted(logs)]
        entries = [f"{entry.action} {entry.model} {entry.version_to}: {entry.reason}" for entry in self.journal()]
        return "\n".join([*newest, "--- journal", *entries, "--- runs", str(self.runs()), *self.failures()])

    def journal(self) -> list[journal.Entry]:
        return journal.read(self.workspace.journal)

    def address(self, service: str) -> str:
        run = read_run(self.workspace)
        assert run is not None, self.diagnosis()
        return next(entry.address for entry in run.services if entry.name == service)

    def runs(self) -> dict[str, list[str]]:
        """States of the flow runs by the name of their flow."""
        states: dict[str, list[str]] = {}
        for flow, run in self.begun():
            states.setdefault(flow, []).append(run["state_name"])
        return states

    def failures(self) -> list[str]:
        """The message of each flow run that has failed or crashed."""
        return [
            f"{flow}: {run['state']['message']}"
            for flow, run in self.begun()
            if run["state_type"] in ("FAILED", "CRASHED")
        ]

    def begun(self) -> list[tuple[str, dict[str, Any]]]:
        """Flow runs that have begun, the newest first, each with the name of its flow."""
        run = read_run(self.workspace)
        if run is None:
            return []
        api = httpx.Client(base_url=run.prefect_api, timeout=30)
        flows = {flow["id"]: flow["name"] for flow in api.post("/flows/filter", json={}).json()}
        begun = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}, "sort": "START_TIME_DESC"}
        return [(flows[run["flow_id"]], run) for run in api.post("/flow_runs/filter", json=begun).json()]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    root = tmp_path / "desk"
    root.mkdir()
    settings = as_table(load_params(ROOT / "params.yaml", SETTINGS))
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in deployed["deployments"]:
        if deployment["name"] in PERIODS_S:
            deployment["schedules"] = [{"interval": PERIODS_S[deployment["name"]]}]
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployed))
    desk = Installation(root)
    yield desk
    desk.lobsmith("down")
    clock.use(root / "no clock")


def move_alias(page: Page, mlflow: str, alias: str, version: int) -> None:
    """Give a registered version an alias as a person does, in MLflow's page."""
    page.open(f"{mlflow}/#/models/{MODEL}", width=1500)
    row = f"[...document.querySelectorAll('[role=row], tr')].find(r => r.innerText.includes('Version {version}'))"
    page.click(f"{row}?.querySelector('[data-component-id*=aliasescell]')")
    page.wait_until_idle()
    page.write("document.querySelector('[role=dialog] input')", alias)
    page.click("[...document.querySelectorAll('[role=dialog] button')].find(b => /Save/.test(b.innerText))")
    page.wait_until_idle()


def enough_judged(installation: Installation, version: int) -> dict[str, Any] | None:
    """Return the evidence on a registered version once there is as much of it as a decision asks for."""
    tag = registered(installation.workspace, MODEL, version).tags.get(SHADOW)
    evidence: dict[str, Any] = {"blocks": 0} if tag is None else json.loads(tag)["evidence"]
    return evidence if evidence["blocks"] >= installation.params.shadow.minimum_blocks else None


def drifted(workspace: Workspace) -> Path | None:
    """Return the page of the newest check that has found covariate drift and has a page; it comes after the check."""
    for check in reversed(history.read(workspace, MODEL)):
        covariate, path = check.of(Kind.COVARIATE), history.reports(workspace, MODEL) / check.folder / history.PAGE
        if covariate and covariate.finding is Finding.DRIFT and path.is_file():
            return path
    return None


def poisoned(installation: Installation, folder: Path) -> int:
    """Register a version whose answers are the opposite of the active one's, and confident; return its number."""
    workspace, params = installation.workspace, installation.params
    active = installation.repository.active(MODEL)
    assert active is not None
    directory = installation.repository.directory(MODEL, active)
    manifest = installation.repository.verify(MODEL, active)
    model = onnx.load(str(directory / "model.onnx"))
    for node in model.graph.node:
        node.output[:] = ["honest" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["honest" if name == "probabilities" else name for name in node.input]
    constants = {"mirror": np.array([2, 1, 0], np.int64), "power": np.array(6.0, np.float32), "last": np.array([3])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["honest", "mirror"], ["mirrored"], axis=3),
            helper.make_node("Pow", ["mirrored", "power"], ["powers"]),
            helper.make_node("ReduceSum", ["powers", "last"], ["sum"], keepdims=1),
            helper.make_node("Div", ["powers", "sum"], ["probabilities"]),
        ]
    )
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    run = log_run(
        workspace, experiment=MODEL, run_name="poisoned", params={}, metrics={}, model_path=path, model_name=MODEL
    )
    artifact = Artifact(
        model_path=path,
        golden=golden_vectors(OnnxModel(path), load_golden(directory / "golden.safetensors").features[0]),
        prime_rows=manifest.prime_rows,
        instruments=manifest.instruments,
        reference_path=directory / "reference.safetensors",
        score_path=installation.repository.directory(score_model(MODEL), active) / "model.onnx",
        data_fingerprint=manifest.data_fingerprint,
        verdicts=manifest.verdicts,
        metrics={},
        run="poisoned",
        mlflow_run_id=run.run_id,
    )
    release = Release(workspace, params, running_server(workspace, params))
    register_challenger(release, artifact, model=MODEL, contract=wire_contract(params), run=run)
    return run.registry_version


def test_the_lifecycle_turns_by_itself(installation: Installation, tmp_path: Path) -> None:
    workspace, repository = installation.workspace, installation.repository
    installation.lobsmith("retrain", "--set", "data.source=simulator", "--set", "data.simulator.seconds=1200")
    first = repository.active(MODEL)
    assert first is not None
    market = ("--simulate", "7", "--change-at", str(CHANGE_AT_S), "--change", "order=8", "--change", "queue=8")
    began = time.monotonic()
    live = ("--live", "--", *market, "--transport", "inprocess")
    installation.lobsmith("up", "--detach", "--free-ports", "--speed", str(SPEED), *live)
    clock.use(workspace.clock)

    def report(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", flush=True)

    with browser() as page:
        challenger = installation.eventually(
            "a scheduled retrain makes a candidate", lambda: alias_targets(workspace, MODEL).challenger, 600
        )
        report(f"a scheduled retrain has made registered version {challenger.version}")
        judged = installation.eventually(
            "shadow evaluation judges it", lambda: enough_judged(installation, challenger.version), 400
        )
        report(f"shadow evaluation: {judged['decision']}: {judged['reason']}")

        champion = alias_targets(workspace, MODEL).champion
        assert champion is not None
        other = challenger.version if champion.version != challenger.version else 1
        before = repository.active(MODEL)
        moved = time.monotonic()
        move_alias(page, installation.address("mlflow"), "champion", other)
        served = installation.eventually(
            "the alias moved in MLflow's page is served", lambda: repository.active(MODEL) != before, 240
        )
        assert served
        report(f"the alias moved in MLflow's page is served after {time.monotonic() - moved:.0f} s")

        bad = poisoned(installation, tmp_path / "poisoned")
        move_alias(page, installation.address("mlflow"), "champion", bad)
        taken_back = installation.eventually(
            "the poisoned version is taken back",
            lambda: [entry for entry in installation.journal() if entry.action == journal.ROLLED_BACK],
            400,
        )
        report(f"taken back: {taken_back[-1].reason}")

        # Where the first check had no rows the mode is conservative already, and keeps its reason.
        mode = installation.eventually(
            "a drift check finds the change of the market",
            lambda: (
                (mode := read_mode(workspace, MODEL)) and mode.findings.get(Kind.COVARIATE) is Finding.DRIFT and mode
            ),
            max(240.0, CHANGE_AT_S / SPEED + 240 - (time.monotonic() - began)),
        )
        report(f"{mode.mode}: {mode.reason}; {mode.last_look}")
        assert mode.mode is Mode.CONSERVATIVE
        assert mode.reason.startswith(("drift in one check", "nothing is known"))
        found = installation.eventually("the check that found it has its page", lambda: drifted(workspace), 240)
        page.open(found.as_uri())
        text = page.run("document.body.innerText")
        assert "conservative" in text.lower(), text[:2000]
        assert re.search(r"Covariate drift: (bid|ask)_size_\d", text), text[:2000]

    runs = installation.runs()
    assert {"retrain", "reconcile", "shadow", "monitor", "drift"} <= set(runs)
    for flow, states in runs.items():
        assert "Completed" in states or "Skipped" in states, (flow, states)
        assert not {"Crashed", "Failed"} & set(states), (flow, states, installation.diagnosis())
    run = read_run(workspace)
    assert run is not None
    pids = [service.pid for service in run.services if service.pid]
    installation.lobsmith("down")
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert shutil.disk_usage(workspace.root).free > 0
