"""Store of modes: `.lobsmith/modes/<model>.json`, and the journal of every change beside it.

Written in this order: the mode with its unjournaled change, the journal, the mode without. After a crash in between the
mode is in force; readers take the change from it until the next writer journals it. A disk that refuses the journal
does not keep a mode from getting more cautious.
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
    """A mode before and after an update, and whether to start a retrain now."""

    before: PublishedMode | None
    after: PublishedMode
    retrain: bool = False

    @property
    def changed(self) -> bool:
        """Whether the mode differs."""
        return self.before is None or self.before.mode is not self.after.mode


def apply(
    workspace: Workspace,
    params: Params,
    check: DriftCheck,
    hit_rates: HitRates | None,
    actor: str,
    *,
    now_ns: int | None = None,
    state: State | None = None,
) -> ModeUpdate:
    """Apply one more drift check; the same check again changes nothing.

    Where `retrain` is set the caller starts one, and calls `forget_retrain` if that failed.

    Args:
        hit_rates: hit rates of the checked version; None keeps those before.
        actor: a flow or a user, for the journal.
        now_ns: UTC; None takes the clock.
        state: after the check.

    Raises:
        ModeError: the mode cannot be read or written.
        ReleaseError: the journal cannot be; a mode that was written is in force.
    """
    now = clock.now_ns() if now_ns is None else now_ns
    with _locked(workspace):
        before = _last_mode(workspace, check.model)
        after = transition(before, check, params.modes, now)
        retrain = asks_retrain(before, after, params.modes, now)
        if retrain:
            after = replace(after, retrain_asked_ns=now)
        if hit_rates is not None:
            after = replace(after, win_rates=hit_rates)
        if state is not None:
            after = replace(after, state=state)
        return ModeUpdate(before, _publish(workspace, after, _changed(before, after, actor, now)), retrain)


def wait(workspace: Workspace, model: str, version: int, state: State, actor: str, now_ns: int) -> ModeUpdate:
    """Refresh the mode's heartbeat while there is nothing to check; see `machine.wait`.

    Raises:
        ModeError: the mode cannot be read or written.
        ReleaseError: the journal cannot be.
    """
    with _locked(workspace):
        before = _last_mode(workspace, model)
        after = machine.wait(before, model, version, state, now_ns)
        return ModeUpdate(before, _publish(workspace, after, _changed(before, after, actor, now_ns)))


def set_mode(workspace: Workspace, model: str, mode: Mode, reason: str, actor: str) -> ModeUpdate:
    """Set a mode by hand. Until `set_auto`, drift checks may only make it more cautious.

    Raises:
        ModeError: no reason is given, the model serves nothing, or the mode cannot be written.
        ReleaseError: the journal cannot be written; a mode that was written is in force.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise ModeError(f"{model}: a mode set by hand needs a reason; pass --reason")
    now = clock.now_ns()
    with _locked(workspace):
        try:
            before = _last_mode(workspace, model)
        except ModeError:
            # The way out of a corrupt file.
            before = _from_journal(workspace, model)
        version = Repository.of(workspace).active(model) or (before.version if before else None)
        if version is None:
            raise ModeError(f"{model}: serves nothing, there is no mode to set; see `lobsmith status`")
        if before is None:
            after = PublishedMode(model=model, version=version, mode=mode, since_ns=now, reason=reason, held=True)
        else:
            since_ns = before.since_ns if before.mode is mode else now
            after = replace(counted_anew(before, version), mode=mode, since_ns=since_ns, reason=reason, held=True)
        return ModeUpdate(before, _publish(workspace, after, _change(before, after, reason, actor, now)))


def set_auto(workspace: Workspace, model: str, reason: str, actor: str) -> ModeUpdate:
    """Let drift checks set the mode again: it stays until they have counted anew.

    Raises:
        ModeError: there is no mode, or it cannot be read or written.
        ReleaseError: the journal cannot be written; the mode is in force.
    """
    with _locked(workspace):
        before = _last_mode(workspace, model)
        if before is None:
            raise ModeError(f"{model}: has no mode yet; the monitor sets it with its first drift check")
        if not before.held:
            return ModeUpdate(before, before)
        after = replace(counted_anew(before, before.version), held=False)
        change = _change(before, after, " ".join(reason.split()) or "set by hand no longer", actor, clock.now_ns())
        return ModeUpdate(before, _publish(workspace, after, change))


def forget_retrain(workspace: Workspace, model: str) -> None:
    """Unset the time of a retrain that could not be started: the next check with drift asks again.

    Raises:
        ModeError: the mode cannot be read or written.
    """
    with _locked(workspace):
        before = _last_mode(workspace, model)
        if before is not None:
            _write(workspace, replace(before, retrain_asked_ns=None))


def read_mode(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the mode of a model, None where there is none.

    Raises:
        ModeError: it cannot be read, or does not decode.
    """
    path = state_path(workspace, model)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode cannot be read") from error
    published = decode_mode(content)
    if published is None or published.model != model:
        raise ModeError(f"{path}: does not hold a mode; set it: `lobsmith mode set MODE --model {model} --reason WHY`")
    return published


def last_known(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the mode of a model, or the journal's last: a lost or corrupt file must not reset it.

    Raises:
        ModeError: the mode cannot be read, and the journal has no line of the model.
        ReleaseError: neither can be read.
    """
    try:
        return _last_mode(workspace, model)
    except ModeError:
        journaled = _from_journal(workspace, model)
        if journaled is None:
            raise
        return journaled


def decode_mode(content: bytes) -> PublishedMode | None:
    """Decode a mode, None where that fails: clients then act as without a monitor."""
    try:
        return jsonl.decode(content, PublishedMode)
    except msgspec.DecodeError:
        return None


def changes(workspace: Workspace, model: str) -> list[ModeChange]:
    """Return a model's changes, journaled or in force and not journaled yet, the oldest first.

    Raises:
        ReleaseError: the journal cannot be read.
    """
    journaled = _journaled(workspace, model)
    try:
        published = read_mode(workspace, model)
    except ModeError:
        published = None
    return journaled + [change for change in (published.unjournaled if published else ()) if change not in journaled]


def mode_at(workspace: Workspace, model: str, time_ns: int) -> ModeChange | None:
    """Return the last change at or before a time, UTC; None where there is none.

    Raises:
        ReleaseError: the journal cannot be read.
    """
    return next((change for change in reversed(changes(workspace, model)) if change.time_ns <= time_ns), None)


def state_path(workspace: Workspace, model: str) -> Path:
    """Return the path of a production model's mode.

    Raises:
        ModeError: not the name of a production model.
    """
    if not (Repository.is_name(model) and may_produce(model)):
        raise ModeError(f"{model!r} is not a production model's name, and has no mode")
    return workspace.modes / f"{model}.json"


def journal_path(workspace: Workspace) -> Path:
    """Return the path of the journal of all models' changes."""
    return workspace.modes / "journal.jsonl"


@contextmanager
def _locked(workspace: Workspace) -> Iterator[None]:
    path = workspace.modes / "modes.lock"
    try:
        with exclusive_lock(path, _LOCK_DEADLINE_S):
            yield
    except TimeoutError as error:
        raise ModeError(f"{path}: locked for {_LOCK_DEADLINE_S:g} s; end the process that holds it") from error
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode could not be written") from error


def _last_mode(workspace: Workspace, model: str) -> PublishedMode | None:
    """Return the mode, or the journal's last where the file is gone: deleting it must not reset the mode."""
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
    return [change for change in journal.read_lines(journal_path(workspace), ModeChange) if change.model == model]


def _changed(before: PublishedMode | None, after: PublishedMode, actor: str, now_ns: int) -> ModeChange | None:
    if before is not None and before.mode is after.mode:
        return None
    return _change(before, after, after.reason, actor, now_ns)


def _change(before: PublishedMode | None, after: PublishedMode, reason: str, actor: str, now_ns: int) -> ModeChange:
    return ModeChange(
        time_ns=now_ns,
        model=after.model,
        version=after.version,
        mode_from=None if before is None else before.mode,
        mode_to=after.mode,
        reason=reason,
        findings=after.findings,
        actor=actor,
        held=after.held,
    )


def _publish(workspace: Workspace, after: PublishedMode, change: ModeChange | None) -> PublishedMode:
    """Write a mode and journal its changes, those of a crashed writer included."""
    due = after.unjournaled + (() if change is None else (change,))
    after = replace(after, unjournaled=due)
    _write(workspace, after)
    if not due:
        return after
    try:
        journaled = _journaled(workspace, after.model)
    except ReleaseError:
        # Every read of the journal reports a corrupt line; at worst a line comes twice.
        journaled = []
    for line in due:
        if line not in journaled:
            journal.append(journal_path(workspace), line)
    after = replace(after, unjournaled=())
    _write(workspace, after)
    return after


def _write(workspace: Workspace, published: PublishedMode) -> None:
    path = state_path(workspace, published.model)
    try:
        write_atomic(path, msgspec.json.encode(published))
    except OSError as error:
        raise ModeError(f"{path}: {error.strerror}; the mode could not be written") from error


def alert_mode(workspace: Workspace, change: ModeUpdate) -> None:
    """Fire and resolve the alerts on drift and on missing data, after a check.

    Drift is resolved once the mode is normal, missing data by the first check with data.

    Raises:
        ReleaseError: the alerts cannot be written.
    """
    after = change.after
    findings = set(after.findings.values())
    if after.mode is Mode.NORMAL:
        alerts.resolve(workspace, alerts.DRIFT, after.model, after.reason)
    elif Finding.DRIFT in findings:
        alerts.fire(workspace, alerts.DRIFT, after.model, f"version {after.version} is {after.mode}: {after.last_look}")
    if Finding.MISSING in findings or not findings:
        alerts.fire(workspace, alerts.NO_ROWS, after.model, f"version {after.version}: {after.last_look}")
    else:
        alerts.resolve(workspace, alerts.NO_ROWS, after.model)
