"""Sessions of live traffic: which are open, which were closed in order, and which crashed.

While a session is recorded its file lies in `.lobsmith/predictions/recording/` and names the trading process; when it
ends, the recorder writes down how. A session with neither, of an older release or of another writer, is judged by its
rows alone: open while they come, closed afterwards.
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
    """What a session's file says for as long as the session is recorded; `parent` is the trading process."""

    session: str
    source: str
    instrument: str
    started_ns: int
    model: str
    parent: Process


class Status(StrEnum):
    """What has become of a session."""

    OPEN = "open"
    CLOSED = "closed"
    CRASHED = "crashed"


class ClientSession(Struct, frozen=True, kw_only=True):
    """A client's run on one instrument.

    Attributes:
        session: its name.
        source: what its rows come from.
        instrument: `venue:symbol`.
        started_ns: UTC.
        status: what has become of it.
        process: the client's, for people; empty where it is not known.
        seen: whether this machine can tell if the process lives; not of another one, or before it was started anew.
        last_ns: when any version was asked last, UTC, times ahead of the clock left out; None where none was.
        asked_ns: the same of one version.
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
    """Return where the files of sessions lie that are being recorded."""
    return workspace.predictions / "recording"


def behind_ns(params: Params) -> int:
    """Return how far a log may be behind only because the workspace's time passes faster than the machine's, ns."""
    return int(2 * params.prediction_log.flush_s * (clock.speed() - 1) * NS_PER_S)


def sessions_of(
    workspace: Workspace, model: str, version: int, sources: Sequence[str], *, now_ns: int, recent_ns: int
) -> list[ClientSession]:
    """Return the sessions of a production model, the oldest first.

    Args:
        workspace: of the log.
        model: the production model.
        version: that `asked_ns` is about.
        sources: which sessions count.
        now_ns: the time, UTC.
        recent_ns: a session that nothing but its rows is known of is open while they are no older.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    announced = {one.session: one for one in _announced(workspace, model) if one.source in sources}
    logged, endings = _logged(workspace, model, version, sources, now_ns)
    found = {
        one.session: ClientSession(
            session=one.session, source=one.source, instrument=one.instrument, started_ns=one.started_ns
        )
        for one in announced.values()
    }
    found |= {one.session: one for one in logged}
    judged = []
    for name, one in found.items():
        seen = True
        if name in endings:
            how, process = endings[name]
            status = Status.CRASHED if how == Ending.CRASHED else Status.CLOSED
        elif name in announced:
            parent = announced[name].parent
            seen = parent.is_here()
            status, process = Status.CRASHED if parent.is_dead() else Status.OPEN, str(parent)
        else:
            fresh = one.last_ns is not None and now_ns - one.last_ns <= recent_ns
            status, process = Status.OPEN if fresh else Status.CLOSED, ""
        judged.append(replace(one, status=status, process=process, seen=seen))
    return sorted(judged, key=lambda one: (one.started_ns, one.session))


def close_session(workspace: Workspace, params: Params, model: str, session: str, who: str) -> None:
    """Say that a session is over whose client crashed, or lives where this machine cannot see it.

    Raises:
        PredictionLogError: there is no such session, its client still runs, or the log cannot be written.
    """
    announced = next((one for one in _announced(workspace, model) if one.session == session), None)
    if announced is not None and announced.parent.is_here() and not announced.parent.is_dead():
        raise PredictionLogError(f"{session}: {announced.parent} has it open; end that process, which closes it")
    with PredictionLog.of(workspace, model) as log:
        if session not in (one["session"] for one in log.sessions()):
            raise PredictionLogError(f"{log.path}: no session {session}; see `lobsmith predictions describe --json`")
    with LogWriter.of(workspace, model, params) as writer:
        writer.end(session, Ending.CLOSED, who, clock.now_ns())


def _announced(workspace: Workspace, model: str) -> list[Announced]:
    found = []
    for path in sessions_folder(workspace).glob("*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Announced))
        except (OSError, msgspec.MsgspecError):
            # Removed meanwhile, or another user's: its rows say what can be said.
            continue
    return [one for one in found if one.model == model]


def _logged(
    workspace: Workspace, model: str, version: int, sources: Sequence[str], now_ns: int
) -> tuple[list[ClientSession], dict[str, tuple[str, str]]]:
    """Return the sessions that the log has, and how each that has ended did."""
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
