"""Sessions of live traffic: open, closed in order, or crashed.

While a session is logged its file in `.lobsmith/predictions/recording/` names the trading process; at its end the
recorder logs how it ended. A session with neither (an older release, another writer) is open while rows arrive.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from lobsmith import clock
from lobsmith.errors import PredictionLogError
from lobsmith.monitoring.log.reader import PredictionLog
from lobsmith.monitoring.log.writer import Ending, LogWriter, log_path
from lobsmith.params import Params
from lobsmith.process import Process
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace


class Announced(Struct, frozen=True, kw_only=True):
    """Content of a session's file while it is logged; `parent` is the trading process."""

    session: str
    source: str
    instrument: str
    started_ns: int
    model: str
    parent: Process


class Status(StrEnum):
    """Status of a session."""

    OPEN = "open"
    CLOSED = "closed"
    CRASHED = "crashed"


class ClientSession(Struct, frozen=True, kw_only=True):
    """A client's run on one instrument.

    Attributes:
        source: of its rows.
        instrument: `venue:symbol`.
        started_ns: UTC.
        process: the client's, for people; empty where unknown.
        seen: whether this machine can determine whether the process runs; not from another machine or before a reboot.
        last_ns: last request to any version, UTC, without times ahead of the clock; None where there was none.
        asked_ns: last request to one version.
    """

    session: str
    source: str
    instrument: str
    started_ns: int
    status: Status = Status.OPEN
    process: str = ""
    seen: bool = True
    last_ns: int | None = None
    asked_ns: int | None = None


def sessions_folder(workspace: Workspace) -> Path:
    """Return the folder of the files of sessions that are being logged."""
    return workspace.predictions / "recording"


def behind_ns(params: Params) -> int:
    """Return how far a log may lag because the workspace's time passes faster than the machine's, ns."""
    return int(2 * params.prediction_log.flush_s * (clock.speed() - 1) * NS_PER_S)


def sessions_of(
    workspace: Workspace, model: str, version: int, sources: Sequence[str], *, now_ns: int, recent_ns: int
) -> list[ClientSession]:
    """Return the sessions of a production model, the oldest first.

    Args:
        version: that `asked_ns` is about.
        now_ns: UTC.
        recent_ns: age of the newest row up to which a session without file and ending is open.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    announced = {file.session: file for file in _announced(workspace, model) if file.source in sources}
    logged, endings = _logged(workspace, model, version, sources, now_ns)
    sessions = {
        file.session: ClientSession(
            session=file.session, source=file.source, instrument=file.instrument, started_ns=file.started_ns
        )
        for file in announced.values()
    }
    sessions |= {session.session: session for session in logged}
    with_status = []
    for name, session in sessions.items():
        seen = True
        if name in endings:
            how, process = endings[name]
            status = Status.CRASHED if how == Ending.CRASHED else Status.CLOSED
        elif name in announced:
            parent = announced[name].parent
            seen = parent.is_here()
            status, process = Status.CRASHED if parent.is_dead() else Status.OPEN, str(parent)
        else:
            fresh = session.last_ns is not None and now_ns - session.last_ns <= recent_ns
            status, process = Status.OPEN if fresh else Status.CLOSED, ""
        with_status.append(replace(session, status=status, process=process, seen=seen))
    return sorted(with_status, key=lambda session: (session.started_ns, session.session))


def close_session(workspace: Workspace, params: Params, model: str, session: str, actor: str) -> None:
    """Log a session as closed whose client crashed, or runs where this machine cannot see it.

    Raises:
        PredictionLogError: there is no such session, its client still runs, or the log cannot be written.
    """
    announced = next((file for file in _announced(workspace, model) if file.session == session), None)
    if announced is not None and announced.parent.is_here() and not announced.parent.is_dead():
        raise PredictionLogError(f"{session}: {announced.parent} has it open; end that process, which closes it")
    with PredictionLog.of(workspace, model) as log:
        if session not in (logged["session"] for logged in log.sessions()):
            raise PredictionLogError(f"{log.path}: no session {session}; see `lobsmith predictions describe --json`")
    with LogWriter.of(workspace, model, params) as writer:
        writer.end(session, Ending.CLOSED, actor, clock.now_ns())


def _announced(workspace: Workspace, model: str) -> list[Announced]:
    files = []
    for path in sessions_folder(workspace).glob("*.json"):
        try:
            files.append(msgspec.json.decode(path.read_bytes(), type=Announced))
        except (OSError, msgspec.MsgspecError):
            # Removed meanwhile, or another user's: its rows decide.
            continue
    return [file for file in files if file.model == model]


def _logged(
    workspace: Workspace, model: str, version: int, sources: Sequence[str], now_ns: int
) -> tuple[list[ClientSession], dict[str, tuple[str, str]]]:
    if not log_path(workspace, model).exists():
        return [], {}
    last = "(SELECT max(asked_ns) FROM predictions WHERE stream = streams.id AND asked_ns <= ?)"
    query = f"""SELECT session, source, instrument, started_ns,
        (SELECT max({last}) FROM streams WHERE streams.session = sessions.id),
        (SELECT max({last}) FROM streams WHERE streams.session = sessions.id AND model = ? AND version = ?)
        FROM sessions WHERE source IN ({", ".join("?" * len(sources))})"""  # noqa: S608
    fields = ("session", "source", "instrument", "started_ns", "last_ns", "asked_ns")
    with PredictionLog.of(workspace, model) as log:
        rows = log._rows(query, (now_ns, now_ns, model, version, *sources))
        endings = {}
        if log._rows("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'endings'"):
            ended = "SELECT sessions.session, how, process FROM endings JOIN sessions ON id = endings.session"
            endings = {name: (how, process) for name, how, process in log._rows(ended)}
    return [msgspec.convert(dict(zip(fields, row, strict=True)), ClientSession) for row in rows], endings
