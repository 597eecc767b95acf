"""Removal of versions: unlisted, unloaded, journaled, moved out, deleted; and what retention keeps."""

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
    """Have the server let go of versions that are to leave, and of what goes with them.

    Raises:
        ServingError: it does not; nothing of them may be moved.
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
    """Delete versions that the server has let go of, and what goes with them. What is unsound by now is set aside.

    Args:
        writer: the holder of the lease.
        model: the model.
        versions: listed no longer, or all that the model has.
        reason: for the journal.
        action: what the journal calls it.
        verdicts: for the journal.
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
    """Delete a version whose end is journaled."""
    place = writer.take_out(_folder(writer, model, version), f"{model}-{version}")
    writer.reached(CrashPoint.TAKEN_OUT)
    delete(place)
    writer.reached(CrashPoint.DELETED)


def quarantine(writer: Writer, model: str, versions: Sequence[int], *, reason: str | None = None) -> None:
    """Move versions that the server has let go of, and what goes with them, where a person may look at them.

    Args:
        writer: the holder of the lease.
        model: the model.
        versions: listed no longer, or all that the model has.
        reason: for the journal; None where it has their end already.
    """
    active = writer.repository.active(model)
    for name, leaving in _with_companions(writer, model, versions):
        words = reason if name == model else reason or f"went with that of {model}"
        status_of = writer.version_status(name)
        for version in leaving:
            if words is not None and status_of.get(version) not in journal.LEAVING:
                manifest = manifest_of(writer.repository, name, version)
                artifact_id = None if manifest is None else manifest.artifact_id
                writer.journal(
                    writer.entry(
                        journal.SET_ASIDE, name, before=active, about=version, artifact_id=artifact_id, reason=words
                    )
                )
            writer.quarantine(_folder(writer, name, version), f"{name}-{version}")
            writer.reached(CrashPoint.TAKEN_OUT)


def _with_companions(writer: Writer, model: str, versions: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Yield what goes with versions, where there is any, then the versions."""
    for companion in companions(model):
        if leaving := sorted(set(versions) & set(_companions_of(writer, companion))):
            yield companion, leaving
    yield model, sorted(versions)


def _companions_of(writer: Writer, companion: str) -> list[int]:
    repository = writer.repository
    try:
        return repository.versions(companion) if repository.is_companion(companion) else []
    except ReleaseError:
        # A companion that cannot be read must not hinder the model.
        return []


def _folder(writer: Writer, model: str, version: int) -> Path:
    """Return the folder that leaves: the version's, or the model's where it is the last."""
    repository = writer.repository
    if repository.versions(model) == [version]:
        return repository.config_path(model).parent
    return repository.directory(model, version)


def kept(repository: Repository, params: Params, model: str, new: Manifest) -> list[Manifest]:
    """Return the versions that are listed once a new one is: the newest `release.keep` of those that hold, rising.

    What is not sound does not count and is listed no longer. A slot of candidates has the new one only.
    """
    if is_candidate(model):
        return [new]
    sound, _ = repository.valid(model)
    # The active one and its fallback stay, whatever a caller may have made of the parameters.
    keep = max(2, params.release.keep)
    manifests = [*(repository.verify(model, version) for version in sound), new]
    # A companion of an older version may come after that of a newer one.
    return sorted(manifests, key=lambda one: one.version)[-keep:]


def fallen(on_disk: Sequence[int], listed: Sequence[int]) -> list[int]:
    """Return the versions that newer ones have pushed out of a listing.

    One that is unlisted among listed ones was taken off by a person: that is not for retention to delete.

    >>> fallen([1, 2, 3, 4, 5], [3, 5])
    [1, 2]
    """
    return [version for version in on_disk if listed and version < min(listed)]


def retire_fallen(writer: Writer, model: str) -> list[int]:
    """Delete what newer versions have pushed out of the listing, set aside what is not sound; return these versions.

    Raises:
        ServingError: the server does not let go of them; they stay until the next publication.
    """
    repository = writer.repository
    listed, on_disk = repository.listed(model), repository.versions(model)
    status_of = writer.version_status(model)
    known = [version for version in on_disk if version not in listed and status_of.get(version) in journal.ACTIVATING]
    old = fallen(known, listed)
    faults = {version: repository.integrity_error(model, version) for version in known if version not in old}
    unsound = {version: fault for version, fault in faults.items() if fault is not None}
    if leaving := sorted({*old, *unsound}):
        withdraw(writer, model, leaving)
        retire(writer, model, old, reason=f"newer good versions took its place, up to {max(listed)}")
        for version, fault in unsound.items():
            quarantine(writer, model, [version], reason=fault)
    return leaving
