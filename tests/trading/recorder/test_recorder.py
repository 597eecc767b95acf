"""The recorder with the real engine and the real log: predictions of the primary and of the shadow versions."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from lobsmith import clock
from lobsmith.drift.reference import thinned
from lobsmith.features.labels import direction_labels
from lobsmith.monitoring.log.raw_rows import raw_rows
from lobsmith.monitoring.log.reader import PredictionLog, answers, compared
from lobsmith.monitoring.log.sessions import ClientSession, Status, sessions_of
from lobsmith.params import Params
from lobsmith.process import start_ticks
from lobsmith.release.repository.repository import Repository
from lobsmith.trading.client.stream import StreamClient, second_newest
from lobsmith.trading.recorder.recorder import SHARED_MEMORY
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.served import PRIME_ROWS
from tests.small import small_params
from tests.trading.recorded import (
    COUNT,
    MIDS,
    RAW,
    ROWS,
    SEGMENTS,
    TIMES,
    eventually,
    labels,
    probabilities,
    published,
    recorder,
    stream,
)

KILLED = """
import sys, time
from pathlib import Path
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.release.repository.repository import Repository
from lobsmith.workspace import Workspace
from tests.small import small_params
from tests.trading.recorded import recorder, stream
workspace, params = Workspace(Path(sys.argv[1])), small_params()
client = StreamClient.open(InProcessTransport(Repository.of(workspace)), "lob", params.client)
into = recorder(workspace, params)
while into.pid is None:
    time.sleep(0.01)
print(into.session, into.pid, flush=True)
stream(client, into, 0, 1000)
print("recorded 1000", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return published(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def params() -> Params:
    return small_params(**{"mirror.probe_s": 0.05, "prediction_log.flush_s": 0.2})


def client(workspace: Workspace, params: Params, model: str = "lob", **choose) -> StreamClient:
    return StreamClient.open(InProcessTransport(Repository.of(workspace)), model, params.client, **choose)


def active(workspace: Workspace) -> int:
    return Repository.of(workspace).listed("lob")[-1]


def candidate(workspace: Workspace) -> int:
    return Repository.of(workspace).listed("lob_candidate")[-1]


def directly(workspace: Workspace, params: Params, model: str, **choose) -> np.ndarray:
    primary_client = client(workspace, params, model, **choose)
    parts = []
    for segment in np.unique(SEGMENTS):
        primary_client.reset()
        parts.append(probabilities(primary_client.predict(ROWS[segment == SEGMENTS])))
    return np.concatenate(parts)


def sessions(workspace: Workspace) -> list[ClientSession]:
    return sessions_of(workspace, "lob", active(workspace), ["live"], now_ns=clock.now_ns(), recent_ns=0)


def assert_raw_rows(log: PredictionLog, session: str, rows: np.ndarray) -> None:
    """Raw rows of the log are those that the rule keeps of all logged rows at once."""
    every_ms = small_params().drift.every_ms
    kept = rows[thinned(TIMES[rows], every_ms)]
    query = (
        "SELECT row FROM raw_rows JOIN sessions ON id = raw_rows.session WHERE sessions.session = ? ORDER BY time_ns"
    )
    assert [row for (row,) in log._rows(query, (session,))] == kept.tolist()
    got = raw_rows(log, [session], every_ms=every_ms)
    np.testing.assert_array_equal(got.raw, RAW[kept])
    np.testing.assert_array_equal(got.time_ns, TIMES[kept])


def test_every_prediction_is_logged_with_its_outcome_and_the_shadow_answers(template, params) -> None:
    into = recorder(template, params)
    assert sessions(template)[-1].status is Status.OPEN
    primary = stream(client(template, params), into)
    recorded = into.close()
    assert sessions(template)[-1].status is Status.CLOSED
    assert (recorded.rows, recorded.logged, recorded.dropped, recorded.faults) == (COUNT, COUNT, 0, 0)
    assert (recorded.candidate, recorded.fallback) == (COUNT, COUNT)
    assert recorded.probes > 0
    fallback, serving = Repository.of(template).listed("lob")
    with PredictionLog.of(template, "lob") as log:
        session = log.sessions()[0]
        assert (session["session"], session["source"], session["instrument"]) == (
            recorded.session,
            "live",
            "simulator:SIM",
        )
        live = answers(log, "lob", serving)
        np.testing.assert_array_equal(live.probabilities, probabilities(primary))
        np.testing.assert_array_equal(live.latency_ns, [prediction.latency_ns for prediction in primary])
        np.testing.assert_array_equal(live.time_ns, TIMES)
        assert_raw_rows(log, recorded.session, np.arange(COUNT))
        np.testing.assert_array_equal(live.labels, labels(params.labels.horizons_ms))
        shadow = compared(log, ("lob", serving), ("lob_candidate", candidate(template)))
        np.testing.assert_allclose(shadow.second.probabilities, directly(template, params, "lob_candidate"), atol=1e-5)
        assert len(shadow.first_probe_ns) == len(shadow.second_probe_ns) > 0
        np.testing.assert_allclose(
            answers(log, "lob", fallback).probabilities,
            directly(template, params, "lob", choose=second_newest),
            atol=1e-5,
        )
    assert not list(template.predictions.glob("recording/*.json"))
    assert not list(SHARED_MEMORY.glob(f"*{recorded.session}*"))


def test_a_recorder_that_is_killed_is_restarted_and_nothing_is_lost(template, params) -> None:
    into, primary_client = recorder(template, params), client(template, params)
    primary = stream(primary_client, into, 0, 300)
    eventually(lambda: into.pid is not None and into.waiting == 0)
    os.kill(into.pid, signal.SIGKILL)
    primary += stream(primary_client, into, 300)
    recorded = into.close()
    assert (recorded.logged, recorded.dropped, recorded.restarts) == (COUNT, 0, 1)
    with PredictionLog.of(template, "lob") as log:
        live = answers(log, "lob", primary[0].version, sessions=[recorded.session])
        np.testing.assert_array_equal(live.probabilities, probabilities(primary))
        assert_raw_rows(log, recorded.session, np.arange(COUNT))
        # Outcomes that were open at the crash too.
        np.testing.assert_array_equal(live.labels, labels(params.labels.horizons_ms))
        shadow = answers(log, "lob_candidate", candidate(template), sessions=[recorded.session])
    # The new shadow begins in the middle of a stream, and has to be primed.
    assert (shadow.reasons, len(shadow.time_ns)) == ({}, COUNT - PRIME_ROWS)


def test_a_full_ring_drops_and_counts_and_trading_goes_on(template) -> None:
    params = small_params(**{"mirror.ring_rows": 200, "prediction_log.flush_s": 0.1})
    into, primary_client = recorder(template, params), client(template, params)
    primary = stream(primary_client, into, 0, 100)
    eventually(lambda: into.pid is not None and into.waiting == 0)
    os.kill(into.pid, signal.SIGSTOP)
    # A row that it takes before it stops would make room for another.
    eventually(lambda: psutil.Process(into.pid).status() == psutil.STATUS_STOPPED)
    primary += stream(primary_client, into, 100, 500)
    os.kill(into.pid, signal.SIGCONT)
    eventually(lambda: into.waiting == 0)
    primary += stream(primary_client, into, 500, 650)
    recorded = into.close()
    assert all(prediction.reason is None for prediction in primary)
    assert (recorded.rows, recorded.dropped, recorded.logged) == (650, 200, 450)
    kept = np.r_[0:300, 500:650]
    with PredictionLog.of(template, "lob") as log:
        live = answers(log, "lob", primary[0].version, sessions=[recorded.session])
        shadow = answers(log, "lob_candidate", candidate(template), sessions=[recorded.session])
        assert log.drops()["ring"] == 200
        assert_raw_rows(log, recorded.session, kept)
    np.testing.assert_array_equal(live.time_ns, TIMES[kept])
    # A label whose horizon ends among the rows that were lost is unknown, not guessed.
    after_hole = kept >= 500
    known = np.concatenate(
        [
            direction_labels(TIMES[rows], MIDS[rows], SEGMENTS[rows], params.labels.horizons_ms)
            for rows in (kept[~after_hole], kept[after_hole])
        ]
    )
    np.testing.assert_array_equal(live.labels, known)
    # After the hole the shadow had to be primed; those rows were not predicted.
    primed = np.r_[0:300, 500 + PRIME_ROWS : 650]
    np.testing.assert_array_equal(shadow.time_ns, TIMES[primed])
    expected = directly(template, params, "lob_candidate")[primed]
    np.testing.assert_allclose(shadow.probabilities, expected, atol=2e-3)


def test_shadows_that_hang_hold_up_neither_trading_nor_the_log(template) -> None:
    params = small_params(**{"client.deadline_s": 0.2, "mirror.drain_s": 5.0, "mirror.queue_rows": 300})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        into = recorder(template, params, "http", url=f"127.0.0.1:{silent.getsockname()[1]}")
        primary = stream(client(template, small_params()), into)
        # Entries that no ring can hold.
        into.record(0, 0, 2**70, ROWS[0], primary[0])
        into.record(0, 0, 0, ROWS[0][:3], primary[0])
        recorded = into.close()
    np.testing.assert_allclose(probabilities(primary), directly(template, small_params(), "lob"), atol=1e-5)
    assert (recorded.logged, recorded.dropped, recorded.candidate, recorded.fallback) == (COUNT, 0, 0, 0)
    assert recorded.faults == 2


@pytest.mark.parametrize("both", [False, True])
def test_a_session_whose_trading_process_is_killed_is_written_down_all_the_same(template, params, both: bool) -> None:
    trading = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(template.root)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert trading.stdout is not None
    session, pid = trading.stdout.readline().split()
    if both:
        os.kill(int(pid), signal.SIGSTOP)
    assert trading.stdout.readline() == "recorded 1000\n"
    trading.kill()  # not waited for: a zombie
    assert list(SHARED_MEMORY.glob(f"*{session}*"))
    if both:
        os.kill(int(pid), signal.SIGKILL)
        # A signal takes its time, and processes that may run are left alone.
        eventually(lambda: start_ticks(trading.pid) is None and start_ticks(int(pid)) is None)
        # The next session takes care of what the last one has left.
        recorder(template, params).close()
    eventually(lambda: not list(SHARED_MEMORY.glob(f"*{session}*")))
    eventually(lambda: not list(template.predictions.glob(f"recording/*{session}*")))
    with PredictionLog.of(template, "lob") as log:
        assert len(answers(log, "lob", active(template), sessions=[session]).time_ns) == 1000
    [left] = [entry for entry in sessions(template) if entry.session == session]
    assert (left.status, f"process {trading.pid} " in left.process) == (Status.CRASHED, True)
    trading.wait()


def test_a_log_that_cannot_be_written_is_reported_and_raises_nothing(template, tmp_path: Path, params) -> None:
    (tmp_path / "elsewhere").write_text("a file where the log's folder should be")
    nowhere = Workspace(tmp_path / "elsewhere")
    into = recorder(nowhere, params)
    primary = stream(client(template, params), into, 0, 50)
    recorded = into.close()
    assert all(prediction.reason is None for prediction in primary)
    assert (recorded.rows, recorded.logged) == (50, 0)
    assert recorded.faults > 0
    assert not list(SHARED_MEMORY.glob(f"*{recorded.session}*"))
