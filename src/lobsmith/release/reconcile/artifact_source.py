"""The files of a registered version: in the repository, or kept with its run in MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lobsmith.errors import ReleaseError
from lobsmith.release.registry.aliases import Registered, release_of
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import check_files
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace


@contextmanager
def source_of(workspace: Workspace, model: str, requested: Registered) -> Iterator[Path]:
    """Yield a valid copy of a registered version's files: of the candidate deployment, the model (newest first) or
    MLflow.

    Raises:
        RegistryError: only MLflow may have it, and cannot be reached.
        ReleaseError: there is no valid copy.
    """
    directory = _in_repository(workspace, model, requested.artifact_id)
    if directory is not None:
        yield directory
        return
    with release_of(workspace, model, requested) as (fetched, _):
        yield fetched


def _in_repository(workspace: Workspace, model: str, artifact_id: str | None) -> Path | None:
    repository = Repository.of(workspace)
    for name in (candidate_model(model), model):
        for version in reversed(repository.versions(name)):
            directory = repository.directory(name, version)
            try:
                if check_files(directory, repository.trust).artifact_id == artifact_id:
                    return directory
            except ReleaseError:
                continue
    return None
