"""The feed over WebSocket against a local venue that plays a session back, with every fault of a feed."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from lobsmith.errors import DataError
from lobsmith.market.live.files import FileLimits, RawFiles, cut_torn_tails
from lobsmith.market.live.websocket import CaptureLimits, Summary, WebSocketFeed, capture_feed
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from lobsmith.market.venues.binance.live import MARKETS
from lobsmith.market.venues.captures import line_batches
from tests.market.exchange import Exchange, Script, eventually
from tests.small import params_file

FAST = CaptureLimits(stale_s=60.0, backoff_s=0.01, backoff_maximum_s=0.05)
SILENCE_S = 2.0
"""Of a connection that is lost, in tests of a venue that falls silent; a busy machine is not silent for so long."""


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Two minutes of a simulated market as a venue would send them."""
    return list(raw_lines(simulate(seed=3, seconds=120)))


def capture(
    folder: Path,
    lines: list[bytes],
    script: Script | None = None,
    *,
    symbols: tuple[str, ...] = ("sim",),
    files: FileLimits | None = None,
    slow_s: float = 0.0,
) -> tuple[Summary, Exchange]:
    """Record a whole playback."""

    async def run() -> tuple[Summary, Exchange]:
        async with Exchange(lines, script) as exchange:
            endpoint = MARKETS["usdm"]._replace(websocket=exchange.ws_url, rest=exchange.rest_url)
            raw = RawFiles(folder, "usdm", files or FileLimits(flush_s=0.05), lambda: time.sleep(slow_s))
            limits = structs.replace(FAST, stale_s=SILENCE_S) if exchange.script.silent_at else FAST
            feed = WebSocketFeed(endpoint, symbols, raw, limits)
            running = asyncio.ensure_future(capture_feed(feed, raw))
            finished = asyncio.ensure_future(exchange.finished.wait())
            await asyncio.wait({running, finished}, timeout=250, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # Everything was sent: let what is on its way arrive, the last snapshot too.
                settled, last = 0, None
                while settled < 10:
                    await asyncio.sleep(0.02)
                    now = (structs.astuple(feed.summary), exchange.requests, len(feed._tasks))
                    settled, last = (settled + 1, now) if now == last and not feed._tasks else (0, now)
            feed.stop()
            finished.cancel()
            return await running, exchange

    return asyncio.run(run())


def captured_session(summary: Summary) -> Session:
    session = read_captures([Path(path) for path in summary.files])
    account = session.accounting
    assert account.records == account.kept + sum(account.quarantined.values())
    return session


def written(paths: list[str]) -> list[bytes]:
    return [line for path in paths for batch in line_batches(Path(path)) for line in batch]


def test_what_is_sent_is_captured(tmp_path: Path, lines: list[bytes]) -> None:
    summary, exchange = capture(tmp_path, lines)
    assert (summary.messages, summary.snapshots) == (len(exchange.messages), 1)
    assert (summary.reconnects, summary.gaps, summary.dropped, summary.failed) == (0, 0, 0, {})
    captured = written(summary.files)
    assert [line[20:] for line in captured if b"lastUpdateId" not in line[:60]] == exchange.messages
    stamps = [int(line[:19]) for line in captured]
    assert stamps == sorted(stamps)
    assert summary.bytes == sum(Path(path).stat().st_size for path in summary.files)


def test_a_recording_reads_back_without_a_break(tmp_path: Path, lines: list[bytes]) -> None:
    summary, _ = capture(tmp_path, lines, Script(pause_s=0.005))
    account = captured_session(summary).accounting
    assert account.faults.keys() <= {"stale", "clock step", "negative latency"}  # it is played faster than it happened
    assert account.sequence_breaks == 0


def test_a_dropped_connection_is_marked_and_mended(tmp_path: Path, lines: list[bytes]) -> None:
    summary, exchange = capture(tmp_path, lines, Script(drop_at=(1000, 3000), pause_s=0.005))
    assert exchange.connections == 3
    assert (summary.reconnects, summary.gaps, summary.snapshots) == (2, 2, 3)
    assert captured_session(summary).accounting.faults["reconnect"] == 2


def test_a_silent_connection_is_treated_as_lost(tmp_path: Path, lines: list[bytes]) -> None:
    summary, exchange = capture(tmp_path, lines, Script(silent_at=(2000,), pause_s=0.005))
    assert (exchange.connections, summary.reconnects, summary.snapshots) == (2, 1, 2)
    assert captured_session(summary).accounting.faults["reconnect"] == 1
    marks = [json.loads(line[20:]) for line in written(summary.files) if b'"gap"' in line[:40]]
    assert marks == [{"gap": "stale"}]


def test_a_slow_disk_drops_with_a_mark_and_never_blocks(tmp_path: Path, lines: list[bytes]) -> None:
    limits = FileLimits(flush_s=0.01, flush_bytes=1, waiting=40)
    summary, exchange = capture(tmp_path, lines, Script(pause_s=0.005), files=limits, slow_s=0.05)
    assert summary.dropped > 0
    assert summary.messages + summary.dropped == len(exchange.messages)
    marks = [json.loads(line[20:])["gap"] for line in written(summary.files) if b'"gap"' in line[:40]]
    assert marks
    counted = sum(int(mark.split()[1]) for mark in marks)
    # What was dropped last may have had no room for its mark.
    assert 0 < counted <= summary.dropped
    assert all(mark.startswith("overflow, ") for mark in marks)


def test_a_busy_venue_is_asked_again(tmp_path: Path, lines: list[bytes]) -> None:
    script = Script(bad_answers=[(429, {"Retry-After": "0"}), (503, {})], old_snapshots=1, pause_s=0.005)
    summary, exchange = capture(tmp_path, lines, script)
    assert exchange.requests == 4
    assert summary.snapshots == 1
    assert captured_session(summary).accounting.sequence_breaks == 0


def test_lost_and_repeated_messages_of_the_venue(tmp_path: Path, lines: list[bytes]) -> None:
    depth = [n for n, line in enumerate(lines) if b"@depth" in line[:80]]
    broken = [line for n, line in enumerate(lines) if n != depth[len(depth) // 2]]
    broken.insert(depth[400] + 3, broken[depth[400]])
    summary, _ = capture(tmp_path, broken, Script(pause_s=0.02))
    assert (summary.gaps, summary.snapshots) == (1, 2)
    faults = captured_session(summary).accounting.faults
    assert (faults["gap"], faults["duplicate"]) == (1, 1)


def test_one_failing_symbol_does_not_fail_the_rest(tmp_path: Path, lines: list[bytes]) -> None:
    other = [line.replace(b"sim@", b"bad@").replace(b'"SIM"', b'"BAD"') for line in lines if b'"stream"' in line[:40]]
    both = [line for pair in zip(lines, [b"", *other], strict=False) for line in pair if line]
    summary, _ = capture(tmp_path, both, Script(unknown=("BAD",), pause_s=0.005), symbols=("SIM", "BAD"))
    assert list(summary.failed) == ["bad"]
    assert "Invalid symbol" in summary.failed["bad"]
    good = [path for path in summary.files if "-sim-" in path]
    assert summary.snapshots == 1
    assert len(written(good)) > 4000


def test_when_every_symbol_fails_it_says_so(tmp_path: Path, lines: list[bytes]) -> None:
    summary, exchange = capture(tmp_path, lines, Script(unknown=("SIM",), pause_s=0.005))
    assert "Invalid symbol" in summary.failed["sim"]
    assert exchange.sent < len(exchange.messages)  # it ended by itself


def test_a_venue_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        endpoint = MARKETS["usdm"]._replace(websocket="ws://127.0.0.1:9", rest="http://127.0.0.1:9")
        raw = RawFiles(tmp_path, "usdm", FileLimits())
        await capture_feed(WebSocketFeed(endpoint, ("sim",), raw, FAST), raw, seconds=2.0)

    with pytest.raises(DataError, match=r"ws://127\.0\.0\.1:9: no message came \(ConnectionRefusedError\)"):
        asyncio.run(run())


def test_files_rotate_by_size_and_read_on_as_one_stream(tmp_path: Path, lines: list[bytes]) -> None:
    limits = FileLimits(flush_s=0.01, flush_bytes=10_000, rotate_bytes=20_000)
    summary, exchange = capture(tmp_path, lines, Script(pause_s=0.005), files=limits)
    assert len(summary.files) > 2
    session = captured_session(summary)
    assert session.accounting.records == len(exchange.messages) + 1
    assert session.accounting.sequence_breaks == 0


def test_files_rotate_at_midnight(tmp_path: Path) -> None:
    files = RawFiles(tmp_path, "usdm", FileLimits())
    midnight = 1_723_161_600_000_000_000
    for offset in (-2, -1, 0, 1):
        assert files.put("btcusdt", midnight + offset, b"{}")
    files.close()
    assert [path.name for path in files.paths] == ["usdm-btcusdt-20240808T235959.gz", "usdm-btcusdt-20240809T000000.gz"]


def test_a_disk_that_fails_ends_the_capture_with_the_reason(tmp_path: Path) -> None:
    files = RawFiles(tmp_path / "raw", "usdm", FileLimits(flush_s=0.01))
    (tmp_path / "raw").rmdir()
    deadline = time.monotonic() + 60
    with pytest.raises(DataError, match="cannot be written"):  # noqa: PT012
        while time.monotonic() < deadline:
            files.put("x", 10**18, b"{}")
            time.sleep(0.01)
    files.close()


def test_a_torn_tail_is_cut(tmp_path: Path) -> None:
    files = RawFiles(tmp_path, "usdm", FileLimits(flush_s=0.0, flush_bytes=1))
    for n in range(500):
        files.put("x", 10**18 + n, b'{"n":%d}' % n)
        if n % 100 == 0:
            time.sleep(0.01)
    files.close()
    (path,) = files.paths
    whole = path.read_bytes()
    for size in np.linspace(1, len(whole) - 1, 25).astype(int).tolist():
        path.write_bytes(whole[:size])
        cut = cut_torn_tails(tmp_path, "usdm")
        left = path.read_bytes()
        assert whole.startswith(left)
        assert len(left) + sum(cut.values()) == size
        if left:
            kept = written([str(path)])
            assert kept == [b'%d {"n":%d}' % (10**18 + n, n) for n in range(len(kept))]
    path.write_bytes(whole)
    assert cut_torn_tails(tmp_path, "usdm") == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_ended_by_a_signal_leaves_readable_files(
    tmp_path: Path, lines: list[bytes], number: signal.Signals
) -> None:
    (tmp_path / "params.yaml").write_text(params_file().read_text())

    async def run() -> tuple[int | None, bytes]:
        async with Exchange(lines, Script(pause_s=0.1)) as exchange:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lobsmith", "--root", str(tmp_path), "data", "capture", "SIM", "--json"),
                *("--directory", str(tmp_path / "raw"), "--ws-url", exchange.ws_url, "--rest-url", exchange.rest_url),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            await eventually(lambda: exchange.sent > 3000, 60)
            process.send_signal(number)
            out, _ = await process.communicate()
            return process.returncode, out

    code, out = asyncio.run(run())
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        cut_torn_tails(tmp_path / "raw", "usdm")
    paths = sorted((tmp_path / "raw").glob("*.gz"))
    account = read_captures(paths).accounting
    assert account.sequence_breaks == 0
    if number == signal.SIGTERM:
        assert code == 0
        summary = json.loads(out)
        assert account.records == summary["messages"] + summary["snapshots"] > 3000
    else:
        # What the last second held is lost, and nothing else.
        assert account.records > 1000


@pytest.mark.recorded
def test_a_recorded_session_played_back(tmp_path: Path, recorded: Path) -> None:
    path = recorded / "binance" / "usdm-btcusdt-20240808.gz"
    lines = [line for batch in line_batches(path) for line in batch][:30_000]
    script = Script(drop_at=(10_000,), silent_at=(20_000,), pause_s=0.002)
    summary, exchange = capture(tmp_path, lines, script, symbols=("BTCUSDT",))
    assert exchange.sent == len(exchange.messages)
    account = captured_session(summary).accounting
    assert account.faults["reconnect"] == 2
    assert account.crossed == 0
    assert (summary.dropped, summary.snapshots) == (0, 3)
