"""Integrity incidents in the journal, each once: versions that are not as they were published."""

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


class Incident(NamedTuple):
    """A corrupt version and why; without a version, the model or the repository as a whole."""

    model: str
    version: int | None
    reason: str


def journal_once(workspace: Workspace, incidents: Iterable[Incident], *, actor: str | None = None) -> list[Incident]:
    """Journal incidents, each once; needs no lease. Return the new ones.

    Raises:
        ReleaseError: the journal or a model's configuration is unreadable, or the line cannot be written.
    """
    entries = journal.read(workspace.journal)
    repository = Repository.of(workspace)
    new = [incident for incident in incidents if not journal.is_journaled(entries, *incident)]
    for model, version, reason in new:
        manifest = None if version is None else manifest_of(repository, model, version)
        journal.append(
            workspace.journal,
            Entry(
                time_ns=clock.now_ns(),
                action=journal.INTEGRITY_ERROR,
                model=model,
                version_from=None if version is None else repository.active(model),
                version_to=version,
                artifact_id=None if manifest is None else manifest.artifact_id,
                actor=actor or user(),
                reason=reason,
            ),
        )
    return new


def journal_integrity_errors(
    workspace: Workspace, model: str, errors: Mapping[int, str], *, actor: str | None = None
) -> list[int]:
    """Journal integrity errors by version, each once; return the versions with a new one. See `journal_once`."""
    incidents = [Incident(model, version, errors[version]) for version in sorted(errors)]
    new = journal_once(workspace, incidents, actor=actor)
    return [incident.version for incident in new if incident.version is not None]


def manifest_of(repository: Repository, model: str, version: int) -> Manifest | None:
    """Return a version's manifest unchecked, None where it is unreadable."""
    try:
        return read_manifest(repository.directory(model, version))
    except ReleaseError:
        return None
