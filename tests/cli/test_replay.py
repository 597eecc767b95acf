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
from tests.trading.scores import record as told

SMALL = ["--set", "labels.horizons_ms=[100, 1000]", "--set", "train.horizon_weights=[1, 1]"]
SECONDS = 20


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return published(tmp_path_factory.mktemp("replayed"))


def replay(workspace: Workspace, *arguments: str):
    command = ["--root", str(workspace.root), "replay", "--simulate", str(SECONDS), "--transport", "inprocess"]
    return CliRunner().invoke(cli, [*command, *SMALL, *arguments])


def report(workspace: Workspace, *arguments: str) -> dict:
    done = replay(workspace, "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_replay_is_recorded_with_outcomes_and_mirrored(workspace: Workspace) -> None:
    got = report(workspace)
    plain = report(workspace, "--no-record")
    assert plain["recorded"] is None
    assert got["scores"] == plain["scores"]
    recorded = got["recorded"]
    assert (recorded["rows"], recorded["logged"], recorded["dropped"]) == (got["rows"], got["rows"], 0)
    assert (recorded["candidate"], recorded["fallback"]) == (got["rows"], got["rows"])
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


def test_a_replay_is_split_where_that_is_asked_for(workspace: Workspace) -> None:
    changes = {"share": 0.5, "arm_s": 2, "salt": "x"}
    settings = [word for name, value in changes.items() for word in ("--set", f"shadow.{name}={value}")]
    started_ns = time.time_ns()
    recorded = report(workspace, "--ab", *settings)["recorded"]
    assert recorded["logged"] == recorded["rows"]
    dataset = build_dataset(simulate(1, SECONDS), small_params())
    times = dataset.rows.time[replayed_rows(dataset, 0)]
    split = [arm(str(dataset.instrument), int(one), block_s=2, share=0.5, salt="x") for one in times]
    with PredictionLog.of(workspace, "lob") as log:
        streams = {one.model: one.rows for one in log.streams(started_ns) if one.role == "primary"}
    assert streams == {"lob_candidate": sum(split), "lob": len(split) - sum(split)}
    assert 0 < sum(split) < len(split)


def test_a_split_without_a_share_is_refused(workspace: Workspace) -> None:
    done = replay(workspace, "--ab")
    assert done.exit_code == 1
    assert "shadow.share" in done.output


def test_a_replay_takes_a_market_that_changes(workspace: Workspace) -> None:
    plain, changed = (
        report(workspace, "--no-record", *more) for more in ([], ["--change-at", "10", "--change", "limit=2"])
    )
    assert changed["rows"] > 1.1 * plain["rows"]


def test_a_replay_counts_what_might_have_been_acted_on(workspace: Workspace) -> None:
    assert report(workspace, "--no-record", "--no-guard", "--rows", "50")["acting"] is None
    # There is no score, and nobody watches.
    got = report(workspace, "--no-record", "--rows", "50")
    acting = got["acting"]
    assert (acting["acted"], acting["modes"], acting["abstained"]) == (0, {"conservative": 50}, {"blind": 50})
    assert got["scores"] == report(workspace, "--no-record", "--no-guard", "--rows", "50")["scores"]
    (version, path) = Repository.of(workspace).active("lob"), state_path(workspace, "lob")
    path.parent.mkdir(parents=True)
    try:
        path.write_bytes(msgspec.json.encode(told(version=version, looked_ns=time.time_ns())))
        done = replay(workspace, "--no-record", "--rows", "50")
        assert done.exit_code == 0, done.output
        assert "of them at every horizon; " in done.stdout
        acting = report(workspace, "--no-record", "--rows", "50")["acting"]
        # Only the first row may come before the guard knows which version answers.
        assert acting["acted"] >= 49
        assert acting["acted"] == acting["in_full"]
    finally:
        path.unlink()
