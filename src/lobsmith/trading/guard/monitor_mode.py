"""The mode that the monitor published, from file or HTTP, and whether it is fresh."""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from lobsmith import clock
from lobsmith.errors import DeadlineError, LobsmithError, ModeError, ServingError
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.machine import Mode, PublishedMode
from lobsmith.monitoring.mode.store import decode_mode, last_known
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_DEADLINE_S = 2.0
_MOST_BYTES = 1 << 20


class ModeSource(Protocol):
    """Where a client reads the monitor's mode."""

    def read(self) -> PublishedMode | None:
        """Return the published mode, None without one.

        Raises:
            ModeError: it is corrupt, or of another model.
            ServingError: it is out of reach.
        """


class FileModes:
    """The mode file of a workspace."""

    def __init__(self, workspace: Workspace, model: str) -> None:
        self._workspace = workspace
        self._model = model

    def read(self) -> PublishedMode | None:
        """See `ModeSource.read`."""
        return last_known(self._workspace, self._model)


class HttpModes:
    """A model's mode over HTTP, `GET /modes/<model>`."""

    def __init__(self, url: str, model: str, deadline_s: float = _DEADLINE_S) -> None:
        """Prepare; nothing is requested yet.

        Args:
            url: up to and including `/modes`: `http://127.0.0.1:8003/modes`.
            model: whose mode.
            deadline_s: of connection and answer.

        Raises:
            ServingError: `url` is no such URL.
        """
        try:
            parts = urlsplit(url)
            path = f"{parts.path.rstrip('/')}/{quote(model, safe='')}"
            self._url = httpx.URL(scheme="http", host=parts.hostname or "", port=parts.port, raw_path=path.encode())
        except (ValueError, httpx.InvalidURL):
            parts = urlsplit("")
        if not parts.hostname or parts.scheme != "http":
            raise ServingError(f"{url}: not the URL of modes; write http://HOST:PORT/modes")
        # One connection a request: no TLS context, no proxy, no compression.
        self._client = httpx.Client(
            verify=False,  # noqa: S501
            trust_env=False,
            timeout=deadline_s,
            headers={"Accept-Encoding": "identity"},
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._where = f"{url.rstrip('/')}/{model}"
        self._model = model
        self._deadline_s = deadline_s

    def read(self) -> PublishedMode | None:
        """See `ModeSource.read`."""
        deadline = _Deadline(self._deadline_s)
        try:
            with deadline, self._client.stream("GET", self._url, extensions={"trace": deadline.trace}) as response:
                content = self._content(response)
        except httpx.TransportError as error:
            if deadline.passed or isinstance(error, httpx.TimeoutException):
                raise self._timed_out() from error
            raise ServingError(f"{self._where}: {str(error) or type(error).__name__}; is the server up?") from error
        if deadline.passed:
            raise self._timed_out()
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise ServingError(f"{self._where}: status {response.status_code} {response.reason_phrase}")
        published = decode_mode(content)
        if published is None or published.model != self._model:
            raise ModeError(f"{self._where}: not that model's mode")
        return published

    def _content(self, response: httpx.Response) -> bytes:
        content = b""
        for part in response.iter_raw():
            content += part
            if len(content) > _MOST_BYTES:
                raise ModeError(f"{self._where}: longer than any mode")
        return content

    def _timed_out(self) -> DeadlineError:
        return DeadlineError(f"{self._where}: no answer within {self._deadline_s:g} s")


class _Deadline:
    """Cuts a connection after a time: httpx's own timeouts restart with every chunk."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._socket = info["return_value"].get_extra_info("socket")
            if self.passed:
                self._cut()

    def _cut(self) -> None:
        self.passed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


@dataclass(frozen=True)
class MonitorStatus:
    """The status of the monitor.

    Attributes:
        mode: last known, None without one.
        fresh: recent and about the version in use.
        detail: one line.
        hit_rates: last known.
    """

    mode: Mode | None
    fresh: bool
    detail: str
    hit_rates: HitRates | None = None


class ModeWatch:
    """Reads the mode and judges its age; of one thread.

    Fresh: the last drift check is within `stale_s` of this machine's clock, and a new one arrived within `stale_s` of a
    monotonic clock.
    """

    def __init__(
        self,
        source: ModeSource,
        stale_s: float,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Nothing is read yet.

        Args:
            source: of the mode.
            stale_s: age of the last drift check that makes a mode stale.
            clock: monotonic, ns.
            wall: UTC, ns.
        """
        self._source = source
        self._stale_ns = int(stale_s * NS_PER_S)
        self._clock = clock
        self._wall = wall
        self._published: PublishedMode | None = None
        self._changed_ns = 0

    def read(self, version: int | None) -> MonitorStatus:
        """Read the mode and return the status for a version, None without one."""
        fault = self._read()
        published = self._published
        if published is None:
            return MonitorStatus(None, False, fault or "it has published no mode")
        fault = fault or self._stale(published)
        if fault is None and published.version != version:
            fault = f"its mode is about version {published.version}, not {version}"
        detail = f"{published.mode}, {published.reason}" if fault is None else f"stale, last {published.mode}: {fault}"
        return MonitorStatus(published.mode, fault is None, detail, published.win_rates)

    def _read(self) -> str | None:
        """Take over the source's mode; return why there is none."""
        try:
            published = self._source.read()
        except LobsmithError as error:
            return str(error)
        if published is None:
            return "it has published no mode"
        if self._is_outdated(published):
            return f"its mode {published.mode} is older than the one read last"
        if self._published is None or published.looked_ns != self._published.looked_ns:
            self._changed_ns = self._clock()
        self._published = published
        return None

    def _is_outdated(self, published: PublishedMode) -> bool:
        """Whether an older file, of a backup or another machine, would undo newer caution."""
        last = self._published
        if last is None or published.mode.caution >= last.mode.caution:
            return False
        # A mode set by hand is newer without a drift check.
        set_ns = max(published.looked_ns, published.since_ns)
        return set_ns < max(last.looked_ns, last.since_ns) and abs(self._wall() - set_ns) > self._stale_ns

    def _stale(self, published: PublishedMode) -> str | None:
        age_ns = self._wall() - published.looked_ns
        if age_ns > self._stale_ns:
            return (
                f"its last drift check was {age_ns / NS_PER_S:.0f} s ago"
                if published.looked_ns
                else "it has made no drift check yet"
            )
        if age_ns < -self._stale_ns:
            ahead_s = -age_ns / NS_PER_S
            return f"its last drift check is {ahead_s:.0f} s ahead of this machine's clock; set the clocks right"
        unchanged_ns = self._clock() - self._changed_ns
        if unchanged_ns > self._stale_ns:
            return f"no new drift check for {unchanged_ns / NS_PER_S:.0f} s"
        return None
