"""What is true of a model in service: each state, and what it takes to leave it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.errors import PredictionLogError
from lobsmith.monitoring import alerts
from lobsmith.monitoring.log.sessions import Announced, close_session, sessions_folder
from lobsmith.monitoring.log.writer import Ending, LogWriter, Role, Source
from lobsmith.monitoring.state import State, StateName, alert_connections, connected, state_after, state_now, warming_up
from lobsmith.params import Params
from lobsmith.process import Process, start_ticks
from lobsmith.release.repository import journal
from lobsmith.release.version.manifest import Manifest
from lobsmith.workspace import Workspace
from tests.monitoring.drift.checks import CALM, MISSING, UNKNOWN, check
from tests.release import toy
from tests.small import small_params

S = 1_000_000_000
NOW_NS = 1_772_000_000 * S
SIM, OTHER = "simulator:SIM", "simulator:OTHER"
VERSION = 20260301000000
STARTING, IDLE, WARMING, LIVE, STOPPED = StateName


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params(**{"drift.recent_s": 300, "rollback.window_s": 60})


@pytest.fixture(scope="module")
def active() -> Manifest:
    return toy.manifest("lob", VERSION, NOW_NS - 7200 * S, instruments=(toy.SIM,))


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a session names as its own."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


class Traffic:
    """Writes what a client and its recorder would leave, at ages in seconds before now."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace, self.params = workspace, params

    def open(
        self,
        session: str,
        age: float,
        client: subprocess.Popen | None,
        *,
        instrument=SIM,
        source=Source.LIVE,
        **process,
    ) -> None:
        if client is not None:
            this = Process.this()
            theirs = {"pid": client.pid, "started_ticks": start_ticks(client.pid)} | process
            parent = msgspec.structs.replace(this, **theirs)
            announced = Announced(
                session=session,
                source=source,
                instrument=instrument,
                started_ns=ago(age),
                model="lob",
                parent=parent,
            )
            sessions_folder(self.workspace).mkdir(parents=True, exist_ok=True)
            (sessions_folder(self.workspace) / f"{session}.json").write_bytes(msgspec.json.encode(announced))
        with self._log() as log:
            log.begin(session, source, instrument, ago(age))

    def rows(self, session: str, *ages: float, version: int = VERSION) -> None:
        with self._log() as log:
            log.begin(session, Source.LIVE, SIM, 0)
            times = np.array([ago(age) for age in ages])
            log.add_predictions(
                session,
                "lob",
                version,
                Role.PRIMARY,
                row=np.arange(len(ages)),
                time_ns=times,
                asked_ns=times,
                segment=0,
                mid=0,
                latency_ns=1,
                rows=1,
                probabilities=None,
            )

    def end(self, session: str, how: Ending) -> None:
        with self._log() as log:
            log.end(session, how, "a process", NOW_NS)
        (sessions_folder(self.workspace) / f"{session}.json").unlink(missing_ok=True)

    def _log(self) -> LogWriter:
        return LogWriter.of(self.workspace, "lob", self.params)


def ago(seconds: float) -> int:
    return NOW_NS - int(seconds * S)


@pytest.fixture
def traffic(workspace: Workspace, params: Params) -> Traffic:
    return Traffic(workspace, params)


@pytest.fixture
def state(workspace: Workspace, params: Params, active: Manifest):
    def now(later_s: float = 0, **options) -> State:
        return connected(workspace, params, active, now_ns=NOW_NS + int(later_s * S), **options).state

    return now


@pytest.fixture
def firing(workspace: Workspace, params: Params, active: Manifest):
    def now(later_s: float = 0) -> set[str]:
        now_ns = NOW_NS + int(later_s * S)
        alert_connections(workspace, active, connected(workspace, params, active, now_ns=now_ns), now_ns)
        return {alert.name for alert in alerts.firing(workspace)}

    return now


def test_no_client_ever_is_idle_and_no_alert(state, firing, traffic, client) -> None:
    assert str(state()) == "idle: no client is connected"
    assert firing() == set()
    # A demonstration and a replay are no clients.
    traffic.open("demo", 10, client, source=Source.DEMO)
    traffic.open("replay", 10, client, source=Source.REPLAY)
    assert state().name is IDLE
    assert firing(3600) == set()
    assert state(sources=(Source.REPLAY.value,)).name is STARTING


def test_a_session_is_live_from_its_beginning_to_its_end(state, firing, traffic, client) -> None:
    traffic.open("one", 10, client)
    assert str(state()) == "starting: the session was opened 10 s ago"
    assert firing() == set()
    traffic.rows("one", 1)
    assert state().name is STARTING
    traffic.rows("one", -300)
    assert state(301) == State(name=LIVE)
    assert firing(301) == set()
    assert str(state(361)) == f"stopped: version {VERSION} was asked 61 s ago, as far as logged"
    assert firing(361) == {alerts.NO_PREDICTIONS}
    traffic.rows("one", -362)
    assert firing(363) == set()
    assert firing(463) == {alerts.NO_PREDICTIONS}
    traffic.end("one", Ending.CLOSED)
    assert state(463).name is IDLE
    assert firing(463) == set()


def test_a_session_that_never_gets_a_row_has_stopped_after_a_window(state, firing, traffic, client) -> None:
    traffic.open("one", 0, client)
    assert (state(299).name, state(300).name) == (STARTING, STOPPED)
    assert "asked never" in state(300).detail
    assert firing(299) == set()
    assert firing(300) == {alerts.NO_PREDICTIONS}


def test_a_version_that_was_promoted_has_a_window_to_be_asked(workspace, params, active, traffic, client) -> None:
    traffic.open("one", 3600, client)
    traffic.rows("one", 1, version=VERSION - 1)
    promoted = msgspec.structs.replace(active, created_ns=ago(20))
    young = connected(workspace, params, promoted, now_ns=NOW_NS)
    assert str(young.state) == f"starting: version {VERSION} began to serve 20 s ago"
    later = connected(workspace, params, promoted, now_ns=NOW_NS + 300 * S)
    assert (later.state.name, len(later.silent)) == (STOPPED, 1)


def test_a_version_that_was_gone_back_to_has_a_window_to_be_asked(workspace, params, active, traffic, client) -> None:
    traffic.open("one", 3600, client)
    traffic.rows("one", 3500, 1200)
    traffic.rows("one", 600, 25, version=VERSION + 1)
    assert connected(workspace, params, active, now_ns=NOW_NS).state.name is STOPPED
    journal.append(
        workspace.journal,
        journal.Entry(
            time_ns=ago(20),
            action=journal.ROLLED_BACK,
            model="lob",
            version_from=VERSION + 1,
            version_to=VERSION,
            artifact_id=None,
            actor="monitor flow",
        ),
    )
    young = connected(workspace, params, active, now_ns=NOW_NS)
    assert (str(young.state), young.silent) == (f"starting: version {VERSION} began to serve 20 s ago", ())
    later = connected(workspace, params, active, now_ns=NOW_NS + 300 * S)
    assert (later.state.name, len(later.silent)) == (STOPPED, 1)


@pytest.mark.parametrize("recorder_too", [False, True])
def test_a_client_that_is_killed_is_an_alert_until_another_gets_rows(
    state, firing, traffic, client, recorder_too
) -> None:
    traffic.open("one", 3600, client)
    traffic.rows("one", 5)
    assert state().name is LIVE
    client.kill()
    client.wait()
    if not recorder_too:
        # Its recorder outlives it and writes down how the session ended.
        traffic.end("one", Ending.CRASHED)
    assert state().name is STOPPED
    assert "session one of" in state().detail
    assert "ended without closing, last row 5 s ago" in state().detail
    assert firing() == {alerts.CLIENT_CRASHED}
    assert firing(100) == {alerts.CLIENT_CRASHED, alerts.NO_PREDICTIONS}
    with subprocess.Popen(["sleep", "60"]) as second:
        traffic.open("two", -100, second)
        assert firing(101) == {alerts.CLIENT_CRASHED, alerts.NO_PREDICTIONS}
        traffic.rows("two", -102)
        assert firing(103) == set()
        # The new session goes on where the crashed one ended: it is not new.
        assert state(103).name is LIVE
        second.kill()


def test_an_operator_closes_what_has_crashed_and_nothing_that_runs(workspace, params, state, firing, traffic, client):
    traffic.open("one", 3600, client)
    with pytest.raises(PredictionLogError, match=f"process {client.pid} .* has it open"):
        close_session(workspace, params, "lob", "one", "the test")
    with pytest.raises(PredictionLogError, match="no session two"):
        close_session(workspace, params, "lob", "two", "the test")
    client.kill()
    client.wait()
    assert firing() == {alerts.CLIENT_CRASHED, alerts.NO_PREDICTIONS}
    [crashed] = [alert for alert in alerts.firing(workspace) if alert.name == alerts.CLIENT_CRASHED]
    assert "lobsmith predictions close one" in crashed.message
    close_session(workspace, params, "lob", "one", "the test")
    assert state().name is IDLE
    assert firing() == set()


def test_of_two_clients_the_crashed_one_is_named_and_the_stream_stays_live(state, firing, traffic, client) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        traffic.open("stays", 3600, client)
        traffic.open("crashes", 1800, other)
        traffic.rows("stays", 1)
        traffic.rows("crashes", 1)
        other.kill()
        other.wait()
    assert state().name is LIVE
    assert firing() == {alerts.CLIENT_CRASHED}
    client.kill()
    client.wait()
    assert state().name is STOPPED


def test_a_client_that_crashes_again_and_again_is_not_for_ever_new(state, firing, traffic) -> None:
    for number in range(4):
        traffic.open(f"{number}", 1000 - 240 * number, None)
        traffic.rows(f"{number}", 1000 - 240 * number - 1)
        traffic.end(f"{number}", Ending.CRASHED)
    with subprocess.Popen(["sleep", "60"]) as last:
        traffic.open("last", 40, last)
        # Its first row would come any moment; the stream's rows stopped minutes ago.
        assert state().name is STOPPED
        assert alerts.NO_PREDICTIONS in firing()
        last.kill()


def test_a_client_that_comes_back_after_days_is_new(state, firing, traffic, client) -> None:
    traffic.open("old", 300_000, None)
    traffic.rows("old", 299_000)
    traffic.end("old", Ending.CLOSED)
    traffic.open("new", 5, client)
    assert state().name is STARTING
    assert firing() == set()


def test_what_a_restart_of_the_machine_has_left_is_over_with_the_next_session(state, firing, traffic, client) -> None:
    traffic.open("before", 3600, client, space="another boot")
    traffic.rows("before", 1800)
    assert state().name is STOPPED
    assert firing() == {alerts.NO_PREDICTIONS}
    traffic.open("after", 500, client)
    traffic.rows("after", 1)
    assert state() == State(name=LIVE)
    traffic.end("after", Ending.CLOSED)
    assert state().name is IDLE
    assert firing() == set()


def test_of_two_instruments_the_graver_state_counts(workspace, params, active, traffic, client) -> None:
    both = msgspec.structs.replace(
        active, instruments=(*active.instruments, msgspec.structs.replace(active.instruments[0], symbol="OTHER"))
    )
    traffic.open("one", 3600, client)
    traffic.rows("one", 1)
    traffic.open("two", 3600, client, instrument=OTHER)
    connections = connected(workspace, params, both, now_ns=NOW_NS)
    assert str(connections.state) == f"stopped: {OTHER}: version {VERSION} was asked never, as far as logged"
    assert set(connections.opened) == {SIM, OTHER}
    traffic.end("two", Ending.CLOSED)
    assert connected(workspace, params, both, now_ns=NOW_NS).state == State(name=LIVE)


def test_a_session_of_another_instrument_alone_is_not_checked(workspace, params, active, traffic, client):
    traffic.open("two", 3600, client, instrument=OTHER)
    traffic.rows("two", 1)
    connections = connected(workspace, params, active, now_ns=NOW_NS)
    assert (connections.opened, connections.silent) == ({}, ())
    assert (connections.state.name, connections.state.colour) == (LIVE, "yellow")
    assert "not trained on" in connections.state.detail


def test_a_clock_that_was_set_back_neither_hides_silence_nor_invents_it(state, firing, traffic, client) -> None:
    traffic.open("one", -3600, client)
    traffic.rows("one", -3700, 1)
    assert state() == State(name=LIVE)
    assert firing() == set()
    assert state(100).name is STOPPED


def test_rows_of_an_unknown_writer_are_a_client_while_they_come(state, traffic) -> None:
    traffic.open("foreign", 3600, None)
    assert state().name is IDLE
    traffic.rows("foreign", 10)
    assert (state().name, state(100).name, state(400).name) == (LIVE, STOPPED, IDLE)


def test_checks_with_too_little_history_warm_up(workspace, params, active, traffic, client) -> None:
    traffic.open("one", 3600, client)
    traffic.rows("one", 1)
    connections = connected(workspace, params, active, now_ns=NOW_NS)
    short = check(0, CALM, UNKNOWN, UNKNOWN)
    short = msgspec.structs.replace(
        short,
        verdicts=(short.verdicts[0], *(msgspec.structs.replace(verdict, past=12) for verdict in short.verdicts[1:])),
    )
    after = state_after(connections, [short], 40)
    assert str(after) == "warming up: 12 of 40 windows and checks for prediction and concept drift"
    dependent = msgspec.structs.replace(short, verdicts=(msgspec.structs.replace(short.verdicts[1], past=48),))
    assert str(state_after(connections, [dependent], 40)) == (
        "warming up: 48 windows and checks for prediction drift, which are worth too few independent ones"
    )
    assert state_after(connections, [check(0, CALM)], 40) == State(name=LIVE)
    assert warming_up(check(0, MISSING), 40) is None
    without_reference = check(0, UNKNOWN)
    assert warming_up(without_reference, 40) == without_reference.verdicts[0].reason

    def later(last_check, seconds=0):
        return state_now(connections, last_check, 900, NOW_NS + seconds * S)

    assert (later(None).name, later((NOW_NS, after)), later((NOW_NS, State(name=LIVE)))) == (
        WARMING,
        after,
        State(name=LIVE),
    )
    assert str(later((NOW_NS, after), 901)) == "live: the last drift check was 901 s ago"


def test_colours() -> None:
    assert [State(name=name, detail="why").colour for name in StateName] == [*["yellow"] * 4, "red"]
    assert State(name=LIVE).colour == "green"
