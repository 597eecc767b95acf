"""`lobsmith replay` with the engine in process: what it answers, and what it puts into the prediction log."""

import json
import time

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.drift.reference import thinned
from lobsmith.features.dataset import build_dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.market.simulator import simulate
from lobsmith.monitoring.log.raw_rows import raw_rows
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.mode.store import state_path
from lobsmith.online.ab_test import arm
from lobsmith.release.repository.repository import Repository
from lobsmith.trading.replay import replayed_rows
from lobsmith.workspace import Workspace
from tests.small import small_params
from tests.trading.recorded import published
from tests.trading.scores import record as published_mode

SMALL = ["--set", "labels.horizons_ms=[100, 1000]", "--set", "train.horizon_weights=[1, 1]"]
SECONDS = 20


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return published(tmp_path_factory.mktemp("replayed"))


def replay(workspace: Workspace, *arguments: str):
    command = ["--root", str(workspace.root), "replay", "--simulate", str(SECONDS), "--transport", "inprocess"]
    return CliRunner().invoke(cli, [*command, *SMALL, *arguments])


def report(workspace: Workspace, *arguments: str) -> dict:
    result = replay(workspace, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_replay_is_recorded_with_outcomes_and_mirrored(workspace: Workspace) -> None:
    logged = report(workspace)
    plain = report(workspace, "--no-record")
    assert plain["recorded"] is None
    assert logged["scores"] == plain["scores"]
    recorded, count = logged["recorded"], logged["rows"]
    assert (recorded["rows"], recorded["logged"], recorded["dropped"]) == (count, count, 0)
    assert (recorded["candidate"], recorded["fallback"]) == (count, count)
    dataset = build_dataset(simulate(1, SECONDS), small_params())
    rows = replayed_rows(dataset, 0)
    with PredictionLog.of(workspace, "lob") as log:
        assert log.sessions()[0]["source"] == "replay"
        live = answers(log, "lob", Repository.of(workspace).listed("lob")[-1], sessions=[recorded["session"]])
        raw = raw_rows(log, [recorded["session"]], every_ms=small_params().drift.every_ms)
        (candidate,) = Repository.of(workspace).listed("lob_candidate")
        mirrored = answers(log, "lob_candidate", candidate, sessions=[recorded["session"]])
    np.testing.assert_array_equal(live.time_ns, dataset.rows.time[rows])
    kept = rows[thinned(dataset.rows.time[rows], small_params().drift.every_ms)]
    np.testing.assert_array_equal(raw.raw, dataset.rows.raw[kept])
    np.testing.assert_array_equal(live.labels, dataset.labels[rows])
    # The rows before the first, which only prime, have reached the mirror too: nothing had to be primed again.
    assert (live.reasons, mirrored.reasons) == ({}, {})


def test_a_replay_shows_each_horizon_beside_the_base_rate(workspace: Workspace) -> None:
    dataset = build_dataset(simulate(1, SECONDS), small_params())
    labels = dataset.labels[replayed_rows(dataset, 0)]
    scores = report(workspace, "--no-record", "--no-guard")["scores"]
    for column, score in enumerate(scores):
        shares = np.bincount(labels[labels[:, column] != UNKNOWN, column], minlength=3) / score["rows"]
        assert score["base_accuracy"] == pytest.approx(shares.max())
        assert score["base_log_loss"] == pytest.approx(-sum(share * np.log(share) for share in shares if share))
    shown = replay(workspace, "--no-record", "--no-guard").stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["100 ms", "1,000 ms"]
    names = ("accuracy", "base_accuracy", "log_loss", "base_log_loss")
    assert [row[2:] for row in rows] == [[f"{score[name]:.3f}" for name in names] for score in scores]
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80


def test_a_replay_is_an_ab_test_on_request(workspace: Workspace) -> None:
    changes = {"share": 0.5, "arm_s": 2, "salt": "x"}
    settings = [option for name, value in changes.items() for option in ("--set", f"shadow.{name}={value}")]
    started_ns = time.time_ns()
    recorded = report(workspace, "--ab", *settings)["recorded"]
    assert recorded["logged"] == recorded["rows"]
    dataset = build_dataset(simulate(1, SECONDS), small_params())
    times = dataset.rows.time[replayed_rows(dataset, 0)]
    arms = [arm(str(dataset.instrument), int(time_ns), block_s=2, share=0.5, salt="x") for time_ns in times]
    with PredictionLog.of(workspace, "lob") as log:
        streams = {stream.model: stream.rows for stream in log.streams(started_ns) if stream.role == "primary"}
    assert streams == {"lob_candidate": sum(arms), "lob": len(arms) - sum(arms)}
    assert 0 < sum(arms) < len(arms)


def test_an_ab_test_without_a_share_is_refused(workspace: Workspace) -> None:
    result = replay(workspace, "--ab")
    assert result.exit_code == 1
    assert "shadow.share" in result.output


def test_a_replay_takes_a_market_that_changes(workspace: Workspace) -> None:
    plain, changed = (
        report(workspace, "--no-record", *more) for more in ([], ["--change-at", "10", "--change", "limit=2"])
    )
    assert changed["rows"] > 1.1 * plain["rows"]


def test_a_replay_counts_the_actionable_rows(workspace: Workspace) -> None:
    assert report(workspace, "--no-record", "--no-guard", "--rows", "50")["acting"] is None
    # There is neither a drift score nor a drift check.
    gated = report(workspace, "--no-record", "--rows", "50")
    actions = gated["acting"]
    assert (actions["acted"], actions["modes"], actions["abstained"]) == (0, {"conservative": 50}, {"blind": 50})
    assert gated["scores"] == report(workspace, "--no-record", "--no-guard", "--rows", "50")["scores"]
    (version, path) = Repository.of(workspace).active("lob"), state_path(workspace, "lob")
    path.parent.mkdir(parents=True)
    try:
        path.write_bytes(msgspec.json.encode(published_mode(version=version, looked_ns=time.time_ns())))
        result = replay(workspace, "--no-record", "--rows", "50")
        assert result.exit_code == 0, result.output
        assert "of them at every horizon; " in result.stdout
        actions = report(workspace, "--no-record", "--rows", "50")["acting"]
        # Only the first row may come before the guard has read which version answers.
        assert actions["acted"] >= 49
        assert actions["acted"] == actions["in_full"]
    finally:
        path.unlink()
