"""A service, and the state that its supervisor reports."""

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
"""Says why a service, of which it gets the process id, does not answer; None where it does."""
DRAIN_S = 3
"""Time that open connections have when a server is asked to end, s."""
_ANSWER_DEADLINE_S = 5.0


class Phase(StrEnum):
    """The state of a service."""

    WAITING = "waiting"
    """For another service to be ready."""
    STARTING = "starting"
    READY = "ready"
    SILENT = "not answering"
    """It runs, was ready, and does not answer."""
    RESTARTING = "restarting"
    """It has ended and is started again after a pause."""
    FINISHED = "finished"
    """It has come to its own end."""
    STOPPED = "stopped"
    ELSEWHERE = "elsewhere"
    """A server of the user's takes its place."""
    MISSING = "missing"
    """This machine cannot run it."""


NEVER_STARTED = (Phase.ELSEWHERE, Phase.MISSING)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process that is started, watched, started again when it ends, and stopped.

    It is ready from its first heartbeat on, where it has one, and while `probe` finds nothing; one that has neither is
    ready at once. Where `instead` is set, nothing is started and its state and reason are shown in place of those of a
    process.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path
    """Its working directory."""
    address: str = ""
    """What a person opens or a program connects to."""
    page: bool = False
    """Whether that is a page to be opened in a browser."""
    ports: tuple[Port, ...] = ()
    after: tuple[str, ...] = ()
    """Services that must be ready before it is started."""
    beat_s: float | None = None
    """Age of its last heartbeat above which it does not answer, s; None where it has none. See `Heartbeat`."""
    probe: Probe | None = None
    probe_s: float = 10.0
    """Time from one probe of a ready service to the next, s."""
    start_deadline_s: float = 120.0
    """Time that it has to become ready before it is killed and started again, s."""
    silent_s: float = 60.0
    """Time without an answer after which it is killed and started again, s."""
    stop_deadline_s: float = 10.0
    """Time that it has to end after SIGTERM before it is killed, s."""
    finishes: bool = False
    """Whether exit status 0 is its own end, after which it is not started again."""
    instead: tuple[Phase, str] | None = None


class ServiceState(Struct, frozen=True, kw_only=True):
    """What is known of a service at a moment: the row of a table, and a line for programs.

    `started_ns` is when its process was started, UTC ns of the machine.
    """

    name: str
    state: Phase
    why: str = ""
    address: str = ""
    page: bool = False
    pid: int | None = None
    started_ns: int | None = None
    restarts: int = 0


def answers(port: int, path: str, *, deadline_s: float = _ANSWER_DEADLINE_S) -> Probe:
    """Return a probe that asks a page on loopback over HTTP."""

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
    """Say why no server answers at `url`/health; None where one does, be it that it wants a key or has no such page."""
    try:
        with urlopen(Request(f"{url}/health"), timeout=_ANSWER_DEADLINE_S):  # noqa: S310 - the user's own address
            return None
    except HTTPError as error:
        return None if error.code < http.client.INTERNAL_SERVER_ERROR else f"status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
