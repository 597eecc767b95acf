"""A live session in this process: rows are answered, recorded as live and captured, whatever comes between."""

import errno
import gzip
import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lobsmith import clock
from lobsmith.errors import CaptureError, DataError, UntrainedInstrumentError
from lobsmith.features.dataset import build_dataset
from lobsmith.market.events import TICKER
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.market.live import files
from lobsmith.market.live.playback import CapturedFeed, SimulatedFeed
from lobsmith.market.live.retention import captured
from lobsmith.market.readers import read_captures
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import write_raw
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.sessions import Status, sessions_of
from lobsmith.trading.live import session as live_session
from lobsmith.trading.live.capture import Capture
from lobsmith.trading.live.feeds import PlayedFeed
from lobsmith.trading.live.seconds import Second
from lobsmith.trading.live.session import LiveOptions, LiveSummary, run_live
from lobsmith.trading.live.stream import StreamPhase
from lobsmith.units import NS_PER_DAY, NS_PER_S
from lobsmith.workspace import Workspace
from tests.served import publish_small
from tests.small import params_file, small_params

PARAMS = small_params()
ETH = Instrument(venue="binance-usdm", symbol="ETHUSDT", tick_size=0.01, lot_size=0.001)
OTHER = Instrument(venue="simulator", symbol="OTHER", tick_size=0.1, lot_size=0.001)
SECONDS = 20


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "session.gz"
    write_raw(simulate(seed=3, seconds=SECONDS), path)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_session, "_SECOND_S", 0.2)
    workspace = Workspace(tmp_path)
    shutil.copy(params_file(), workspace.params)
    clock.run(workspace.clock, 20.0)
    yield workspace
    clock.use(tmp_path / "no clock")


class Session:
    """A live session in a thread."""

    def __init__(self, workspace: Workspace, feed, params=PARAMS, **options) -> None:
        self.seconds: list[Second] = []
        self.messages: list[str] = []
        self.stop = threading.Event()
        self.summaries: list[LiveSummary] = []
        self.error: Exception | None = None
        live_options = LiveOptions(**{"model": "lob", "horizon_ms": 1000, "transport": "inprocess"} | options)
        self._thread = threading.Thread(target=self._run, args=(workspace, params, feed, live_options))
        self._thread.start()

    def _run(self, *arguments) -> None:
        try:
            self.summaries = run_live(
                *arguments, stop=self.stop, on_second=self.seconds.append, report=self.messages.append
            )
        except Exception as error:  # noqa: BLE001 - it is raised in the test
            self.error = error

    def eventually(self, holds, deadline_s: float = 90.0) -> None:
        end = time.monotonic() + deadline_s
        while not holds():
            assert time.monotonic() < end, self.messages
            assert self._thread.is_alive(), (self.error, self.messages)
            time.sleep(0.02)

    def end(self, *, stop: bool = True) -> LiveSummary:
        if stop:
            self.stop.set()
        self._thread.join(200)
        if self.error is not None:
            raise self.error
        return self.summaries[0]


def captures(workspace: Workspace) -> list[Path]:
    return sorted(workspace.captures.glob("*.gz"))


def test_what_was_asked_is_what_the_capture_gives(workspace: Workspace, recorded: Path) -> None:
    version = publish_small(workspace, PARAMS, seed=1).version
    feed = CapturedFeed([recorded], loop=False)
    summary = Session(workspace, PlayedFeed([feed])).end(stop=False)
    session = read_captures(captures(workspace))
    rows = build_dataset(session, PARAMS).rows
    complete = rows.slice(int(np.argmax(rows.complete)), len(rows))
    assert (summary.rows, summary.answered, summary.incomplete) == (len(rows), len(complete), len(rows) - len(complete))
    assert (summary.unasked, summary.drops, summary.faults, summary.reasons) == (0, 0, 0, {})
    assert (summary.recorded.logged, summary.recorded.dropped) == (len(complete), 0)
    # One mark more, that a session has begun.
    assert session.accounting.records == read_captures([recorded]).accounting.records + 1
    with PredictionLog.of(workspace, "lob") as log:
        (entry,) = log.sessions()
        assert (entry["source"], entry["instrument"]) == ("live", "simulator:SIM")
        logged = answers(log, "lob", version, sessions=[entry["session"]])
    known = np.isin(complete.time, logged.time_ns)
    # The newest have no outcome yet.
    assert known.sum() == len(logged.time_ns) > 0.8 * len(complete)


def test_it_waits_for_a_model_and_captures_meanwhile(workspace: Workspace) -> None:
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]))
    session.eventually(
        lambda: any(second.state is StreamPhase.WAITING and second.rows_per_s for second in session.seconds)
    )
    first = publish_small(workspace, PARAMS, seed=1).version
    session.eventually(lambda: session.seconds[-1].version == first)
    publish_small(workspace, PARAMS, seed=2, instruments=(OTHER,))
    session.eventually(lambda: session.seconds[-1].abstain == "other_instrument")
    last = session.seconds[-1]
    summary = session.end()
    assert summary.unasked > 0
    assert summary.answered == summary.recorded.logged > 0
    assert len([line for line in session.messages if "waiting for a model" in line]) == 1
    assert last.state is StreamPhase.ANSWERING
    assert 0 <= last.up <= 1
    assert read_captures(captures(workspace)).accounting.faults == {}


def test_a_model_of_another_market_is_not_asked_and_the_feed_is_captured_for_the_next_one(workspace: Workspace) -> None:
    publish_small(workspace, PARAMS, seed=1, instruments=(OTHER,))
    with pytest.raises(UntrainedInstrumentError, match="was trained on simulator:OTHER, not simulator:SIM"):
        Session(workspace, PlayedFeed([SimulatedFeed(3)]), capture=False).end(stop=False)
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]))
    session.eventually(
        lambda: any(second.state is StreamPhase.REFUSED and second.rows_per_s for second in session.seconds)
    )
    summary = session.end()
    assert (summary.answered, summary.recorded, len(captures(workspace))) == (0, None, 1)
    insisting = Session(workspace, PlayedFeed([SimulatedFeed(3)]), allow_other_instrument=True, capture=False)
    insisting.eventually(lambda: any(second.version for second in insisting.seconds))
    assert {second.abstain for second in insisting.seconds if second.version} == {"other_instrument"}
    assert insisting.end().answered > 0


class Damaged(SimulatedFeed):
    """A feed with messages that are none, repeated ones, and a price that is none."""

    def lines(self):
        for number, (local, text) in enumerate(super().lines()):
            yield local, text
            if number % 100 == 50:
                yield local, text
            if number == 400:
                yield from ((local, bad) for bad in (b"{", b"", b'{"stream":"sim@trade","data":{"e":"trade"}\n}'))


def test_garbage_is_left_out_of_the_capture_and_costs_nothing(workspace: Workspace) -> None:
    publish_small(workspace, PARAMS, seed=1)
    session = Session(workspace, PlayedFeed([Damaged(3)]))
    session.eventually(lambda: session.seconds and session.seconds[-1].faults == 3 and session.seconds[-1].version)
    summary = session.end()
    account = read_captures(captures(workspace)).accounting
    assert (summary.faults, account.segments) == (3, 1)
    assert account.quarantined["duplicate"] > 0
    assert summary.answered == summary.recorded.logged > 0


def test_a_disk_that_is_full_ends_the_capture_and_not_the_answers(workspace: Workspace, monkeypatch) -> None:
    publish_small(workspace, PARAMS, seed=1)
    flush, full = files._File.flush, threading.Event()

    def until_full(file: files._File) -> int:
        if full.is_set():
            # What a disk takes of a member before it is full.
            file.file.write(b"\x1f\x8b torn")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return flush(file)

    monkeypatch.setattr(files._File, "flush", until_full)
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]))
    session.eventually(lambda: len(session.seconds) > 2 and session.seconds[-1].version is not None)
    session.eventually(lambda: any(path.stat().st_size for path in captures(workspace)))
    full.set()
    session.eventually(lambda: any("No space left on device" in line for line in session.messages))
    before = len(session.seconds)
    session.eventually(lambda: len(session.seconds) > before + 2)
    assert session.seconds[-1].rows_per_s > 0
    assert session.end().drops == 0
    assert [line for line in session.messages if "predictions go on without it" in line] == [session.messages[-1]]
    # What is whole reads.
    assert read_captures(captures(workspace)).accounting.segments == 1


@pytest.mark.slow
def test_each_captured_file_reads_without_those_before_it(workspace: Workspace, monkeypatch) -> None:
    publish_small(workspace, PARAMS, seed=1)
    monkeypatch.setattr("lobsmith.trading.live.capture._MIB", 30_000)
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]), params=small_params(**{"live.rotate_mib": 1}))
    session.eventually(lambda: len(captures(workspace)) >= 5)
    summary = session.end()
    paths = captures(workspace)
    whole = read_captures(paths)
    rows = build_dataset(whole, PARAMS).rows
    assert (whole.accounting.segments, whole.accounting.sequence_breaks) == (1, 0)
    # What the captured book adds changes nothing for a reader that needs none.
    assert (summary.rows, summary.recorded.logged) == (len(rows), int(rows.complete.sum()))
    for number, path in enumerate(paths[1:-1], start=1):
        alone = read_captures([path]).events
        same = read_captures(paths[: number + 1]).events
        touch = alone.kind == TICKER
        assert touch.sum() > 100
        for name in ("local_time", "price", "size"):
            column = getattr(alone, name)[touch]
            np.testing.assert_array_equal(column, getattr(same, name)[same.kind == TICKER][-len(column) :])


class Moved:
    """A feed that has just moved on."""

    def __init__(self) -> None:
        self.last_ns = self.sequence = 0

    def to(self, local: int) -> "Moved":
        self.last_ns, self.sequence = local, self.sequence + 1
        return self

    def snapshot(self) -> bytes:
        return b'{"book":%d}' % self.sequence


def test_a_file_that_begins_while_a_book_is_written_has_one_too(tmp_path: Path, monkeypatch) -> None:
    put = files.RawFiles.put

    def put_and_begin_another(raw: files.RawFiles, symbol: str, local: int, text: bytes) -> bool:
        taken = put(raw, symbol, local, text)
        if text.startswith(b'{"book"') and len(raw.paths) == 2:
            put(raw, symbol, local + NS_PER_DAY, b"{}")
            wait_for(lambda: len(raw.paths) == 3)
        return taken

    def wait_for(holds) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    monkeypatch.setattr(files.RawFiles, "put", put_and_begin_another)
    capture, feed = Capture(tmp_path, {"sim": "simulator"}, PARAMS, print), Moved()
    begun_ns = clock.now_ns() + NS_PER_DAY
    capture.put("sim", begun_ns, b"{}")
    wait_for(lambda: len(captured(tmp_path).get("simulator-sim", [])) == 2)
    for seconds in (2, 3, 86_400 + 5, 86_400 + 6, 86_400 + 7, 86_400 + 8):
        capture.put("sim", begun_ns + seconds * NS_PER_S, b"{}")
        capture.restate("sim", feed.to(begun_ns + seconds * NS_PER_S))
    capture.close()
    _first, second, third = (gzip.decompress(file.path.read_bytes()) for file in captured(tmp_path)["simulator-sim"])
    assert (second.count(b"book"), third.count(b"book")) == (1, 1)


def test_a_book_that_is_restated_after_the_stop_is_captured(workspace: Workspace, monkeypatch) -> None:
    order, restate, close = [], Capture.restate, Capture.close
    restating = threading.Event()

    def slowly(capture: Capture, *about) -> None:
        restating.set()
        session.stop.wait()
        time.sleep(0.3)
        restate(capture, *about)
        order.append("restated")

    def closed(capture: Capture) -> None:
        close(capture)
        order.append("closed")

    monkeypatch.setattr(Capture, "restate", slowly)
    monkeypatch.setattr(Capture, "close", closed)
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]))
    session.eventually(restating.is_set)
    session.end()
    assert "restated" in order
    assert order.index("closed") == len(order) - 1


class Broken(SimulatedFeed):
    """A feed that cannot be read on after a while."""

    def lines(self):
        yield from itertools.islice(super().lines(), 4000)
        raise CaptureError("feed.gz", "truncated")


def test_a_session_that_an_error_ends_has_crashed_and_leaves_no_file_of_nothing(workspace: Workspace) -> None:
    version = publish_small(workspace, PARAMS, seed=1).version
    workspace.captures.mkdir(parents=True)
    killed = workspace.captures / "simulator-sim-20200101T000000.gz"
    killed.write_bytes(b"\x1f\x8b torn")
    session = Session(workspace, PlayedFeed([Broken(3)]))
    with pytest.raises(CaptureError, match="truncated"):
        session.end(stop=False)
    assert "simulator:SIM: its feed has ended: feed.gz: truncated" in session.messages
    [left] = sessions_of(workspace, "lob", version, ["live"], now_ns=clock.now_ns(), recent_ns=0)
    assert (left.status, left.last_ns is not None) == (Status.CRASHED, True)
    assert not killed.exists()
    assert read_captures(captures(workspace)).accounting.faults == {}


def test_two_symbols_are_two_streams(workspace: Workspace, recorded: Path, tmp_path: Path) -> None:
    publish_small(workspace, PARAMS, seed=1, instruments=(SIMULATED, ETH))
    lines = gzip.decompress(recorded.read_bytes())
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(lines.replace(b'"SIM"', b'"ETHUSDT"').replace(b"sim@", b"ethusdt@")))
    feed = PlayedFeed([CapturedFeed([path], loop=False) for path in (recorded, other)])
    session = Session(workspace, feed)
    session.end(stop=False)
    assert [summary.instrument for summary in session.summaries] == ["simulator:SIM", "binance-usdm:ETHUSDT"]
    assert session.summaries[0].answered == session.summaries[1].answered == session.summaries[1].recorded.logged > 0
    assert [path.name.rpartition("-")[0] for path in captures(workspace)] == ["simulator-sim", "usdm-ethusdt"]


def test_two_sessions_do_not_capture_the_same_symbol(workspace: Workspace) -> None:
    session = Session(workspace, PlayedFeed([SimulatedFeed(3)]))
    session.eventually(lambda: bool(session.seconds))
    with pytest.raises(DataError, match="another session captures simulator-sim there"):
        Session(workspace, PlayedFeed([SimulatedFeed(4)])).end()
    session.end()
    again = Session(workspace, PlayedFeed([SimulatedFeed(4)]))
    again.eventually(lambda: any(second.rows_per_s for second in again.seconds))
    again.end()
    account = read_captures(captures(workspace)).accounting
    assert (account.faults, account.segments) == ({"reconnect": 1}, 2)
