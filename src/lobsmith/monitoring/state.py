"""What is true of a model in service: whether a client is connected, and whether rows come.

    state        when
    -----------  -------------------------------------------------------------------------------------------------------
    idle         no live session is open: there never was one, or the last was closed in order
    stopped      a client has crashed and no other has taken over, or rows of an open session have stopped
    starting     the version, or the session, has been there for less than `drift.recent_s`
    warming up   rows come, and windows of the training data and looks are too few to know what is usual
    live         rows come

Of several instruments the gravest state counts: stopped, then starting, then live. Idle, starting and warming up are
no alerts, and no reason for caution: what clients may act on is the mode's business alone.
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
    """What a model in service is in."""

    STARTING = "starting"
    IDLE = "idle"
    WARMING_UP = "warming up"
    LIVE = "live"
    STOPPED = "stopped"


class State(Struct, frozen=True, kw_only=True):
    """A state and why; `live` with nothing to add is all that is well."""

    name: StateName
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name.value

    @property
    def colour(self) -> str:
        """Red for what has stopped, green for what is well, yellow for what is not known yet."""
        if self.name is StateName.STOPPED:
            return "red"
        return "green" if self.name is StateName.LIVE and not self.detail else "yellow"


@dataclass(frozen=True)
class StreamState:
    """One instrument that clients are connected for.

    Attributes:
        instrument: `venue:symbol`.
        learnt: whether the active version has learnt it.
        since_ns: since when clients have been connected without one having closed in order, UTC.
        asked_ns: when the active version was asked last since then, UTC; None where it never was.
        silent: whether its rows have stopped.
        crashed: sessions whose client has crashed and that no later one has taken over.
        state: of this instrument.
    """

    instrument: str
    learnt: bool
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
        """The gravest of all streams'."""
        if not self.streams:
            return State(name=StateName.IDLE, detail="no client is connected")
        order = (StateName.STOPPED, StateName.STARTING, StateName.LIVE)
        gravest = min(self.streams, key=lambda one: (order.index(one.state.name), not one.state.detail))
        if len(self.streams) == 1 or not gravest.state.detail:
            return gravest.state
        return State(name=gravest.state.name, detail=f"{gravest.instrument}: {gravest.state.detail}")

    @property
    def opened(self) -> dict[str, int]:
        """Since when clients have been connected for each instrument that the version has learnt, UTC."""
        return {one.instrument: one.since_ns for one in self.streams if one.learnt}

    @property
    def silent(self) -> tuple[StreamState, ...]:
        """Streams whose rows have stopped."""
        return tuple(one for one in self.streams if one.silent)

    @property
    def asked(self) -> bool:
        """Whether the version has been asked for every one of the streams."""
        return all(one.asked_ns is not None for one in self.streams)

    @property
    def crashed(self) -> tuple[ClientSession, ...]:
        """Sessions whose client has crashed and that no later one has taken over."""
        return tuple(session for one in self.streams for session in one.crashed)


def connected(
    workspace: Workspace, params: Params, active: Manifest, *, now_ns: int, sources: Sources = LIVE
) -> Connected:
    """Return which clients are connected to a model, and whether their rows come.

    Args:
        workspace: of the prediction log.
        params: `drift.recent_s`, `rollback.window_s` and `prediction_log.flush_s` are used.
        active: the version that serves.
        now_ns: the time, UTC.
        sources: which sessions count.

    Raises:
        PredictionLogError: the log cannot be read.
        ReleaseError: the journal cannot be read.
    """
    recent_ns = int(params.drift.recent_s * NS_PER_S)
    found = sessions_of(workspace, active.model, active.version, sources, now_ns=now_ns, recent_ns=recent_ns)
    silent_ns = int(params.rollback.window_s * NS_PER_S) + behind_ns(params)
    learnt = {str(one) for one in active.instruments}
    of = sorted(found, key=lambda one: one.instrument)
    served_ns = serving_since(workspace.journal, active)
    streams = [
        _stream(instrument, list(sessions), active, learnt, served_ns, now_ns, recent_ns, silent_ns)
        for instrument, sessions in groupby(of, key=lambda one: one.instrument)
    ]
    return Connected(tuple(one for one in streams if one is not None))


def state_after(seen: Connected, checks: Sequence[DriftCheck], past_pairs: int) -> State:
    """Return the state after looks for drift: one that lives is warming up while they know too little."""
    state = seen.state
    short = [words for check in checks if (words := warming_up(check, past_pairs))]
    if state.name is not StateName.LIVE or not short:
        return state
    return State(name=StateName.WARMING_UP, detail=short[0])


def state_now(seen: Connected, looked: tuple[int, State | UnsetType] | None, stale_s: float, now_ns: int) -> State:
    """Return the state between two looks for drift.

    Args:
        seen: which clients are connected.
        looked: when the version was last looked at, UTC, and its state after that; None where it never was.
        stale_s: a monitor that has not looked for so long is away, `modes.stale_s`.
        now_ns: the time, UTC.
    """
    state = seen.state
    if state.name is not StateName.LIVE or state.detail:
        return state
    if looked is None:
        return State(name=StateName.WARMING_UP, detail="no look for drift yet; the drift flow takes it")
    looked_ns, after = looked
    age_s = (now_ns - looked_ns) / NS_PER_S
    if age_s > stale_s:
        return State(name=StateName.LIVE, detail=f"the last look for drift was {age_s:.0f} s ago")
    return after if isinstance(after, State) and after.name is StateName.WARMING_UP else state


def warming_up(check: DriftCheck, past_pairs: int) -> str | None:
    """Say how much of the past a look knew of each kind that it knew too little of; None where it knew enough.

    Args:
        look: for drift.
        past_pairs: how many windows of the training data, past pairs and looks are needed, `drift.past_pairs`.
    """
    short = [one for one in check.verdicts if one.finding is Finding.INSUFFICIENT]
    if not short:
        return None
    least = min(short, key=lambda one: one.past)
    if _unlearnt(least):
        return least.reason
    kinds = [one.kind.value for one in short]
    about = "" if len(kinds) == len(Kind) else f" for {' and '.join(kinds)} drift"
    if least.past >= past_pairs:
        return f"{least.past} windows and looks{about}, which are worth too few independent ones"
    return f"{least.past} of {past_pairs} windows and looks{about}"


def _unlearnt(verdict: DriftVerdict) -> bool:
    """Say whether no number of looks will help: the version has no reference to compare rows with."""
    return verdict.kind is Kind.COVARIATE and not (verdict.past or verdict.reference_rows)


def _stream(
    instrument: str,
    sessions: list[ClientSession],
    active: Manifest,
    learnt: set[str],
    served_ns: int,
    now_ns: int,
    recent_ns: int,
    silent_ns: int,
) -> StreamState | None:
    opened = [one for one in sessions if one.status is Status.OPEN and not _left(one, sessions, now_ns - recent_ns)]
    crashed = [one for one in sessions if one.status is Status.CRASHED and not _taken_over(one, sessions)]
    if not (opened or crashed):
        return None
    since_ns = _since(opened or crashed, sessions, recent_ns)
    asked = [one.asked_ns for one in sessions if one.started_ns >= since_ns and one.asked_ns is not None]
    # What it was asked before another version took its place for a while says nothing of now.
    again_ns = served_ns if active.created_ns < served_ns <= now_ns else 0
    asked_ns = max((one for one in asked if one >= again_ns), default=None)
    # Times ahead are those of a clock that was set back since: they make nothing young.
    begun_ns = max((one for one in (since_ns, served_ns) if one <= now_ns), default=now_ns - recent_ns)
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
    known = not learnt or instrument in learnt
    if not known and state.name is StateName.LIVE:
        state = State(name=StateName.LIVE, detail="not learnt by this version, so that no drift is looked for")
    return StreamState(instrument, known, since_ns, asked_ns, silent, tuple(crashed), state)


def alert_connections(workspace: Workspace, active: Manifest, seen: Connected, now_ns: int) -> None:
    """Raise and resolve the alerts on rows that have stopped and on clients that have crashed.

    They are over with the next row; a crash also with a later session that gets rows or is closed in order; and both
    once no client is connected.

    Raises:
        ReleaseError: the alerts cannot be written.
    """
    model, state = active.model, str(seen.state)
    if seen.silent:
        silent = "; ".join(f"{one.instrument}: {one.state.detail}" for one in seen.silent)
        alerts.fire(workspace, alerts.NO_PREDICTIONS, model, silent)
    elif seen.asked:
        alerts.resolve(workspace, alerts.NO_PREDICTIONS, model, state)
    if seen.crashed:
        words = "; ".join(ended_without_closing(one, now_ns) for one in seen.crashed)
        way_out = f"start it again, or lobsmith predictions close {seen.crashed[-1].session}"
        alerts.fire(workspace, alerts.CLIENT_CRASHED, model, f"{words}; {way_out}")
    else:
        alerts.resolve(workspace, alerts.CLIENT_CRASHED, model, state)


def ended_without_closing(session: ClientSession, now_ns: int) -> str:
    """Describe a session whose client has crashed, in one line."""
    rows = "no row" if session.last_ns is None else f"last row {(now_ns - session.last_ns) / NS_PER_S:.0f} s ago"
    return f"session {session.session} of {session.process} ended without closing, {rows}"


def _left(session: ClientSession, sessions: list[ClientSession], since_ns: int) -> bool:
    """Say whether nothing but its file is left of a session that began before the machine was started anew."""
    silent = session.last_ns is None or session.last_ns < since_ns
    return not session.seen and silent and _taken_over(session, sessions)


def _taken_over(session: ClientSession, sessions: list[ClientSession]) -> bool:
    """Say whether a client has come since that got rows, or was closed in order."""
    return any(
        one.started_ns > session.started_ns and (one.last_ns is not None or one.status is Status.CLOSED)
        for one in sessions
    )


def _since(opened: list[ClientSession], sessions: list[ClientSession], recent_ns: int) -> int:
    """Return the start of the oldest open session, or of the run of crashed ones that it follows without a pause.

    A client that crashes and is started again every few minutes is not for ever a new one.
    """
    since_ns = min(one.started_ns for one in opened)
    for one in reversed(sessions):
        ended_ns = one.started_ns if one.last_ns is None else one.last_ns
        if one.status is Status.CRASHED and one.started_ns < since_ns and since_ns - ended_ns <= recent_ns:
            since_ns = one.started_ns
    return since_ns
