"""The loop on a live feed, against the real Triton and a venue's WebSocket: kills cost time, and no row its answer."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from lobsmith.market.live.playback import SimulatedFeed
from lobsmith.market.venues.captures import line_batches
from lobsmith.params import as_table
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.stages.ingest import ingest
from lobsmith.units import NS_PER_MS, NS_PER_S
from lobsmith.workspace import Workspace
from tests.answered import logged, rows_of
from tests.market.exchange import Exchange, Script
from tests.served import publish_small
from tests.small import small_params

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

AHEAD_S, SECONDS = 9, 60
"""Before the first message of the venue is due, less than a session takes for silence; and how many s of them."""


@contextmanager
def venue() -> Iterator[tuple[Exchange, int]]:
    """A venue in a thread of its own, and when its first message is due."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    begins_ns = time.time_ns() + AHEAD_S * NS_PER_S
    lines = market(begins_ns)
    exchange, done = Exchange(lines, Script(paced=True)), asyncio.Event()

    async def run() -> None:
        async with exchange:
            ready.set()
            await done.wait()
        await asyncio.sleep(0.1)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield exchange, begins_ns
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


def market(begins_ns: int) -> list[bytes]:
    """A simulated market whose first message is due at a time."""
    feed = SimulatedFeed(3)
    feed.shift_ns = (begins_ns - feed.begins_ns) // NS_PER_MS * NS_PER_MS
    ends_ns = begins_ns + SECONDS * NS_PER_S
    due = itertools.takewhile(lambda message: message[0] < ends_ns, feed.lines())
    return [b"%d %b" % message for message in due]


class Live:
    """`lobsmith live` in a process of its own."""

    def __init__(self, workspace: Workspace, exchange: Exchange) -> None:
        where = ("--ws-url", exchange.ws_url, "--rest-url", exchange.rest_url)
        command = (sys.executable, "-m", "lobsmith", "--root", str(workspace.root), "live", "SIM", *where, "--json")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.seconds: list[dict] = []
        self.ended: list[dict] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            event = json.loads(line)
            ended = event.get("ended", [])
            self.ended += ended
            self.seconds += [] if ended else [event]

    def eventually(self, holds: Callable[[dict, dict], bool]) -> None:
        """Wait until something holds of the last two seconds."""
        end = time.monotonic() + 120
        while len(self.seconds) < 2 or not holds(*self.seconds[-2:]):
            assert time.monotonic() < end, self.seconds[-3:]
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.05)

    def end(self, number: int) -> tuple[float, str]:
        """Send a signal; return how long the process takes to end, s, and its stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        printed = self.process.stderr.read()
        self.process.wait(60)
        self._reader.join()
        return time.monotonic() - began, printed


def sleep_until(due_ns: int) -> None:
    time.sleep(max(0.0, (due_ns - time.time_ns()) / NS_PER_S))


def test_kills_of_server_and_session_lose_no_answer_and_the_capture_is_trained_on(tmp_path: Path) -> None:
    params = with_free_ports(small_params(**{"client.poll_s": 0.2}))
    workspace = Workspace(tmp_path)
    workspace.params.write_text(yaml.safe_dump(as_table(params)))
    version = publish_small(workspace, params, seed=1).version
    with running_triton(workspace, params), venue() as (exchange, begins_ns):
        first = Live(workspace, exchange)
        first.eventually(lambda _, now: now["up"] is not None)
        killed_s = time.monotonic()
        os.kill(read_endpoint(workspace).triton_pid, signal.SIGKILL)
        first.eventually(lambda _, now: now["unanswered"] > 0)
        first.eventually(lambda before, now: now["rows_per_s"] > 0 and now["unanswered"] == before["unanswered"])
        # Most rows are answered, however long the server took.
        time.sleep(5 + time.monotonic() - killed_s)
        first.end(signal.SIGKILL)
        sent_first = exchange.sent
        second = Live(workspace, exchange)
        sleep_until(begins_ns + (SECONDS + 2) * NS_PER_S)
        took_s, printed = second.end(signal.SIGTERM)
    assert (second.process.returncode, "Traceback" in printed) == (0, False)
    assert took_s < params.mirror.drain_s
    assert exchange.connections == 2

    assert {report["version"] for report in first.seconds if report["version"]} == {version}
    (ended,) = second.ended
    (before, after) = paths = sorted(workspace.captures.glob("usdm-sim-*.gz"))
    killed, whole = logged(workspace, "lob")
    # The second session took over what the first had left in its ring.
    times = np.array([row.time_ns for row in killed])
    captured = rows_of([before], params)
    assert np.isin(captured, times).all()
    assert 0 <= len(times) - len(captured) < 200
    reasons = {row.reason for row in killed}
    assert reasons - {None} <= {"unavailable", "deadline", "no_version"}
    assert 0 < sum(row.reason is not None for row in killed) < len(killed) // 2
    assert killed[-1].reason is None
    # Nothing of the second is missing: every row of its capture was answered.
    np.testing.assert_array_equal(np.array([row.time_ns for row in whole]), rows_of([after], params))
    assert (ended["answered"], ended["reasons"], ended["drops"]) == (len(whole), {}, 0)
    assert ended["recorded"]["logged"] == len(whole)
    assert sum(row.known_ns is not None for row in whole) > len(whole) // 2

    texts = [line[20:] for batch in line_batches(after) for line in batch]
    messages = [text for text in texts if text.startswith(b'{"stream"')]
    assert messages == exchange.messages[-len(messages) :]
    assert len(exchange.messages) - sent_first - len(messages) < 5
    done = ingest(params.data, paths, tmp_path / "market")
    assert list(done.done) == ["simulator:SIM"]
    account = done.done["simulator:SIM"].accounting
    # What was due while no connection was open comes late.
    assert (account.segments, account.faults.keys() <= {"reconnect", "stale"}) == (2, True)
