"""Rollback: the version that was good before answers again, and the bad one is set aside.

The policy is written first, because that is what every server and every in-process client goes by; nothing is proven
anew, but the hashes and the signature of the version gone back to must hold.

| killed after | the repository shows | the next writer                                        |
|--------------|----------------------|--------------------------------------------------------|
| `intended`   | the old state        | rolls back                                             |
| `listed`     | the new state        | has it served, journals it, sets the bad version aside |
| `loaded`     | the new state        | journals it, sets the bad version aside                |
| `recorded`   | the new state        | sets the bad version aside                             |
| `withdrawn`  | the new state        | sets the bad version aside                             |
| `taken out`  | the new state        | has nothing left to do                                 |
"""

from contextlib import suppress

from msgspec import Struct

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
    """From which version to which, and which were set aside; from None where nothing was to be done."""

    model: str
    version_from: int | None
    version_to: int
    set_aside: tuple[int, ...]


def rollback(
    release: Release,
    model: str,
    *,
    to: int | None = None,
    bad: int | None = None,
    reason: str = "",
    verdicts: tuple[Verdict, ...] = (),
) -> RolledBack:
    """Go back to an older version of a model.

    A publication that is under way is broken off: its writer is refused at the next step.

    Args:
        release: the context.
        model: the model.
        to: a listed version; the active one's fallback by default, which has learnt an instrument that it has too.
        bad: the version to be taken back. Where it is not active any more nothing is done, so that a caller that does
            not know whether an earlier call came through may call again.
        reason: for the journal.
        verdicts: what speaks against the version, for the journal.

    Raises:
        ReleaseError: there is no version to go back to, or it is not sound; nothing was changed. Or the model went back
            and the rest of the work failed, which the message says; the next writer ends it.
        ServingError: the server does not serve the version gone back to, though the policy says so, or does not unload
            the bad one. The rollback is journaled; the next writer, or a call with the same `to`, tries again.
        LeaseError: another process took the lease over.
    """
    disk_reserve.free(release.workspace)
    try:
        with sole_writer(release, f"roll back {model}", seize=True) as writer:
            intent = _begun(release.workspace, model, to, bad)
            if intent is None:
                # Only what was intended: to clear up the rest takes time that a bad version would answer for.
                resume(writer)
                active = _active(writer.repository, model)
                if to == active or bad not in (None, active):
                    if release.server is not None:
                        release.server.serve(model, active)
                    return RolledBack(model=model, version_from=None, version_to=active, set_aside=())
                # What the journal does not know as published it would not know as taken back, and it would come back.
                with suppress(ReleaseError):
                    account_for(writer, model)
                intent = _intent(writer, model, active, _target(writer.repository, model, to), reason, verdicts)
                with writer.lease.fence():
                    declare(release.workspace, intent)
            return _roll_back(writer, intent)
    finally:
        disk_reserve.keep(release.workspace)


def _roll_back(writer: Writer, intent: Intent) -> RolledBack:
    """Do what is intended."""
    workspace, entry = writer.release.workspace, intent.entry
    writer.reached(CrashPoint.INTENDED)
    try:
        apply_rollback(writer, intent)
    except (OSError, ReleaseError) as error:
        if entry.version_from in writer.repository.listed(entry.model):
            # Nothing was rolled back. After any other error the next writer ends what was begun.
            close(workspace)
            raise
        words = f"{entry.model} went back to {entry.version_to}, but not all of it is done: {error}"
        raise ReleaseError(words) from error
    with writer.lease.fence():
        close(workspace)
    writer.reached(CrashPoint.CLOSED)
    return RolledBack(
        model=entry.model,
        version_from=entry.version_from,
        version_to=entry.version_to or 0,
        set_aside=intent.leaving,
    )


def _begun(workspace: Workspace, model: str, to: int | None, bad: int | None) -> Intent | None:
    """Return the same rollback, where one was begun and not ended."""
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
            _, why = repository.valid(model)
            for version in set(listed[:-1]) - why.keys():
                other = repository.of_other_market(model, version, listed[-1])
                why[version] = f"{version}: {other}; lobsmith models rollback {version} goes back to it all the same"
            below = "; ".join(why[version] for version in listed[:-1] if version in why) or "no other is listed"
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
