"""Recovery: a writer completes or undoes what a crashed writer left behind."""

from contextlib import suppress

from msgspec import structs

from lobsmith.errors import ServingError
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.intent import Intent, close, pending
from lobsmith.release.repository.removal import delete_version, quarantine, retire, withdraw
from lobsmith.release.repository.writer import Writer
from lobsmith.release.version.names import companions
from lobsmith.release.version.triton_config import CONFIG

CRASHED = "its publisher died before it was listed"
"""Prefix of the reason of a refusal by a crash, which says nothing about the version."""


def clear_up(writer: Writer, model: str) -> None:
    """Recover a model's folder, staging and journal from a crash.

    The intent is completed: rollbacks and removals are applied, a listed publication is journaled, an unlisted one
    refused. Staging and half-written configurations are deleted. A version neither listed nor published by the journal
    is quarantined, or deleted where its removal is journaled; a listed one without an entry is journaled.

    Raises:
        ReleaseError: configuration, intent or journal is unreadable.
        OSError: a folder cannot be changed.
    """
    resume(writer)
    writer.sweep()
    tidy(writer, model)


def resume(writer: Writer) -> None:
    """Complete or undo the intent of a crashed writer.

    Raises:
        ReleaseError: configuration, intent or journal is unreadable.
        OSError: a folder cannot be changed.
    """
    intent = pending(writer.release.workspace)
    if intent is None:
        return
    if intent.entry.action in journal.ACTIVATING:
        _resolve_publication(writer, intent)
    else:
        # Journal and policy are right even if the server is gone for good.
        with suppress(ServingError):
            (apply_rollback if intent.entry.action == journal.ROLLED_BACK else apply_removal)(writer, intent)
    close(writer.release.workspace)
    writer.reached(CrashPoint.CLOSED)


def tidy(writer: Writer, model: str) -> None:
    """Clear up one model by disk and journal, without an intent; see `clear_up`."""
    repository = writer.repository
    home = repository.config_path(model).parent
    if not home.is_dir():
        return
    for leftover in home.glob(f".{CONFIG}.*"):
        leftover.unlink()
    account_for(writer, model)
    listed = repository.listed(model)
    status_of = writer.version_status(model)
    for version in repository.versions(model):
        status = status_of.get(version)
        if status in journal.ACTIVATING or version in listed:
            continue
        with suppress(ServingError):
            withdraw(writer, model, [version])
            _remove(writer, model, version, status)


def account_for(writer: Writer, model: str) -> None:
    """Journal listed versions without an entry, after a crash or with a restored journal.

    Raises:
        ReleaseError: configuration or journal is unreadable.
    """
    status_of = writer.version_status(model)
    on_disk = writer.repository.versions(model)
    for version in writer.repository.listed(model):
        if version in on_disk and status_of.get(version) in (None, journal.REFUSED):
            _journal_listed(writer, model, version)


def follow(writer: Writer, model: str) -> None:
    """Make the listings of a model's companions follow its own; one with no version left is quarantined.

    Raises:
        ReleaseError: a configuration is unreadable.
        OSError: a folder cannot be changed.
    """
    repository = writer.repository
    for companion in companions(model):
        with writer.lease.fence():
            left = repository.follow(companion)
        if not left and (versions := repository.versions(companion)):
            with suppress(ServingError):
                withdraw(writer, companion, versions)
            quarantine(writer, companion, versions, reason=f"{model} does not list it")


def _remove(writer: Writer, model: str, version: int, status: str | None) -> None:
    if status in (journal.RETIRED, journal.REJECTED):
        delete_version(writer, model, version)
        return
    if status is None:
        manifest = manifest_of(writer.repository, model, version)
        writer.journal(
            writer.entry(
                journal.REFUSED,
                model,
                before=writer.repository.active(model),
                about=version,
                artifact_id=None if manifest is None else manifest.artifact_id,
                verdicts=() if manifest is None else manifest.verdicts,
                reason=f"{CRASHED}, quarantined",
            )
        )
    quarantine(writer, model, [version])


def _journal_listed(writer: Writer, model: str, version: int) -> None:
    manifest = manifest_of(writer.repository, model, version)
    if manifest is None:
        return
    below = [listed for listed in writer.repository.listed(model) if listed < version]
    entry = writer.entry(
        journal.PUBLISHED,
        model,
        before=max(below, default=None),
        about=version,
        artifact_id=manifest.artifact_id,
        verdicts=manifest.verdicts,
        reason="its writer crashed after listing it",
    )
    writer.journal(structs.replace(entry, time_ns=manifest.created_ns))


def _resolve_publication(writer: Writer, intent: Intent) -> None:
    entry, repository = intent.entry, writer.repository
    version = entry.version_to
    status = writer.version_status(entry.model).get(version or 0)
    if version is None or status in journal.ACTIVATING:
        return
    if version in repository.listed(entry.model):
        # Serving began when the policy was written.
        listed_ns = repository.config_path(entry.model).stat().st_mtime_ns
        writer.journal(structs.replace(entry, time_ns=max(entry.time_ns, listed_ns)))
        return
    if version in repository.versions(entry.model):
        quarantine(writer, entry.model, [version])
    reason = f"{CRASHED}{': ' if entry.reason else ''}{entry.reason}"
    writer.journal(structs.replace(entry, action=journal.REFUSED, reason=reason))


def apply_rollback(writer: Writer, intent: Intent) -> None:
    """Apply a rollback: list, serve, journal, unload and quarantine the bad versions; idempotent.

    Nothing is done where the target is gone or unlisted. Older listed versions that are gone are unlisted.

    Raises:
        ServingError: the server does not serve the target or unload the bad versions. The rollback is journaled; the
            next writer quarantines them.
    """
    entry, repository = intent.entry, writer.repository
    model, target = entry.model, entry.version_to
    listed = repository.listed(model)
    good = [version for version in listed if version in repository.versions(model)]
    if target is None or target not in good:
        return
    stay = [version for version in good if version <= target]
    if stay != listed:
        with writer.lease.fence():
            repository.list_versions(model, stay)
    writer.reached(CrashPoint.LISTED)
    failure = _serve(writer, model, target)
    writer.reached(CrashPoint.LOADED)
    if writer.version_status(model).get(entry.version_from or 0) != journal.ROLLED_BACK:
        note = f"; the server does not serve it yet: {failure}" if failure else ""
        writer.journal(structs.replace(entry, reason=entry.reason + note))
    writer.reached(CrashPoint.JOURNALED)
    if failure is not None:
        raise failure
    bad = [version for version in intent.leaving if version in repository.versions(model)]
    withdraw(writer, model, bad)
    quarantine(writer, model, bad)


def apply_removal(writer: Writer, intent: Intent) -> None:
    """Remove all versions of a candidate deployment: unload, journal, delete.

    Raises:
        ServingError: the server does not unload it.
    """
    entry = intent.entry
    leaving = [version for version in intent.leaving if version in writer.repository.versions(entry.model)]
    withdraw(writer, entry.model, leaving)
    retire(writer, entry.model, leaving, action=entry.action, reason=entry.reason, verdicts=entry.verdicts)


def _serve(writer: Writer, model: str, version: int) -> ServingError | None:
    if writer.release.server is None:
        return None
    try:
        writer.release.server.serve(model, version)
    except ServingError as error:
        return error
    return None
