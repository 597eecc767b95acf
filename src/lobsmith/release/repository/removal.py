"""Removal of versions: unlist, unload, journal, move out, delete; and retention."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lobsmith.errors import ReleaseError
from lobsmith.params import Params
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import Writer, delete
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import companions, is_candidate
from lobsmith.verdict import Verdict


def withdraw(writer: Writer, model: str, versions: Sequence[int]) -> None:
    """Have the server unload versions that leave, and their companions.

    Raises:
        ServingError: the server still has them loaded; their folders may not be moved.
    """
    if writer.release.server is not None:
        for name, leaving in _with_companions(writer, model, versions):
            writer.release.server.withdraw(name, leaving)
    writer.reached(CrashPoint.WITHDRAWN)


def retire(
    writer: Writer,
    model: str,
    versions: Sequence[int],
    *,
    reason: str,
    action: str = journal.RETIRED,
    verdicts: tuple[Verdict, ...] = (),
) -> None:
    """Delete unloaded versions, unlisted or all of a model, and their companions; corrupt ones are quarantined.

    `action`, `reason` and `verdicts` are for the journal.
    """
    repository = writer.repository
    active = repository.active(model)
    for name, leaving in _with_companions(writer, model, versions):
        status_of = writer.version_status(name)
        for version in leaving:
            try:
                manifest = repository.verify(name, version)
            except ReleaseError as error:
                quarantine(writer, name, [version], reason=str(error))
                continue
            if status_of.get(version) not in journal.LEAVING:
                writer.journal(
                    writer.entry(
                        action,
                        name,
                        before=active,
                        about=version,
                        artifact_id=manifest.artifact_id,
                        verdicts=verdicts,
                        reason=reason,
                    )
                )
            writer.reached(CrashPoint.DISMISSED)
            delete_version(writer, name, version)


def delete_version(writer: Writer, model: str, version: int) -> None:
    """Delete a version whose removal is journaled."""
    place = writer.take_out(_folder(writer, model, version), f"{model}-{version}")
    writer.reached(CrashPoint.TAKEN_OUT)
    delete(place)
    writer.reached(CrashPoint.DELETED)


def quarantine(writer: Writer, model: str, versions: Sequence[int], *, reason: str | None = None) -> None:
    """Quarantine unloaded versions, unlisted or all of a model, and their companions.

    `reason` is for the journal; None where the removal is journaled already.
    """
    active = writer.repository.active(model)
    for name, leaving in _with_companions(writer, model, versions):
        cause = reason if name == model else reason or f"went with that of {model}"
        status_of = writer.version_status(name)
        for version in leaving:
            if cause is not None and status_of.get(version) not in journal.LEAVING:
                manifest = manifest_of(writer.repository, name, version)
                artifact_id = None if manifest is None else manifest.artifact_id
                writer.journal(
                    writer.entry(
                        journal.QUARANTINED, name, before=active, about=version, artifact_id=artifact_id, reason=cause
                    )
                )
            writer.quarantine(_folder(writer, name, version), f"{name}-{version}")
            writer.reached(CrashPoint.TAKEN_OUT)


def _with_companions(writer: Writer, model: str, versions: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Yield model and versions, the companions first."""
    for companion in companions(model):
        if leaving := sorted(set(versions) & set(_companion_versions(writer, companion))):
            yield companion, leaving
    yield model, sorted(versions)


def _companion_versions(writer: Writer, companion: str) -> list[int]:
    repository = writer.repository
    try:
        return repository.versions(companion) if repository.is_companion(companion) else []
    except ReleaseError:
        # An unreadable companion must not block the model.
        return []


def _folder(writer: Writer, model: str, version: int) -> Path:
    """Return the folder that leaves: the version's, or the model's for its last version."""
    repository = writer.repository
    if repository.versions(model) == [version]:
        return repository.config_path(model).parent
    return repository.directory(model, version)


def kept(repository: Repository, params: Params, model: str, new: Manifest) -> list[Manifest]:
    """Return the versions listed beside a new one: the newest `release.keep` of the valid ones and it, rising.

    Corrupt ones do not count and are unlisted. A candidate deployment has the new one only.
    """
    if is_candidate(model):
        return [new]
    valid, _ = repository.valid(model)
    # The active version and its fallback stay, whatever the parameters.
    keep = max(2, params.release.keep)
    manifests = [*(repository.verify(model, version) for version in valid), new]
    # A companion of an older version may be published after that of a newer one.
    return sorted(manifests, key=lambda manifest: manifest.version)[-keep:]


def fallen(on_disk: Sequence[int], listed: Sequence[int]) -> list[int]:
    """Return the versions that newer ones have pushed out of a listing.

    Unlisted versions between listed ones were unlisted by a person: retention keeps them.

    >>> fallen([1, 2, 3, 4, 5], [3, 5])
    [1, 2]
    """
    return [version for version in on_disk if listed and version < min(listed)]


def retire_fallen(writer: Writer, model: str) -> list[int]:
    """Delete versions pushed out of the listing, quarantine corrupt ones; return both.

    Raises:
        ServingError: the server does not unload them; they stay until the next publication.
    """
    repository = writer.repository
    listed, on_disk = repository.listed(model), repository.versions(model)
    status_of = writer.version_status(model)
    known = [version for version in on_disk if version not in listed and status_of.get(version) in journal.ACTIVATING]
    old = fallen(known, listed)
    errors = {version: repository.integrity_error(model, version) for version in known if version not in old}
    corrupt = {version: error for version, error in errors.items() if error is not None}
    if leaving := sorted({*old, *corrupt}):
        withdraw(writer, model, leaving)
        retire(writer, model, old, reason=f"newer good versions took its place, up to {max(listed)}")
        for version, error in corrupt.items():
            quarantine(writer, model, [version], reason=error)
    return leaving
