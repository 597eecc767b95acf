"""State of a model in service: whether a client is connected, and whether rows arrive.

    state        when
    -----------  -------------------------------------------------------------------------------------------------------
    idle         no live session is open: there never was one, or the last was closed in order
    stopped      a client has crashed and no other has taken over, or rows of an open session have stopped
    starting     the version, or the session, is younger than `drift.recent_s`
    warming up   rows arrive; windows of the training data and checks are too few for a null distribution
    live         rows arrive

Of several instruments the gravest state counts: stopped, then starting, then live. Idle, starting and warming up fire
no alert and do not change the mode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from msgspec import Struct, UnsetType

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind
from lobsmith.monitoring import alerts
from lobsmith.monitoring.live_evaluation import LIVE, Sources
from lobsmith.monitoring.log.sessions import ClientSession, Status, behind_ns, sessions_of
from lobsmith.params import Params
from lobsmith.release.repository.journal import serving_since
from lobsmith.release.version.manifest import Manifest
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace


class StateName(StrEnum):
    """States of a model in service."""

    STARTING = "starting"
    IDLE = "idle"
    WARMING_UP = "warming up"
    LIVE = "live"
    STOPPED = "stopped"


class State(Struct, frozen=True, kw_only=True):
    """A state and its reason; all is well in `live` without detail."""

    name: StateName
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name.value

    @property
    def colour(self) -> str:
        """Rich's colour: red where stopped, green where all is well, `yellow` (amber) where unknown."""
        if self.name is StateName.STOPPED:
            return "red"
        return "green" if self.name is StateName.LIVE and not self.detail else "yellow"


@dataclass(frozen=True)
class StreamState:
    """One instrument with connected clients.

    Attributes:
        trained_on: whether the active version was trained on it.
        since_ns: start of the unbroken time with a client, UTC.
        asked_ns: last request to the active version since then, UTC; None where there was none.
        silent: whether its rows have stopped.
        crashed: sessions of crashed clients that no later session has replaced.
    """

    instrument: str
    trained_on: bool
    since_ns: int
    asked_ns: int | None
    silent: bool
    crashed: tuple[ClientSession, ...]
    state: State


@dataclass(frozen=True)
class Connected:
    """The streams of a model in service; none where it is idle."""

    streams: tuple[StreamState, ...]

    @property
    def state(self) -> State:
        """The gravest state of all streams."""
        if not self.streams:
            return State(name=StateName.IDLE, detail="no client is connected")
        order = (StateName.STOPPED, StateName.STARTING, StateName.LIVE)
        gravest = min(self.streams, key=lambda stream: (order.index(stream.state.name), not stream.state.detail))
        if len(self.streams) == 1 or not gravest.state.detail:
            return gravest.state
        return State(name=gravest.state.name, detail=f"{gravest.instrument}: {gravest.state.detail}")

    @property
    def opened(self) -> dict[str, int]:
        """Start of the unbroken time with a client, UTC, for each instrument that the version was trained on."""
        return {stream.instrument: stream.since_ns for stream in self.streams if stream.trained_on}

    @property
    def silent(self) -> tuple[StreamState, ...]:
        """Streams whose rows have stopped."""
        return tuple(stream for stream in self.streams if stream.silent)

    @property
    def asked(self) -> bool:
        """Whether the version has had a request of every stream."""
        return all(stream.asked_ns is not None for stream in self.streams)

    @property
    def crashed(self) -> tuple[ClientSession, ...]:
        """Sessions of crashed clients that no later session has replaced."""
        return tuple(session for stream in self.streams for session in stream.crashed)


def connected(
    workspace: Workspace, params: Params, active: Manifest, *, now_ns: int, sources: Sources = LIVE
) -> Connected:
    """Return the connected clients of the active version, and whether their rows arrive.

    Args:
        params: `drift.recent_s`, `rollback.window_s` and `prediction_log` are used.
        now_ns: UTC.
        sources: of the sessions that count.

    Raises:
        PredictionLogError: the log cannot be read.
        ReleaseError: the journal cannot be read.
    """
    recent_ns = int(params.drift.recent_s * NS_PER_S)
    sessions = sessions_of(workspace, active.model, active.version, sources, now_ns=now_ns, recent_ns=recent_ns)
    silent_ns = int(params.rollback.window_s * NS_PER_S) + behind_ns(params)
    trained_on = {str(trained) for trained in active.instruments}
    ordered = sorted(sessions, key=lambda session: session.instrument)
    served_ns = serving_since(workspace.journal, active)
    streams = [
        _stream(instrument, list(group), active, trained_on, served_ns, now_ns, recent_ns, silent_ns)
        for instrument, group in groupby(ordered, key=lambda session: session.instrument)
    ]
    return Connected(tuple(stream for stream in streams if stream is not None))


def state_after(connections: Connected, checks: Sequence[DriftCheck], past_pairs: int) -> State:
    """Return the state after drift checks: a live model is warming up while history is insufficient."""
    state = connections.state
    short = [text for check in checks if (text := warming_up(check, past_pairs))]
    if state.name is not StateName.LIVE or not short:
        return state
    return State(name=StateName.WARMING_UP, detail=short[0])


def state_now(
    connections: Connected, last_check: tuple[int, State | UnsetType] | None, stale_s: float, now_ns: int
) -> State:
    """Return the state between two drift checks.

    Args:
        connections: the connected clients.
        last_check: time of the version's last check, UTC, and the state after it.
        stale_s: age of the last check from which the mode is stale, `modes.stale_s`.
    """
    state = connections.state
    if state.name is not StateName.LIVE or state.detail:
        return state
    if last_check is None:
        return State(name=StateName.WARMING_UP, detail="no drift check yet; the drift flow runs it")
    checked_ns, after = last_check
    age_s = (now_ns - checked_ns) / NS_PER_S
    if age_s > stale_s:
        return State(name=StateName.LIVE, detail=f"the last drift check was {age_s:.0f} s ago")
    return after if isinstance(after, State) and after.name is StateName.WARMING_UP else state


def warming_up(check: DriftCheck, past_pairs: int) -> str | None:
    """Describe the insufficient history of a check, of `past_pairs` windows and checks; None where it sufficed."""
    short = [verdict for verdict in check.verdicts if verdict.finding is Finding.INSUFFICIENT]
    if not short:
        return None
    least = min(short, key=lambda verdict: verdict.past)
    if _without_reference(least):
        return least.reason
    kinds = [verdict.kind.value for verdict in short]
    about = "" if len(kinds) == len(Kind) else f" for {' and '.join(kinds)} drift"
    if least.past >= past_pairs:
        return f"{least.past} windows and checks{about}, which are worth too few independent ones"
    return f"{least.past} of {past_pairs} windows and checks{about}"


def _without_reference(verdict: DriftVerdict) -> bool:
    """Return whether the version has no reference, so that further checks do not help."""
    return verdict.kind is Kind.COVARIATE and not (verdict.past or verdict.reference_rows)


def _stream(
    instrument: str,
    sessions: list[ClientSession],
    active: Manifest,
    trained_on: set[str],
    served_ns: int,
    now_ns: int,
    recent_ns: int,
    silent_ns: int,
) -> StreamState | None:
    opened = [
        session
        for session in sessions
        if session.status is Status.OPEN and not _is_leftover(session, sessions, now_ns - recent_ns)
    ]
    crashed = [
        session for session in sessions if session.status is Status.CRASHED and not _taken_over(session, sessions)
    ]
    if not (opened or crashed):
        return None
    since_ns = _since(opened or crashed, sessions, recent_ns)
    asked = [
        session.asked_ns for session in sessions if session.started_ns >= since_ns and session.asked_ns is not None
    ]
    # Requests from before another version served meanwhile do not count.
    again_ns = served_ns if active.created_ns < served_ns <= now_ns else 0
    asked_ns = max((time_ns for time_ns in asked if time_ns >= again_ns), default=None)
    # Times ahead come from a clock that was set back since: ignored.
    begun_ns = max((time_ns for time_ns in (since_ns, served_ns) if time_ns <= now_ns), default=now_ns - recent_ns)
    silent = now_ns - begun_ns >= recent_ns if asked_ns is None else now_ns - asked_ns > silent_ns
    if not opened:
        state = State(name=StateName.STOPPED, detail=ended_without_closing(crashed[-1], now_ns))
    elif silent:
        when = "never" if asked_ns is None else f"{(now_ns - asked_ns) / NS_PER_S:.0f} s ago"
        state = State(name=StateName.STOPPED, detail=f"version {active.version} was asked {when}, as far as logged")
    elif now_ns - begun_ns < recent_ns:
        what = "the session was opened" if begun_ns == since_ns else f"version {active.version} began to serve"
        state = State(name=StateName.STARTING, detail=f"{what} {(now_ns - begun_ns) / NS_PER_S:.0f} s ago")
    else:
        state = State(name=StateName.LIVE)
    known = not trained_on or instrument in trained_on
    if not known and state.name is StateName.LIVE:
        state = State(name=StateName.LIVE, detail="not trained on by this version, so that drift is not checked")
    return StreamState(instrument, known, since_ns, asked_ns, silent, tuple(crashed), state)


def alert_connections(workspace: Workspace, active: Manifest, connections: Connected, now_ns: int) -> None:
    """Fire and resolve the alerts on stopped rows and crashed clients.

    The next row resolves both, as does no connected client; a later session that gets rows or is closed in order
    resolves a crash.

    Raises:
        ReleaseError: the alerts cannot be written.
    """
    model, state = active.model, str(connections.state)
    if connections.silent:
        silent = "; ".join(f"{stream.instrument}: {stream.state.detail}" for stream in connections.silent)
        alerts.fire(workspace, alerts.NO_PREDICTIONS, model, silent)
    elif connections.asked:
        alerts.resolve(workspace, alerts.NO_PREDICTIONS, model, state)
    if connections.crashed:
        crashes = "; ".join(ended_without_closing(session, now_ns) for session in connections.crashed)
        way_out = f"start it again, or lobsmith predictions close {connections.crashed[-1].session}"
        alerts.fire(workspace, alerts.CLIENT_CRASHED, model, f"{crashes}; {way_out}")
    else:
        alerts.resolve(workspace, alerts.CLIENT_CRASHED, model, state)


def ended_without_closing(session: ClientSession, now_ns: int) -> str:
    """Describe a session whose client has crashed, in one line."""
    rows = "no row" if session.last_ns is None else f"last row {(now_ns - session.last_ns) / NS_PER_S:.0f} s ago"
    return f"session {session.session} of {session.process} ended without closing, {rows}"


def _is_leftover(session: ClientSession, sessions: list[ClientSession], since_ns: int) -> bool:
    """Return whether a session from before a reboot is left with its file only."""
    silent = session.last_ns is None or session.last_ns < since_ns
    return not session.seen and silent and _taken_over(session, sessions)


def _taken_over(session: ClientSession, sessions: list[ClientSession]) -> bool:
    """Return whether a later session got rows, or was closed in order."""
    return any(
        later.started_ns > session.started_ns and (later.last_ns is not None or later.status is Status.CLOSED)
        for later in sessions
    )


def _since(opened: list[ClientSession], sessions: list[ClientSession], recent_ns: int) -> int:
    """Return the start of the oldest open session, or of the unbroken run of crashed sessions before it."""
    since_ns = min(session.started_ns for session in opened)
    for session in reversed(sessions):
        ended_ns = session.started_ns if session.last_ns is None else session.last_ns
        if session.status is Status.CRASHED and session.started_ns < since_ns and since_ns - ended_ns <= recent_ns:
            since_ns = session.started_ns
    return since_ns
