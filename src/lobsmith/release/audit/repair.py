"""Repair of what `lobsmith.release.audit.verify` finds, as far as that needs no decision of a person.

Only retired versions and staging folders are deleted; everything else is quarantined. Actions are idempotent, without
an intent: the next repair finds what a crash left.

| killed after | the repository shows        | the next repair                          |
|--------------|-----------------------------|------------------------------------------|
| `listed`     | the good versions           | journals it, quarantines the bad one     |
| `recorded`   | the good versions           | quarantines the bad one                  |
| `loaded`     | the good versions           | quarantines the bad one                  |
| `withdrawn`  | the good versions           | quarantines the bad one                  |
| `taken out`  | the good versions, no other | has nothing to do                        |
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lobsmith.errors import LobsmithError, ReleaseError
from lobsmith.release.audit.rebuild import rebuild
from lobsmith.release.audit.verify import IntegrityFinding, IntegrityKind, inspect, unservable_reason
from lobsmith.release.context import Release
from lobsmith.release.publish.score import publish_scores
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.recovery import clear_up, follow, resume
from lobsmith.release.repository.removal import quarantine, retire_fallen, withdraw
from lobsmith.release.repository.writer import Writer, sole_writer
from lobsmith.release.version.names import followed_model
from lobsmith.release.version.triton_config import CONFIG


def repair(
    release: Release, findings: Sequence[IntegrityFinding], *, served: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[IntegrityFinding, str]]:
    """Repair those findings of `verify` that are safe to repair and still hold; return the failures and why.

    `served` is as for `verify`.

    Raises:
        LeaseError: the lease is held all the time, or was taken over.
    """
    with sole_writer(release, "repair the repository") as writer:
        with suppress(ReleaseError):
            resume(writer)
        writer.sweep()
        before = inspect(release.workspace, served)
        current = [finding for finding in before if any(_same(finding, other) for other in findings)]
        failures = _repair_all(writer, current, served)
        known = list(before)
        # A repair may expose more: once a lost version is unlisted, its journal entry is missing.
        while after := [
            finding
            for finding in inspect(release.workspace, served)
            if not any(_same(finding, other) for other in known)
        ]:
            failures += _repair_all(writer, after, served)
            known += after
        writer.reached(CrashPoint.CLOSED)
    return failures


def _repair_all(
    writer: Writer, findings: Sequence[IntegrityFinding], served: Mapping[str, Sequence[int]] | None
) -> list[tuple[IntegrityFinding, str]]:
    failures = []
    for finding in sorted(findings, key=_order):
        if not finding.safe or not any(_same(finding, now) for now in inspect(writer.release.workspace, served)):
            continue
        try:
            _repair(writer, finding, served or {})
        except (LobsmithError, OSError) as error:
            failures.append((finding, " ".join(str(error).split())))
    return failures


def _order(finding: IntegrityFinding) -> tuple[bool, bool, bool]:
    # The active version's entry comes first; other entries may be written by other repairs.
    journal_of_model = finding.kind is IntegrityKind.JOURNAL and finding.version is None
    return finding.kind is IntegrityKind.SERVED, not journal_of_model, finding.kind is IntegrityKind.JOURNAL


def _same(left: IntegrityFinding, right: IntegrityFinding) -> bool:
    return (left.kind, left.place, left.model, left.version) == (right.kind, right.place, right.model, right.version)


def _repair(writer: Writer, finding: IntegrityFinding, served: Mapping[str, Sequence[int]]) -> None:
    model, version = finding.model, finding.version
    if finding.kind is IntegrityKind.FOREIGN:
        place = Path(finding.place)
        target = writer.quarantine(place, place.name.lstrip(".") or "unnamed")
        _journal_repair(writer, model or journal.EVERYTHING, f"{place}: {finding.message}; now {target}")
    elif model is None:
        # Staging and intent are cleared by now.
        return
    elif finding.kind is IntegrityKind.POLICY:
        rebuild(writer, model)
        _journal_repair(writer, model, f"{CONFIG} written anew: {finding.message}")
    elif finding.kind in (IntegrityKind.CORRUPT, IntegrityKind.UNLISTED) and version is not None:
        _quarantine_version(writer, model, version, finding.message)
    elif finding.kind is IntegrityKind.COMPANION:
        follow(writer, followed_model(model))
        failed = publish_scores(writer, model, retry=True)
        if version in failed:
            raise ReleaseError(failed[version])
    elif finding.kind is IntegrityKind.LEFTOVER:
        clear_up(writer, model)
        retire_fallen(writer, model)
    elif finding.kind is IntegrityKind.JOURNAL:
        _complete_journal(writer, model, finding)
    elif finding.kind is IntegrityKind.SERVED:
        _sync_server(writer, model, served.get(model, ()))


def _sync_server(writer: Writer, model: str, served: Sequence[int]) -> None:
    server = writer.release.server
    if server is None:
        raise ReleaseError(f"{model}: no server runs here any more")
    listed = writer.repository.listed(model)
    if listed and not writer.repository.is_plans(model):
        server.serve(model, listed[-1])
    if extra := sorted(set(served) - set(listed)):
        server.withdraw(model, extra)


def _quarantine_version(writer: Writer, model: str, version: int, reason: str) -> None:
    repository = writer.repository
    listed = repository.listed(model)
    if version in listed:
        left = [other for other in listed if other != version and unservable_reason(repository, model, other) is None]
        if left:
            with writer.lease.fence():
                repository.list_versions(model, left)
            writer.reached(CrashPoint.LISTED)
            _journal_repair(writer, model, f"{version} unlisted: {reason}")
            writer.reached(CrashPoint.JOURNALED)
            if writer.release.server is not None:
                writer.release.server.serve(model, left[-1])
            writer.reached(CrashPoint.LOADED)
    if version in repository.versions(model):
        withdraw(writer, model, [version])
        quarantine(writer, model, [version], reason=reason)
    follow(writer, model)


def _complete_journal(writer: Writer, model: str, finding: IntegrityFinding) -> None:
    """Journal what the disk shows and the journal lacks."""
    repository, version = writer.repository, finding.version
    if version is None:
        _journal_repair(writer, model, finding.message)
    elif version in repository.versions(model):
        clear_up(writer, model)
        if writer.version_status(model).get(version) not in journal.ACTIVATING:
            _journal_published(writer, model, version)
    else:
        writer.journal(
            writer.entry(
                journal.QUARANTINED, model, before=repository.active(model), about=version, reason="its folder is gone"
            )
        )


def _journal_published(writer: Writer, model: str, version: int) -> None:
    manifest = manifest_of(writer.repository, model, version)
    writer.journal(
        writer.entry(
            journal.PUBLISHED,
            model,
            before=writer.repository.active(model),
            about=version,
            artifact_id=None if manifest is None else manifest.artifact_id,
            reason="listed after the journal had its removal",
        )
    )


def _journal_repair(writer: Writer, model: str, reason: str) -> None:
    """Journal a repair, with the version that is active since then."""
    active = None if model == journal.EVERYTHING else writer.repository.active(model)
    writer.journal(writer.entry(journal.REPAIRED, model, before=None, about=active, reason=reason))
