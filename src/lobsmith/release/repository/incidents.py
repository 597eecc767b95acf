"""Versions that are not what they were when they were published, in the journal: each fault once."""

import time
from collections.abc import Mapping

from lobsmith.errors import ReleaseError
from lobsmith.process import user
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.workspace import Workspace


def record_faults(workspace: Workspace, model: str, faults: Mapping[int, str], *, who: str | None = None) -> list[int]:
    """Journal which versions of a model are not sound; needs no right to act, because nothing else is changed.

    Args:
        workspace: where the repository lies.
        model: the model.
        faults: what is wrong, by version.
        who: who found it; the user of this process by default.

    Returns:
        The versions whose fault was not journaled yet.

    Raises:
        ReleaseError: the journal or the model's configuration is unreadable, or the line cannot be written.
    """
    entries = journal.read(workspace.journal)
    repository = Repository.of(workspace)
    new = [version for version in sorted(faults) if not journal.knows_fault(entries, model, version, faults[version])]
    for version in new:
        manifest = manifest_of(repository, model, version)
        journal.append(
            workspace.journal,
            Entry(
                time_ns=time.time_ns(),
                action=journal.FAULTY,
                model=model,
                version_from=repository.active(model),
                version_to=version,
                artifact_id=None if manifest is None else manifest.artifact_id,
                who=who or user(),
                reason=faults[version],
            ),
        )
    return new


def manifest_of(repository: Repository, model: str, version: int) -> Manifest | None:
    """Return a version's manifest as it is, None where it is unreadable."""
    try:
        return read_manifest(repository.directory(model, version))
    except ReleaseError:
        return None
