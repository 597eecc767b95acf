"""A simulated market changes under a model in service: modes, a retrain ahead of its schedule, and the way back.

Everything is real: the network is trained, the client replays through its guard, the recorder writes the log, and the
drift flow runs in a process of its own that is killed in the end.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.market.simulator import Change, Dynamics, simulate
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.log.writer import Source
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import changes, read_mode
from lobsmith.params import Params, load_params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.version.contract import wire_contract
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guarded_client import GatedPrediction
from lobsmith.trading.recorder.recorder import Recorder
from lobsmith.trading.session import open_stream
from lobsmith.workspace import Workspace
from tests import trained
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

TRAINED_S, CHECK_S = 1200, 20
CHANGES: dict[str, Any] = {
    **SMALL,
    "client.poll_s": 0.1,
    "drift.every_ms": 100,
    "drift.reference_s": 200,
    "drift.recent_s": CHECK_S,
    "drift.look_s": CHECK_S,
    # A check every twenty seconds is fifteen times as often as by default.
    "drift.false_alarms_a_day": 15,
    "drift.minimum_rows": 50,
    "drift.pairs_a_look": 60,
    "drift.discriminator.seconds": 60,
    # The fewest there are: each of some hundred past pairs is worth as many networks.
    "drift.discriminator.folds": 2,
    "drift_report.deadline_s": 200,
    "reference.block_rows": 64,
    # Twenty minutes do not tell what is seen once a day: from so little the level would lie far out.
    "reference.false_alarms_a_day": 100,
    "guard.every_rows": 16,
    "modes.calm_looks": 3,
    "modes.stale_s": 600,
}
MODEL = "lob"
DRIFT_FROM, DRIFT_UNTIL, DRIFT_AGAIN, END = 1260, 1320, 1440, 1480
"""Seconds of the simulated session: the market changes, changes back, and changes again once the monitor is killed."""
NS = 1_000_000_000

_UNDRAWN = {"drift_report.deadline_s": 0.05}
"""Too little for Evidently, which takes ten times as long as a check: its report is drawn where the market turns."""

_MONITOR = """
import sys
from lobsmith.pipelines.monitor import drift
import json
changes = json.loads(sys.argv[2])
for line in sys.stdin:
    seen = drift(sys.argv[1], changes | json.loads(line), ["replay"])
    print("CHECKED", seen.mode, seen.reason, flush=True)
"""


@dataclass
class Monitor:
    """The drift flow in a child process, run on request."""

    process: subprocess.Popen[str]

    def check(self, changes: dict[str, Any]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(changes).decode() + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("CHECKED"):
                return line
        raise AssertionError("the monitor has ended")


@pytest.fixture
def monitor(workspace: Workspace, prefect_server: None) -> Iterator[Monitor]:
    command = [sys.executable, "-c", _MONITOR, str(workspace.root), msgspec.json.encode(CHANGES).decode()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    yield Monitor(process)
    process.kill()
    process.wait()


@pytest.fixture
def params(workspace: Workspace) -> Params:
    return load_params(workspace.params, CHANGES)


def market(params: Params) -> Dataset:
    """The market of the training data, as it goes on: twice its orders are twenty times as large."""
    large = Dynamics(order=20 * Dynamics().order, queue=20 * Dynamics().queue)
    turns = [Change(at_s=DRIFT_FROM, dynamics=large), Change(at_s=DRIFT_UNTIL, dynamics=Dynamics())]
    turns.append(Change(at_s=DRIFT_AGAIN, dynamics=large))
    return build_dataset(simulate(5, END, changes=turns), params)


class Desk:
    """A running client: it trades on, stretch after stretch, and has everything recorded."""

    def __init__(self, workspace: Workspace, params: Params, rows: Dataset) -> None:
        self._workspace, self._params, self._rows = workspace, params, rows.rows
        self._stream = open_stream(
            "simulator:SIM",
            root=workspace,
            params=params,
            model=MODEL,
            transport="inprocess",
            record=None,
            backpressure=True,
        )

    def trade(self, from_s: float, until_s: float) -> list[GatedPrediction]:
        """Ask about the rows of a stretch of the session; return what was advised."""
        start = self._rows.time[0]
        places = np.searchsorted(self._rows.time, start + np.asarray([from_s, until_s]) * NS)
        recorder = Recorder(
            self._workspace,
            self._params,
            model=MODEL,
            instrument="simulator:SIM",
            source=Source.REPLAY,
            transport="inprocess",
            backpressure=True,
        )
        gated = []
        for row in self._rows.slice(*places.tolist()):
            gated.append(self._stream.step(row))
            recorder.record(row.time_ns, row.segment, row.mid, row.features, gated[-1].prediction, row.raw)
            recorder.throttle()
        assert recorder.close().dropped == 0
        return gated

    def close(self) -> None:
        self._stream.close()


def opened_retrains() -> list[str]:
    """The names of the flow runs that drift has opened."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["drift"])))
    return [run.name for run in runs]


def test_a_market_that_changes_turns_clients_conservative_and_asks_for_a_retrain(
    workspace: Workspace, params: Params, monitor: Monitor, tmp_path: Path
) -> None:
    from lobsmith.pipelines.retrain import retrain

    retrain.to_deployment("every-six-hours", parameters={"scheduled": True}).apply()
    session = market(params)
    few = {"train.epochs": 3, **{name: CHANGES[name] for name in CHANGES if name not in SMALL}}
    good = trained.good(tmp_path / "run", **few)
    version = publish(Release(workspace, params), good.artifact, model=MODEL, contract=wire_contract(params)).version
    desk = Desk(workspace, params, session)
    try:
        modes: dict[int, Mode] = {}
        for until in range(TRAINED_S + CHECK_S, DRIFT_AGAIN + 1, CHECK_S):
            gated = desk.trade(until - CHECK_S, until)
            if modes.get(until - CHECK_S) is Mode.CONSERVATIVE:
                # Rows are answered as before, for outcomes; nothing may be acted on.
                assert gated[-1].prediction.probabilities is not None
                assert (gated[-1].mode, gated[-1].abstain) == (Mode.CONSERVATIVE, Abstain.CONSERVATIVE)
                assert not any(gated[-1].actionable)
            if until == DRIFT_FROM:
                assert gated[-1].mode is Mode.NORMAL, gated[-1]
                assert not opened_retrains()
            monitor.check({} if until == DRIFT_FROM + CHECK_S else _UNDRAWN)
            modes[until] = read_mode(workspace, MODEL).mode
        assert {mode for until, mode in modes.items() if until <= DRIFT_FROM} == {Mode.NORMAL}
        turned = min(until for until, mode in modes.items() if mode is Mode.CONSERVATIVE)
        assert turned <= DRIFT_FROM + 2 * CHECK_S, modes
        assert len(opened_retrains()) == 1
        drawn = [line.evidently_failed is None for line in history.read(workspace, MODEL)]
        assert drawn == [until == DRIFT_FROM + CHECK_S for until in modes]
        assert modes[DRIFT_AGAIN] is Mode.NORMAL, modes
        journaled = [(change.mode_from, change.mode_to, change.version) for change in changes(workspace, MODEL)]
        assert journaled == [
            (None, Mode.NORMAL, version),
            (Mode.NORMAL, Mode.CONSERVATIVE, version),
            (Mode.CONSERVATIVE, Mode.NORMAL, version),
        ]

        monitor.process.send_signal(signal.SIGKILL)
        monitor.process.wait()
        checked_ns = read_mode(workspace, MODEL).looked_ns
        gated = desk.trade(DRIFT_AGAIN, END)
        assert read_mode(workspace, MODEL).looked_ns == checked_ns
        assert (gated[-1].mode, gated[-1].abstain) == (Mode.CONSERVATIVE, Abstain.REFERENCE), gated[-1]
        assert not any(gated[-1].actionable)
    finally:
        desk.close()
