"""Integrity incidents in the journal, each once: versions that are not what they were when they were published."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lobsmith import clock
from lobsmith.errors import ReleaseError
from lobsmith.process import user
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.workspace import Workspace


class Fault(NamedTuple):
    """A version that is not sound and why; without a version, the model or the repository as a whole."""

    model: str
    version: int | None
    reason: str


def journal_once(workspace: Workspace, faults: Iterable[Fault], *, who: str | None = None) -> list[Fault]:
    """Journal faults, each once; needs no lease, because nothing else is changed.

    Args:
        workspace: where the repository lies.
        faults: what was found.
        who: for the journal; the user of this process by default.

    Returns:
        The faults that were not journaled yet.

    Raises:
        ReleaseError: the journal or a model's configuration is unreadable, or the line cannot be written.
    """
    entries = journal.read(workspace.journal)
    repository = Repository.of(workspace)
    new = [fault for fault in faults if not journal.is_journaled(entries, *fault)]
    for model, version, reason in new:
        manifest = None if version is None else manifest_of(repository, model, version)
        journal.append(
            workspace.journal,
            Entry(
                time_ns=clock.now_ns(),
                action=journal.FAULTY,
                model=model,
                version_from=None if version is None else repository.active(model),
                version_to=version,
                artifact_id=None if manifest is None else manifest.artifact_id,
                who=who or user(),
                reason=reason,
            ),
        )
    return new


def journal_integrity_errors(
    workspace: Workspace, model: str, faults: Mapping[int, str], *, who: str | None = None
) -> list[int]:
    """Journal which versions of a model are not sound, by version; see `journal_once`.

    Returns:
        The versions whose fault was not journaled yet.
    """
    found = [Fault(model, version, faults[version]) for version in sorted(faults)]
    return [fault.version for fault in journal_once(workspace, found, who=who) if fault.version is not None]


def manifest_of(repository: Repository, model: str, version: int) -> Manifest | None:
    """Return a version's manifest as it is, None where it is unreadable."""
    try:
        return read_manifest(repository.directory(model, version))
    except ReleaseError:
        return None
