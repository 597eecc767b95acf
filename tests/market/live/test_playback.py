"""Playback is the capture at another time; the player keeps to the clock and drops nothing."""

import gzip
import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from lobsmith import clock
from lobsmith.errors import CaptureError
from lobsmith.market.instrument import SIMULATED
from lobsmith.market.live import playback
from lobsmith.market.live.playback import AGAIN, LAP_NS, CapturedFeed, Player, SimulatedFeed, move_to_now
from lobsmith.market.readers import read_captures
from lobsmith.market.simulator import Change, Dynamics, simulate
from lobsmith.market.simulator.raw import raw_lines
from lobsmith.units import NS_PER_MS, NS_PER_S
from tests.market import inject
from tests.small import params_file

SECONDS = 30
HOUR_NS = 3600 * NS_PER_S


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """A session with a fault of each clock."""
    lines = list(raw_lines(simulate(seed=3, seconds=SECONDS)))
    return inject.negative_latency(inject.stale(lines, 400, 2.0).lines, 1000, 1.0).lines


@pytest.fixture(scope="module")
def recorded(lines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "session.gz"
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


@pytest.fixture
def fast(tmp_path: Path):
    clock.run(tmp_path / "clock.json", 60.0)
    yield
    clock.use(tmp_path / "no clock")


def write(path: Path, played) -> Path:
    path.write_bytes(b"".join(b"%d %b\n" % message for message in played))
    return path


def test_moved_lines_read_as_a_consistent_capture_of_another_time(recorded: Path, tmp_path: Path) -> None:
    feed = CapturedFeed([recorded], loop=False)
    before_ns = clock.now_ns()
    move_to_now([feed])
    assert before_ns - NS_PER_MS <= feed.begins_ns + feed.shift_ns <= clock.now_ns() + NS_PER_MS
    assert feed.shift_ns % NS_PER_MS == 0
    before, after = read_captures([recorded]), read_captures([write(tmp_path / "moved", feed.lines())])
    assert (feed.instrument, after.instrument) == (SIMULATED, SIMULATED)
    assert {"stale", "negative latency"} <= after.accounting.faults.keys()
    for name in ("records", "kept", "quarantined", "faults", "segments", "missing_trades", "clock_offset_ns"):
        assert getattr(after.accounting, name) == getattr(before.accounting, name), name
    for name in ("exchange_time", "local_time"):
        was, now = getattr(before.events, name), getattr(after.events, name)
        np.testing.assert_array_equal(np.where(was > 0, was + feed.shift_ns, was), now)
    for name in ("kind", "side", "flags", "price", "size"):
        np.testing.assert_array_equal(getattr(before.events, name), getattr(after.events, name))


def test_a_loop_begins_again_after_a_gap_and_loses_no_trade(recorded: Path, tmp_path: Path) -> None:
    feed = CapturedFeed([recorded], loop=True)
    move_to_now([feed])
    once = read_captures([recorded]).accounting
    played = list(itertools.islice(feed.lines(), 2 * once.records + 1))
    assert [text for _, text in played].count(AGAIN) == 1
    times = np.array([local for local, _ in played])
    assert times[once.records + 1] - times[once.records] >= LAP_NS - NS_PER_MS
    twice = read_captures([write(tmp_path / "laps", played)]).accounting
    assert (twice.trades, twice.segments) == (2 * once.trades, 2 * once.segments)
    assert sum(twice.quarantined.values()) == 2 * sum(once.quarantined.values()) + 1


def test_a_simulated_market_goes_on_as_the_simulated_session(tmp_path: Path) -> None:
    changed = Change(at_s=7.0, dynamics=Dynamics().scaled({"order": 3.0}))
    feed = SimulatedFeed(5, [changed])
    move_to_now([feed])
    session = simulate(5, SECONDS, changes=[changed])
    played = list(itertools.islice(feed.lines(), session.accounting.records))
    back = read_captures([write(tmp_path / "simulated", played)])
    assert (back.instrument, back.accounting.quarantined) == (SIMULATED, {})
    for name in ("kind", "side", "flags", "price", "size"):
        np.testing.assert_array_equal(getattr(back.events, name), getattr(session.events, name))
    np.testing.assert_array_equal(back.events.local_time - session.events.local_time, feed.shift_ns)
    ids = [json.loads(text)["data"]["t"] for _, text in played if b'"e":"trade"' in text]
    later = SimulatedFeed(5)
    later.shift_ns = feed.shift_ns + HOUR_NS
    first = next(json.loads(text)["data"]["t"] for _, text in later.lines() if b'"e":"trade"' in text)
    assert first > ids[-1]


class Sink:
    """Takes lines, and refuses each of them so many times first."""

    def __init__(self, refusals: int = 0) -> None:
        self.taken: list[tuple[int, bytes]] = []
        self.early: list[int] = []
        self._refusals = self._left = refusals

    def put(self, symbol: str, local: int, text: bytes) -> bool:
        assert symbol == "sim"
        if self._left:
            self._left -= 1
            return False
        self._left = self._refusals
        if local > clock.now_ns():
            self.early.append(local)
        self.taken.append((local, text))
        return True


def test_a_player_keeps_to_the_clock_of_the_workspace(fast, recorded: Path) -> None:
    feed, sink = CapturedFeed([recorded], loop=False), Sink()
    move_to_now([feed])
    began_ns = clock.now_ns()
    Player(feed, sink, threading.Event(), print).run()
    assert SECONDS - 1 < (clock.now_ns() - began_ns) / NS_PER_S < 60 * SECONDS  # which the machine's pace would take
    assert (sink.early, len(sink.taken)) == ([], read_captures([recorded]).accounting.records)


def test_a_sink_without_room_slows_the_player_and_takes_every_line(fast, recorded: Path, monkeypatch) -> None:
    monkeypatch.setattr(playback, "_FULL_S", 0.001)
    monkeypatch.setattr(playback, "_LONGEST_LAG_S", 0.1)
    feed, sink, messages = CapturedFeed([recorded], loop=False), Sink(refusals=1), []
    move_to_now([feed])
    shift_ns = feed.shift_ns
    Player(feed, sink, threading.Event(), messages.append).run()
    assert [text for _, text in sink.taken if b'"gap"' in text] == []
    assert len(sink.taken) == read_captures([recorded]).accounting.records
    times = [local for local, _ in sink.taken]
    assert times == sorted(times)
    assert feed.shift_ns > shift_ns
    assert messages[0].startswith("simulator:SIM: ")


def test_a_player_stops_while_it_waits(recorded: Path) -> None:
    feed, stop = CapturedFeed([recorded], loop=True), threading.Event()
    move_to_now([feed])
    thread = threading.Thread(target=Player(feed, Sink(), stop, print).run)
    thread.start()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "AAPL_message.csv"
    path.write_text("34200.01,1,1,100,5850000,1\n")
    for paths in ([path], [params_file()]):
        with pytest.raises(CaptureError, match="live plays raw captures of Binance"):
            CapturedFeed(paths, loop=False)
