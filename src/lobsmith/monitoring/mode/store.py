"""Where modes lie: `.lobsmith/modes/<model>.json`, and the journal of every change beside it.

The record is written first, with the change in it as not journaled yet; then the journal; then the record without it. A
process that is killed in between leaves a mode that is in force and a line that the next writer adds, and that readers
of the journal get from the record until then. The journal last: a disk that refuses it must not keep a mode from
getting more cautious.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from lobsmith import clock, jsonl
from lobsmith.drift.verdict import DriftCheck, Finding
from lobsmith.errors import ModeError, ReleaseError
from lobsmith.files import exclusive_lock, write_atomic
from lobsmith.monitoring import alerts
from lobsmith.monitoring.mode import machine
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.machine import Mode, ModeChange, PublishedMode, asks_retrain, counted_anew, transition
from lobsmith.monitoring.state import State
from lobsmith.params import Params
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import may_produce
from lobsmith.workspace import Workspace

_LOCK_DEADLINE_S = 10.0


class ModeUpdate(NamedTuple):
    """A record before and after somebody acted on it, and whether a retrain is to be opened now."""

    before: PublishedMode | None
    after: PublishedMode
    retrain: bool = False

    @property
    def changed(self) -> bool:
        """Whether the mode is another one."""
        return self.before is None or self.before.mode is not self.after.mode


def apply(
    workspace: Workspace,
    params: Params,
    check: DriftCheck,
    win_rates: HitRates | None,
    who: str,
    *,
    now_ns: int | None = None,
    state: State | None = None,
) -> ModeUpdate:
    """Take one more look for drift into account; the same look again changes nothing.

    Where the change says so, the caller opens a retrain, and calls `forget_retrain` where it could not.

    Args:
        workspace: the project's folders.
        params: `modes` is used.
        look: what was found.
        win_rates: of the look's version; None keeps those that were counted before.
        who: a flow or a user, for the journal.
        now_ns: the time, UTC; None takes the clock.
        state: of the model, after the look.

    Raises:
        ModeError: the record cannot be read or written.
        ReleaseError: the journal cannot be; where the record could be written, it is in force.
    """
    now = clock.now_ns() if now_ns is None else now_ns
    with _alone(workspace):
        before = _last(workspace, check.model)
        after = transition(before, check, params.modes, now)
        retrain = asks_retrain(before, after, params.modes, now)
        if retrain:
            after = replace(after, retrain_asked_ns=now)
        if win_rates is not None:
            after = replace(after, win_rates=win_rates)
        if state is not None:
            after = replace(after, state=state)
        return ModeUpdate(before, _keep(workspace, after, _changed(before, after, who, now)), retrain)


def wait(workspace: Workspace, model: str, version: int, state: State, who: str, now_ns: int) -> ModeUpdate:
    """Keep the record fresh while there is nothing to look at; see `machine.wait`.

    Raises:
        ModeError: the record cannot be read or written.
        ReleaseError: the journal cannot be.
    """
    with _alone(workspace):
        before = _last(workspace, model)
        after = machine.wait(before, model, version, state, now_ns)
        return ModeUpdate(before, _keep(workspace, after, _changed(before, after, who, now_ns)))


def set_mode(workspace: Workspace, model: str, mode: Mode, reason: str, who: str) -> ModeUpdate:
    """Set a mode by hand. Until `set_auto` nothing takes it back; looks for drift may only make it more cautious.

    Raises:
        ModeError: no reason is given, the model serves nothing, or the record cannot be written.
        ReleaseError: the journal cannot be written; the mode is in force where the record could be.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise ModeError(f"{model}: a mode set by hand needs a reason; pass --reason")
    now = clock.now_ns()
    with _alone(workspace):
        try:
            before = _last(workspace, model)
        except ModeError:
            # This is the way out of a spoilt record.
            before = _from_journal(workspace, model)
        version = Repository.of(workspace).active(model) or (before.version if before else None)
        if version is None:
            raise ModeError(f"{model}: serves nothing, there is no mode to set; see `lobsmith status`")
        if before is None:
            after = PublishedMode(model=model, version=version, mode=mode, since_ns=now, reason=reason, held=True)
        else:
            since_ns = before.since_ns if before.mode is mode else now
            after = replace(counted_anew(before, version), mode=mode, since_ns=since_ns, reason=reason, held=True)
        return ModeUpdate(before, _keep(workspace, after, _change(before, after, reason, who, now)))


def set_auto(workspace: Workspace, model: str, reason: str, who: str) -> ModeUpdate:
    """Let looks for drift set the mode again: it stays what it is until they have counted anew.

    Raises:
        ModeError: there is no record, or it cannot be read or written.
        ReleaseError: the journal cannot be written; the record is in force.
    """
    with _alone(workspace):
        before = _last(workspace, model)
        if before is None:
            raise ModeError(f"{model}: has no mode yet; the monitor sets it with its first look for drift")
        if not before.held:
            return ModeUpdate(before, before)
        after = replace(counted_anew(before, before.version), held=False)
        change = _change(before, after, " ".join(reason.split()) or "set by hand no longer", who, clock.now_ns())
        return ModeUpdate(before, _keep(workspace, after, change))


def forget_retrain(workspace: Workspace, model: str) -> None:
    """Say that the retrain that was asked for could not be opened: the next look that finds drift asks again.

    Raises:
        ModeError: the record cannot be read or written.
    """
    with _alone(workspace):
        before = _last(workspace, model)
        if before is not None:
            _write(workspace, replace(before, retrain_asked_ns=None))


def read_mode(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the record of a model, None where there is none.

    Raises:
        ModeError: it cannot be read, or it is none.
    """
    path = state_path(workspace, model)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode cannot be told") from error
    found = decode_mode(content)
    if found is None or found.model != model:
        raise ModeError(f"{path}: no record of a mode; set one: `lobsmith mode set MODE --model {model} --reason WHY`")
    return found


def last_known(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the record of a model, or what the journal said last: a record that is lost or spoilt calms nobody.

    Raises:
        ModeError: the record cannot be read, and the journal has no line of the model.
        ReleaseError: neither can be read.
    """
    try:
        return _last(workspace, model)
    except ModeError:
        found = _from_journal(workspace, model)
        if found is None:
            raise
        return found


def decode_mode(content: bytes) -> PublishedMode | None:
    """Return the record that a file or a page is, None where it is none: clients then act as without a monitor."""
    try:
        return jsonl.decode(content, PublishedMode)
    except msgspec.DecodeError:
        return None


def changes(workspace: Workspace, model: str) -> list[ModeChange]:
    """Return what was journaled of a model, and what is in force and not journaled yet, the oldest first.

    Raises:
        ReleaseError: the journal cannot be read.
    """
    journaled = _journaled(workspace, model)
    try:
        found = read_mode(workspace, model)
    except ModeError:
        found = None
    return journaled + [one for one in (found.unjournaled if found else ()) if one not in journaled]


def mode_at(workspace: Workspace, model: str, time_ns: int) -> ModeChange | None:
    """Return the change that made the mode what it was at a time, UTC; None where there was none yet.

    Raises:
        ReleaseError: the journal cannot be read.
    """
    return next((one for one in reversed(changes(workspace, model)) if one.time_ns <= time_ns), None)


def state_path(workspace: Workspace, model: str) -> Path:
    """Return where the record of a production model lies.

    Raises:
        ModeError: no production model may have this name.
    """
    if not (Repository.is_name(model) and may_produce(model)):
        raise ModeError(f"{model!r} is not a production model's name, and has no mode")
    return workspace.modes / f"{model}.json"


def journal_path(workspace: Workspace) -> Path:
    """Return where every change of any model's mode is journaled."""
    return workspace.modes / "journal.jsonl"


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    path = workspace.modes / "modes.lock"
    try:
        with exclusive_lock(path, _LOCK_DEADLINE_S):
            yield
    except TimeoutError as error:
        raise ModeError(f"{path}: locked for {_LOCK_DEADLINE_S:g} s; end the process that holds it") from error
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode could not be written") from error


def _last(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the record; where it is gone, what the journal says, so that to delete a file calms nothing."""
    return read_mode(workspace, model) or _from_journal(workspace, model)


def _from_journal(workspace: Workspace, model: str) -> PublishedMode | None:
    journaled = _journaled(workspace, model)
    if not journaled:
        return None
    last = journaled[-1]
    return PublishedMode(
        model=model,
        version=last.version,
        mode=last.mode_to,
        since_ns=last.time_ns,
        reason=last.reason,
        held=last.held,
    )


def _journaled(workspace: Workspace, model: str) -> list[ModeChange]:
    return [one for one in journal.read_lines(journal_path(workspace), ModeChange) if one.model == model]


def _changed(before: PublishedMode | None, after: PublishedMode, who: str, now_ns: int) -> ModeChange | None:
    """Return the line of a look after which the mode is another one, None where it is not."""
    if before is not None and before.mode is after.mode:
        return None
    return _change(before, after, after.reason, who, now_ns)


def _change(before: PublishedMode | None, after: PublishedMode, reason: str, who: str, now_ns: int) -> ModeChange:
    return ModeChange(
        time_ns=now_ns,
        model=after.model,
        version=after.version,
        mode_from=None if before is None else before.mode,
        mode_to=after.mode,
        reason=reason,
        findings=after.findings,
        who=who,
        held=after.held,
    )


def _keep(workspace: Workspace, after: PublishedMode, change: ModeChange | None) -> PublishedMode:
    """Put a record in force and see to it that every change is journaled, those of a writer that crashed too."""
    due = after.unjournaled + (() if change is None else (change,))
    after = replace(after, unjournaled=due)
    _write(workspace, after)
    if not due:
        return after
    try:
        journaled = _journaled(workspace, after.model)
    except ReleaseError:
        # A spoilt line is reported by every read of the journal, and stops no later one: at worst one comes twice.
        journaled = []
    for one in due:
        if one not in journaled:
            journal.append(journal_path(workspace), one)
    after = replace(after, unjournaled=())
    _write(workspace, after)
    return after


def _write(workspace: Workspace, record: PublishedMode) -> None:
    path = state_path(workspace, record.model)
    try:
        write_atomic(path, msgspec.json.encode(record))
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode could not be written") from error


def alert_mode(workspace: Workspace, change: ModeUpdate) -> None:
    """Raise and resolve the alerts on drift and on missing data, after a look.

    Drift is over once the mode is normal again, not with the first look that finds none. Missing data is over with the
    first look that had some.

    Raises:
        ReleaseError: the alerts cannot be written.
    """
    after = change.after
    found = set(after.findings.values())
    if after.mode is Mode.NORMAL:
        alerts.resolve(workspace, alerts.DRIFT, after.model, after.reason)
    elif Finding.DRIFT in found:
        alerts.fire(workspace, alerts.DRIFT, after.model, f"version {after.version} is {after.mode}: {after.last_look}")
    if Finding.MISSING in found or not found:
        alerts.fire(workspace, alerts.NO_ROWS, after.model, f"version {after.version}: {after.last_look}")
    else:
        alerts.resolve(workspace, alerts.NO_ROWS, after.model)
