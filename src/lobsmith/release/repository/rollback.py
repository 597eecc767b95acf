"""Rollback: the version before answers again, and the bad one is quarantined.

The policy is written first. Hashes and signature of the target must hold; it is not validated anew.

| killed after | the repository shows | the next writer                                    |
|--------------|----------------------|----------------------------------------------------|
| `intended`   | the old state        | rolls back                                         |
| `listed`     | the new state        | loads, journals, quarantines the bad version       |
| `loaded`     | the new state        | journals, quarantines the bad version              |
| `recorded`   | the new state        | quarantines the bad version                        |
| `withdrawn`  | the new state        | quarantines the bad version                        |
| `taken out`  | the new state        | has nothing to do                                  |
"""

from contextlib import suppress

from msgspec import Struct, field

from lobsmith.errors import ReleaseError
from lobsmith.release.context import Release
from lobsmith.release.repository import disk_reserve, journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.intent import Intent, close, declare, pending
from lobsmith.release.repository.recovery import account_for, apply_rollback, resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import Writer, sole_writer
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace


class RolledBack(Struct, frozen=True, kw_only=True):
    """The versions from, to and quarantined; from None where nothing was done."""

    model: str
    version_from: int | None
    version_to: int
    quarantined: tuple[int, ...] = field(name="set_aside")


def rollback(
    release: Release,
    model: str,
    *,
    to: int | None = None,
    bad: int | None = None,
    reason: str = "",
    verdicts: tuple[Verdict, ...] = (),
) -> RolledBack:
    """Go back to an older version of a model; a publication in progress is aborted.

    Args:
        release: the context.
        model: the model.
        to: a listed version; by default the active version's fallback, trained on a common instrument.
        bad: the version to take back; nothing is done where it is not active, so a call may be repeated.
        reason, verdicts: for the journal.

    Raises:
        ReleaseError: there is no valid target, and nothing was changed; or the model went back and the rest failed, as
            the message says, and the next writer completes it.
        ServingError: the server does not serve the target or unload the bad version. The rollback is journaled; the
            next writer, or a call with the same `to`, tries again.
        LeaseError: the lease was taken over.
    """
    disk_reserve.free(release.workspace)
    try:
        with sole_writer(release, f"roll back {model}", seize=True) as writer:
            intent = _pending_rollback(release.workspace, model, to, bad)
            if intent is None:
                # Only the intent: while the rest is cleared up, the bad version would go on answering.
                resume(writer)
                active = _active(writer.repository, model)
                if to == active or bad not in (None, active):
                    if release.server is not None:
                        release.server.serve(model, active)
                    return RolledBack(model=model, version_from=None, version_to=active, quarantined=())
                # An unjournaled version could not be journaled as rolled back, and would return.
                with suppress(ReleaseError):
                    account_for(writer, model)
                intent = _intent(writer, model, active, _target(writer.repository, model, to), reason, verdicts)
                with writer.lease.fence():
                    declare(release.workspace, intent)
            return _roll_back(writer, intent)
    finally:
        disk_reserve.keep(release.workspace)


def _roll_back(writer: Writer, intent: Intent) -> RolledBack:
    workspace, entry = writer.release.workspace, intent.entry
    writer.reached(CrashPoint.INTENDED)
    try:
        apply_rollback(writer, intent)
    except (OSError, ReleaseError) as error:
        if entry.version_from in writer.repository.listed(entry.model):
            # Nothing was rolled back. After any later error the next writer completes the rollback.
            close(workspace)
            raise
        message = f"{entry.model} went back to {entry.version_to}, but the rollback is incomplete: {error}"
        raise ReleaseError(message) from error
    with writer.lease.fence():
        close(workspace)
    writer.reached(CrashPoint.CLOSED)
    return RolledBack(
        model=entry.model,
        version_from=entry.version_from,
        version_to=entry.version_to or 0,
        quarantined=intent.leaving,
    )


def _pending_rollback(workspace: Workspace, model: str, to: int | None, bad: int | None) -> Intent | None:
    """Return the intent of the same rollback by a crashed writer, None otherwise."""
    intent = pending(workspace)
    if intent is None or (intent.entry.action, intent.entry.model) != (journal.ROLLED_BACK, model):
        return None
    same = to in (None, intent.entry.version_to) and bad in (None, intent.entry.version_from)
    return intent if same else None


def _active(repository: Repository, model: str) -> int:
    active = repository.active(model)
    if active is None:
        raise ReleaseError(f"{model}: no version is listed, there is nothing to roll back")
    return active


def _target(repository: Repository, model: str, to: int | None) -> int:
    listed = repository.listed(model)
    if to is None:
        fallback = repository.fallback(model)
        if fallback is None:
            _, reasons = repository.valid(model)
            for version in set(listed[:-1]) - reasons.keys():
                other = repository.of_other_market(model, version, listed[-1])
                reasons[version] = (
                    f"{version}: {other}; lobsmith models rollback {version} goes back to it all the same"
                )
            below = "; ".join(reasons[version] for version in listed[:-1] if version in reasons) or "no other is listed"
            raise ReleaseError(f"{model}: there is no good version below {listed[-1]} to go back to: {below}")
        return fallback
    if to not in listed:
        others = ", ".join(map(str, listed[:-1])) or "none"
        raise ReleaseError(
            f"{model}/{to}: not listed, so it cannot be gone back to; listed below the active one: {others}"
        )
    repository.verify(model, to)
    return to


def _intent(writer: Writer, model: str, active: int, target: int, reason: str, verdicts: tuple[Verdict, ...]) -> Intent:
    manifest = manifest_of(writer.repository, model, target)
    return Intent(
        entry=writer.entry(
            journal.ROLLED_BACK,
            model,
            before=active,
            about=target,
            artifact_id=None if manifest is None else manifest.artifact_id,
            verdicts=verdicts,
            reason=reason,
        ),
        leaving=tuple(version for version in writer.repository.versions(model) if target < version <= active),
    )
