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
"""Takes a process id; returns why the service does not answer, None where it does."""
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
    """It runs and was ready before."""
    RESTARTING = "restarting"
    """It has ended and is started after a pause."""
    FINISHED = "finished"
    """It has ended by itself, successfully."""
    STOPPED = "stopped"
    ELSEWHERE = "elsewhere"
    """An external server takes its place."""
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
    """Services that must be ready before its start."""
    beat_s: float | None = None
    """Age of the last `Heartbeat` above which it does not answer, s; None where it sends none."""
    probe: Probe | None = None
    probe_s: float = 10.0
    """Interval of probes once it is ready, s."""
    start_deadline_s: float = 120.0
    """Deadline to become ready before it is killed and restarted, s."""
    silent_s: float = 60.0
    """Time without an answer after which it is killed and restarted, s."""
    stop_deadline_s: float = 10.0
    """Time from SIGTERM to SIGKILL, s."""
    finishes: bool = False
    """Whether it is not restarted after exit status 0."""
    instead: tuple[Phase, str] | None = None
    """State and reason to report; nothing is started then."""


class ServiceState(Struct, frozen=True, kw_only=True):
    """The state of a service; `started_ns` is the start of its process, UTC ns of the machine's clock."""

    name: str
    state: Phase
    why: str = ""
    address: str = ""
    page: bool = False
    pid: int | None = None
    started_ns: int | None = None
    restarts: int = 0


def answers(port: int, path: str, *, deadline_s: float = _ANSWER_DEADLINE_S) -> Probe:
    """Return a probe that requests a page on loopback over HTTP."""

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
    """Return why no server answers at `url`/health; None where one does, also with status 401 or 404."""
    try:
        with urlopen(Request(f"{url}/health"), timeout=_ANSWER_DEADLINE_S):  # noqa: S310 - the user's own address
            return None
    except HTTPError as error:
        return None if error.code < http.client.INTERNAL_SERVER_ERROR else f"status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
