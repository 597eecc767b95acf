"""A service's definition, its state, and HTTP probes."""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from msgspec import Struct

from lobsmith.serving.ports import HOST, Port

Probe = Callable[[int], str | None]
"""Takes a process id; returns why the service does not answer, else None."""
DRAIN_S = 3
"""Time for open connections when a server gets SIGTERM, s."""
_ANSWER_DEADLINE_S = 5.0


class Phase(StrEnum):
    """The state of a service."""

    WAITING = "waiting"
    """For another service to be ready."""
    STARTING = "starting"
    READY = "ready"
    SILENT = "not answering"
    """Was ready before."""
    RESTARTING = "restarting"
    """Ended, to be started after a pause."""
    FINISHED = "finished"
    """Ended by itself, successfully."""
    STOPPED = "stopped"
    ELSEWHERE = "elsewhere"
    """An external server is used."""
    MISSING = "missing"
    """This machine cannot run it."""


NEVER_STARTED = (Phase.ELSEWHERE, Phase.MISSING)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process to start, watch, restart and stop.

    It is ready from its first heartbeat on and while `probe` returns None; with neither, at once.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path
    """Working directory."""
    address: str = ""
    """URL or ports, for display."""
    page: bool = False
    """Whether the address is a page for a browser."""
    ports: tuple[Port, ...] = ()
    after: tuple[str, ...] = ()
    """Services that must be ready first."""
    beat_s: float | None = None
    """Longest age of its `Heartbeat`, s; None where it has none."""
    probe: Probe | None = None
    probe_s: float = 10.0
    """Interval of probes once it is ready, s."""
    start_deadline_s: float = 120.0
    """Time to become ready, then it is restarted, s."""
    silent_s: float = 60.0
    """Time without an answer, then it is restarted, s."""
    stop_deadline_s: float = 10.0
    """Time from SIGTERM to SIGKILL, s."""
    finishes: bool = False
    """Whether exit status 0 is final."""
    instead: tuple[Phase, str] | None = None
    """State and reason to report in place of a process."""


class ServiceState(Struct, frozen=True, kw_only=True):
    """The state of a service; `started_ns` in UTC ns of the machine."""

    name: str
    state: Phase
    why: str = ""
    address: str = ""
    page: bool = False
    pid: int | None = None
    started_ns: int | None = None
    restarts: int = 0


def answers(port: int, path: str, *, deadline_s: float = _ANSWER_DEADLINE_S) -> Probe:
    """Return a probe of an HTTP page on loopback."""

    def probe(_pid: int) -> str | None:
        connection = http.client.HTTPConnection(HOST, port, timeout=deadline_s)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"http://{HOST}:{port}{path}: {error or type(error).__name__}"
        finally:
            connection.close()
        return None if status == http.client.OK else f"http://{HOST}:{port}{path}: status {status}"

    return probe


def why_away(url: str) -> str | None:
    """Return why no server answers at `url`/health, None where one does; a status below 500 is an answer."""
    try:
        with urlopen(Request(f"{url}/health"), timeout=_ANSWER_DEADLINE_S):  # noqa: S310 - the user's own address
            return None
    except HTTPError as error:
        return None if error.code < http.client.INTERNAL_SERVER_ERROR else f"status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
