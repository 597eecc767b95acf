"""A new market takes over by itself: a session that a model of another one refuses is answered once retrained.

A model of the simulator serves, from a real Triton; `lobsmith live` plays a recording of BTCUSDT at twenty times its
pace. The flows of the schedules are called in this process.
"""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lobsmith import clock
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import write_raw
from lobsmith.monitoring import alerts
from lobsmith.monitoring.log.reader import PredictionLog, sessions_asked
from lobsmith.monitoring.log.writer import Role
from lobsmith.params import Params, as_table
from lobsmith.release.registry.aliases import alias_targets
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.trading.live.stream import StreamPhase
from lobsmith.workspace import Workspace
from tests.pipelines.conftest import prefect_server
from tests.release.registrations import workspace_with_mlflow
from tests.small import small_params

__all__ = ["prefect_server"]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(900),
]
BTC, SECONDS, SPEED = "binance-usdm:BTCUSDT", 300, 20
SETTINGS: dict[str, Any] = {
    "window.length_s": 90,
    "window.minimum_coverage": 0.5,
    "client.poll_s": 0.2,
    # At twenty times its pace everything is late, and a model of two epochs is weak: neither is under test.
    "rollback.window_s": 1200,
    "rollback.latency_p99_ms": 60_000,
    "rollback.unanswered": 0.9,
    "rollback.floor": 100,
}


@pytest.fixture
def params() -> Params:
    return with_free_ports(small_params(**SETTINGS))


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Iterator[Workspace]:
    project = workspace_with_mlflow(tmp_path)
    project.params.write_text(yaml.safe_dump(as_table(params)))
    yield project
    clock.use(tmp_path / "no clock")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "session.gz"
    write_raw(simulate(seed=5, seconds=SECONDS), path)
    lines = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(lines.replace(b'"SIM"', b'"BTCUSDT"').replace(b"sim@", b"btcusdt@")))
    return path


class Live:
    """`lobsmith live` in a process of its own."""

    def __init__(self, workspace: Workspace, *arguments: str) -> None:
        command = (sys.executable, "-m", "lobsmith", "--root", str(workspace.root), "live", *arguments, "--json")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "LOBSMITH_"))}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        self.seconds: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._readers = [threading.Thread(target=target) for target in (self._read, self._listen)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            event = json.loads(line)
            self.seconds += [] if "ended" in event else [event]

    def _listen(self) -> None:
        self.errors += self.process.stderr

    def eventually(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 180.0) -> None:
        end = time.monotonic() + within_s
        while not (self.seconds and holds(self.seconds[-1])):
            assert time.monotonic() < end, (self.seconds[-1:], self.errors)
            assert self.process.poll() is None, self.errors
            time.sleep(0.1)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0
        for reader in self._readers:
            reader.join()


def test_a_session_of_a_new_market_is_answered_after_the_next_retrain(
    workspace: Workspace, params: Params, recording: Path
) -> None:
    from lobsmith.pipelines.monitor import monitor
    from lobsmith.pipelines.retrain import retrain
    from lobsmith.pipelines.shadow import shadow

    root, repository = str(workspace.root), Repository.of(workspace)
    old = retrain(root)
    assert old.outcome == "promoted"
    with running_triton(workspace, params):
        live = Live(workspace, "--from", str(recording), "--loop", "--speed", str(SPEED))
        try:
            live.eventually(lambda now: now["state"] == StreamPhase.REFUSED and now["rows_per_s"] > 0)
            began = time.monotonic()
            assert shadow(root).reason == "there is no candidate"
            time.sleep(max(0.0, 1.5 * SETTINGS["window.length_s"] / SPEED - (time.monotonic() - began)))
            new = retrain(root, overrides={"data.source": "live"}, scheduled=True)
            assert (new.outcome, repository.active("lob")) == ("candidate", old.version)
            live.eventually(lambda now: f"lobsmith models promote {new.version}" in (now["detail"] or ""))

            evaluated = shadow(root)
            assert evaluated.decision == "promote", evaluated.reason
            assert (repository.active("lob"), alias_targets(workspace, "lob").champion.version) == (
                evaluated.active,
                new.registered,
            )
            live.eventually(lambda now: now["version"] == evaluated.active and now["up"] is not None)
            answered = [second for second in live.seconds if second["version"]]
            assert {second["abstain"] for second in answered} & {"other_instrument"} == set()

            # No rollback: the version below was not trained on the market, and is not asked about its rows either.
            end = time.monotonic() + 180
            while (watched := monitor(root)).decision is None and time.monotonic() < end:
                time.sleep(1)  # rows of the feed that were due before the promotion do not count
            assert (watched.decision, watched.active, watched.fallback) == ("keep", evaluated.active, None), (
                watched.reason
            )
            assert old.version in repository.listed("lob")
            assert shadow(root).reason == "there is no candidate"
        finally:
            live.end()
    [promoted] = [
        entry
        for entry in journal.read(workspace.journal)
        if entry.version_to == evaluated.active and entry.model == "lob"
    ]
    assert f"clients ask about {BTC}, which lob {old.version} was not trained on, and about nothing" in promoted.reason
    refusals = [line for line in live.errors if StreamPhase.REFUSED in line]
    assert len(refusals) == 2, live.errors
    assert "train on it" in refusals[0]
    with PredictionLog.of(workspace, "lob") as log:
        names = [
            session["session"]
            for session in log.sessions()
            if (session["source"], session["instrument"]) == ("live", BTC)
        ]
        assert sessions_asked(log, "lob", evaluated.active, Role.PRIMARY, names) == names
        assert sessions_asked(log, "lob", old.version, Role.FALLBACK, names) == []
    assert {alert.name for alert in alerts.read(workspace)} & {alerts.ROLLED_BACK, alerts.CANNOT_ROLL_BACK} == set()
