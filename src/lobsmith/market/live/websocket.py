"""Captures a combined stream and its REST snapshots for the Binance reader.

After a break of update ids, a reconnect or an overflow a line marks the gap, and a snapshot not older than the next
difference is fetched. A connection silent for `stale_s` is closed; reconnects back off exponentially with full jitter.
The event loop never touches the disk (see `files`).
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx
import msgspec
from msgspec import Struct, field
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from lobsmith import clock
from lobsmith.errors import DataError
from lobsmith.market.live.files import RawFiles
from lobsmith.market.venues.binance.live import VenueEndpoint, difference, snapshot_id, stream_of

_LOSSES = {"gaierror": "its name cannot be resolved", "stale": "silent", "ConnectionRefusedError": "nothing listens"}


class CaptureLimits(Struct, frozen=True, kw_only=True):
    """Timeouts, seconds."""

    stale_s: float = 10.0
    connect_s: float = 10.0
    rest_s: float = 10.0
    ping_s: float = 20.0
    backoff_s: float = 0.5
    backoff_maximum_s: float = 30.0
    stable_s: float = 60.0
    """Age of a connection that resets the backoff."""
    lifetime_s: float = 23 * 3600.0
    """Renewal before Binance's limit of 24 hours."""


class Summary(Struct, kw_only=True):
    """Totals of a capture."""

    messages: int = 0
    snapshots: int = 0
    reconnects: int = 0
    last_loss: str = ""
    gaps: int = 0
    dropped: int = 0
    """Messages refused by a full queue."""
    bytes: int = 0
    files: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Abandoned symbols and reasons."""


class Sink(Protocol):
    """Receives lines."""

    def put(self, symbol: str, local: int, text: bytes) -> bool:
        """Queue one line without waiting; return False if the queue is full.

        Raises:
            DataError: the disk has failed.
        """


class _Symbol:
    def __init__(self, name: str) -> None:
        self.name = name
        self.first: int | None = None  # start of the first difference since the snapshot request
        self.last: int | None = None
        self.dropped = 0
        self.fetching: asyncio.Task[None] | None = None


class WebSocketFeed:
    """Captures a market's symbols until stopped.

    Args:
        endpoint: the market.
        symbols: in any case.
        files: receives the lines.
        limits: timeouts.
        now: local time, ns since 1970 UTC.
        draw: uniform random numbers, for the jitter.
        report: receives messages on connection changes and abandoned symbols.
    """

    def __init__(
        self,
        endpoint: VenueEndpoint,
        symbols: Sequence[str],
        files: Sink,
        limits: CaptureLimits | None = None,
        now: Callable[[], int] = clock.now_ns,
        draw: Callable[[], float] = random.random,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.summary = Summary()
        self._endpoint = endpoint
        self._symbols = {name.lower(): _Symbol(name.lower()) for name in symbols}
        self._files = files
        self._limits = limits or CaptureLimits()
        self._now = now
        self._draw = draw
        self._report = report
        self._last_report = ""
        self._stop = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Future[None]] = set()  # referenced against garbage collection

    @property
    def address(self) -> str:
        """The WebSocket's URL."""
        return self._endpoint.websocket

    def stop(self) -> None:
        """End the capture soon; call in the loop's thread."""
        self._stop.set()
        if self._socket is not None:
            closing = asyncio.ensure_future(self._socket.close())
            self._closing.add(closing)

    def resync(self, name: str) -> None:
        """Fetch a symbol's snapshot after its next difference; call in the loop's thread."""
        symbol = self._symbols.get(name.lower())
        if symbol is not None:
            symbol.last = None

    async def run(self) -> Summary:
        """Capture until stopped.

        Raises:
            DataError: the disk has failed, or no symbol is left.
        """
        attempts = 0
        async with httpx.AsyncClient(timeout=self._limits.rest_s) as rest:
            while not self._stop.is_set():
                began = time.monotonic()
                reason = await self._connection(rest)
                if self._stop.is_set():
                    break
                if time.monotonic() - began >= self._limits.stable_s:
                    attempts = 0
                attempts += 1
                self.summary.reconnects += 1
                self.summary.last_loss = reason
                self._report_once(f"{self.address}: {_LOSSES.get(reason, reason)}; connecting again")
                for symbol in self._symbols.values():
                    self._mark_loss(symbol, reason)
                ceiling = min(self._limits.backoff_s * 2.0 ** min(attempts, 20), self._limits.backoff_maximum_s)
                await self._pause(self._draw() * ceiling)
            await self._cancel_tasks()
        return self.summary

    def _report_once(self, line: str) -> None:
        if line != self._last_report:
            self._last_report = line
            self._report(line)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _connection(self, rest: httpx.AsyncClient) -> str:
        """Capture until the connection ends; return why."""
        kinds = (self._endpoint.depth_stream, "bookTicker", "trade")
        streams = "/".join(f"{name}@{kind}" for name in self._symbols for kind in kinds)
        url = f"{self._endpoint.websocket}/stream?streams={streams}"
        limits = self._limits
        try:
            async with connect(
                url,
                open_timeout=limits.connect_s,
                ping_interval=limits.ping_s,
                ping_timeout=limits.ping_s,
                close_timeout=1.0,
                max_size=None,
            ) as socket:
                return await self._receive(socket, rest)
        except (OSError, WebSocketException, TimeoutError) as error:
            return type(error).__name__
        finally:
            await self._cancel_tasks()

    async def _receive(self, socket: ClientConnection, rest: httpx.AsyncClient) -> str:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.lifetime_s
        self._socket = socket
        self._report_once(f"connected to {self.address}")
        try:
            async with asyncio.timeout(self._limits.stale_s) as silence:
                while loop.time() < end and not self._stop.is_set():
                    text = await socket.recv(decode=False)
                    self._handle(self._now(), text, rest)
                    silence.reschedule(loop.time() + self._limits.stale_s)
        except TimeoutError:
            return "stale"
        finally:
            self._socket = None
        return "renewed"

    def _handle(self, local: int, text: bytes, rest: httpx.AsyncClient) -> None:
        name, kind = stream_of(text)
        symbol = self._symbols.get(name)
        if symbol is None:
            return
        if symbol.dropped and not self._mark(symbol, f"overflow, {symbol.dropped} messages dropped"):
            symbol.dropped += 1
            self.summary.dropped += 1
            return
        if not self._files.put(name, local, text):
            symbol.dropped += 1
            self.summary.dropped += 1
            symbol.last = None
            return
        self.summary.messages += 1
        if kind.startswith("depth"):
            self._check_continuity(symbol, text, rest)

    def _check_continuity(self, symbol: _Symbol, text: bytes, rest: httpx.AsyncClient) -> None:
        """Fetch a snapshot after the first difference and after a break of the update ids."""
        update = difference(text)
        if update is None:
            return
        if symbol.last is not None and update.last <= symbol.last:
            return  # repeated or late
        if symbol.last is None or update.start != symbol.last:
            if symbol.last is not None:
                self.summary.gaps += 1
            symbol.first = update.start
            if symbol.fetching is None or symbol.fetching.done():
                symbol.fetching = asyncio.ensure_future(self._snapshot(symbol, rest))
                self._tasks.add(symbol.fetching)
                symbol.fetching.add_done_callback(self._tasks.discard)
        symbol.last = update.last

    def _mark_loss(self, symbol: _Symbol, reason: str) -> None:
        symbol.last = symbol.first = None
        if not self._mark(symbol, reason):
            symbol.dropped += 1

    def _mark(self, symbol: _Symbol, reason: str) -> bool:
        if not self._files.put(symbol.name, self._now(), msgspec.json.encode({"gap": reason})):
            return False
        self.summary.gaps += 1
        symbol.dropped = 0
        symbol.last = None
        return True

    async def _snapshot(self, symbol: _Symbol, rest: httpx.AsyncClient) -> None:
        """Fetch snapshots until one is not older than the first kept difference."""
        url = self._endpoint.rest + self._endpoint.depth_path
        params: dict[str, str | int] = {"symbol": symbol.name.upper(), "limit": self._endpoint.depth_limit}
        attempts = 0
        while not self._stop.is_set():
            wait = self._draw() * min(self._limits.backoff_s * 2.0 ** min(attempts, 20), self._limits.backoff_maximum_s)
            attempts += 1
            try:
                response = await rest.get(url, params=params)
            except httpx.HTTPError:
                await self._pause(wait)
                continue
            if response.status_code in (400, 404):
                self._abandon(symbol, f"the venue refused its snapshot: {response.text[:200]}")
                return
            if response.status_code != httpx.codes.OK:
                # 429 and 418 carry Retry-After.
                await self._pause(max(_seconds(response.headers.get("Retry-After")), wait))
                continue
            update = snapshot_id(response.content)
            if update is None or symbol.first is None or update < symbol.first:
                await self._pause(wait)
                continue
            if self._files.put(symbol.name, self._now(), response.content.replace(b"\n", b" ").strip()):
                self.summary.snapshots += 1
                return
            await self._pause(wait)

    def _abandon(self, symbol: _Symbol, reason: str) -> None:
        self.summary.failed[symbol.name] = reason
        self._report(f"{symbol.name}: {reason}")
        del self._symbols[symbol.name]
        if not self._symbols:
            self.stop()

    async def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


async def capture_feed(feed: WebSocketFeed, files: RawFiles, seconds: float | None = None) -> Summary:
    """Capture for some seconds or until stopped, then close the files.

    Raises:
        DataError: the disk has failed, or every symbol was abandoned.
    """
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, feed.stop)
    try:
        summary = await feed.run()
    finally:
        # May block the loop: nothing is received any more.
        files.close()
    summary.bytes, summary.files = files.bytes, [str(path) for path in files.paths]
    if files.error is not None:
        raise DataError(f"{files.folder}: cannot be written: {files.error.strerror}; the capture has ended")
    if not summary.messages and summary.last_loss:
        raise DataError(f"{feed.address}: no message came ({summary.last_loss}); check the address and the symbols")
    if summary.failed and not summary.messages:
        raise DataError("; ".join(f"{name}: {reason}" for name, reason in summary.failed.items()))
    return summary
