"""Repair: what `lobsmith.release.audit.verify` finds is mended, as far as that needs no decision of a person.

Nothing is deleted but what the journal has as retired, and staging folders; everything else is set aside. Each part is
safe to be done again, so there is no intent: a writer that is killed leaves findings, and they are mended next time.

| killed after | the repository shows        | the next repair                          |
|--------------|-----------------------------|------------------------------------------|
| `listed`     | the good versions           | journals it, sets the bad one aside      |
| `recorded`   | the good versions           | sets the bad one aside                   |
| `loaded`     | the good versions           | sets the bad one aside                   |
| `withdrawn`  | the good versions           | sets the bad one aside                   |
| `taken out`  | the good versions, no other | has nothing to do                        |
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lobsmith.errors import LobsmithError, ReleaseError
from lobsmith.release.audit.rebuild import rebuild
from lobsmith.release.audit.verify import IntegrityFinding, IntegrityKind, inspect, unservable_reason
from lobsmith.release.context import Release
from lobsmith.release.publish.score import accompany
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
    """Mend what is safe to mend.

    Args:
        release: the context.
        findings: of `verify`; what has changed since is left alone.
        served: what was given to `verify`.

    Returns:
        What could not be mended, and why. A new `verify` says how things stand.

    Raises:
        LeaseError: another process has the lease all the time, or took it over.
    """
    with sole_writer(release, "repair the repository") as writer:
        with suppress(ReleaseError):
            resume(writer)
        writer.sweep()
        before = inspect(release.workspace, served)
        failures = _mend_all(writer, [one for one in before if any(_same(one, want) for want in findings)], served)
        seen = list(before)
        # Mending may show more: once a lost version is off the list, the journal is found to miss it.
        while after := [one for one in inspect(release.workspace, served) if not any(_same(one, old) for old in seen)]:
            failures += _mend_all(writer, after, served)
            seen += after
        writer.reached(CrashPoint.CLOSED)
    return failures


def _mend_all(
    writer: Writer, findings: Sequence[IntegrityFinding], served: Mapping[str, Sequence[int]] | None
) -> list[tuple[IntegrityFinding, str]]:
    failures = []
    # What is active comes first, as it came first; other lines may be written by the mending of something else.
    for finding in sorted(
        findings, key=lambda one: (one.kind is IntegrityKind.SERVED, _late(one), one.kind is IntegrityKind.JOURNAL)
    ):
        if not finding.safe or not any(_same(finding, now) for now in inspect(writer.release.workspace, served)):
            continue
        try:
            _mend(writer, finding, served or {})
        except (LobsmithError, OSError) as error:
            failures.append((finding, " ".join(str(error).split())))
    return failures


def _late(finding: IntegrityFinding) -> bool:
    return finding.kind is not IntegrityKind.JOURNAL or finding.version is not None


def _same(one: IntegrityFinding, other: IntegrityFinding) -> bool:
    return (one.kind, one.place, one.model, one.version) == (other.kind, other.place, other.model, other.version)


def _mend(writer: Writer, finding: IntegrityFinding, served: Mapping[str, Sequence[int]]) -> None:
    model, version = finding.model, finding.version
    if finding.kind is IntegrityKind.FOREIGN:
        place = Path(finding.place)
        moved = writer.quarantine(place, place.name.lstrip(".") or "unnamed")
        _say(writer, model or journal.EVERYTHING, f"{place}: {finding.words}; now {moved}")
    elif model is None:
        # What lies in staging, and what was intended, is gone by now.
        return
    elif finding.kind is IntegrityKind.POLICY:
        rebuild(writer, model)
        _say(writer, model, f"{CONFIG} written anew: {finding.words}")
    elif finding.kind in (IntegrityKind.UNSOUND, IntegrityKind.UNLISTED) and version is not None:
        _dismiss(writer, model, version, finding.words)
    elif finding.kind is IntegrityKind.COMPANION:
        follow(writer, followed_model(model))
        failed = accompany(writer, model, retry=True)
        if version in failed:
            raise ReleaseError(failed[version])
    elif finding.kind is IntegrityKind.LEFTOVER:
        clear_up(writer, model)
        retire_fallen(writer, model)
    elif finding.kind is IntegrityKind.JOURNAL:
        _complete_journal(writer, model, finding)
    elif finding.kind is IntegrityKind.SERVED:
        _have_served(writer, model, served.get(model, ()))


def _have_served(writer: Writer, model: str, served: Sequence[int]) -> None:
    """Have the server follow the list."""
    server = writer.release.server
    if server is None:
        raise ReleaseError(f"{model}: no server runs here any more")
    listed = writer.repository.listed(model)
    if listed and not writer.repository.is_plans(model):
        server.serve(model, listed[-1])
    if extra := sorted(set(served) - set(listed)):
        server.withdraw(model, extra)


def _dismiss(writer: Writer, model: str, version: int, reason: str) -> None:
    """Take a version off the list, if it is on it, have the server let go of it, and set it aside."""
    repository = writer.repository
    listed = repository.listed(model)
    if version in listed:
        left = [one for one in listed if one != version and unservable_reason(repository, model, one) is None]
        if left:
            with writer.lease.fence():
                repository.list_versions(model, left)
            writer.reached(CrashPoint.LISTED)
            _say(writer, model, f"{version} taken off the list: {reason}")
            writer.reached(CrashPoint.RECORDED)
            if writer.release.server is not None:
                writer.release.server.serve(model, left[-1])
            writer.reached(CrashPoint.LOADED)
    if version in repository.versions(model):
        withdraw(writer, model, [version])
        quarantine(writer, model, [version], reason=reason)
    follow(writer, model)


def _complete_journal(writer: Writer, model: str, finding: IntegrityFinding) -> None:
    """Write what the disk says and the journal does not."""
    repository, version = writer.repository, finding.version
    if version is None:
        _say(writer, model, finding.words)
    elif version in repository.versions(model):
        clear_up(writer, model)
        if writer.version_status(model).get(version) not in journal.ACTIVATING:
            _publish_again(writer, model, version)
    else:
        writer.journal(
            writer.entry(
                journal.SET_ASIDE, model, before=repository.active(model), about=version, reason="found to be gone"
            )
        )


def _publish_again(writer: Writer, model: str, version: int) -> None:
    manifest = manifest_of(writer.repository, model, version)
    writer.journal(
        writer.entry(
            journal.PUBLISHED,
            model,
            before=writer.repository.active(model),
            about=version,
            artifact_id=None if manifest is None else manifest.artifact_id,
            reason="found on the list after the journal had its end",
        )
    )


def _say(writer: Writer, model: str, reason: str) -> None:
    """Journal a repair, and what is active since then."""
    active = None if model == journal.EVERYTHING else writer.repository.active(model)
    writer.journal(writer.entry(journal.REPAIRED, model, before=None, about=active, reason=reason))
