"""MLflow's registry: what is wanted of a model, as two aliases on its registered versions.

`champion` is wanted in production, `challenger` in the candidate slot; the model repository says what is so. Both
know the artifact by the SHA-256 of its file, which stands on the registered version as the tag `artifact_id`. A
version's whole directory is kept with the run as `release`, so that it can be promoted when the repository has long
deleted it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lobsmith.errors import ReleaseError
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.release.version.manifest import MANIFEST, Manifest, check_files
from lobsmith.release.version.signing import Trust
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
RELEASE = "release"

ARTIFACT_ID = "artifact_id"
TRITON_VERSION = "triton_version"
SHADOW = "shadow"
"""Tag: the last verdict of the shadow evaluation, as JSON."""
SERVING = "serving"
"""Tag: what became of the version last, in words."""
REQUEST = "request"
"""Tag: who asked for the version, and why, until it is served."""
REFUSED = "refused"
"""Tag: why the version could not be had, and when that was found out, as JSON."""


@dataclass(frozen=True)
class Registered:
    """A registered version of a model."""

    version: int
    run_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifact_id(self) -> str | None:
        """SHA-256 of the model file; None where nobody noted it."""
        return self.tags.get(ARTIFACT_ID)


@dataclass(frozen=True)
class Wanted:
    """What the aliases of a registered model point at; None where an alias is not set."""

    champion: Registered | None = None
    challenger: Registered | None = None


def wanted(workspace: Workspace, model: str) -> Wanted:
    """Return what the aliases of a model ask for; nothing where it is not registered.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    with mlflow_store(workspace) as client:
        if not client.search_registered_models(f"name = '{model}'"):
            return Wanted()
        aliases = client.get_registered_model(model).aliases
        found = {
            name: _registered(client.get_model_version(model, str(aliases[name])))
            for name in (CHAMPION, CHALLENGER)
            if name in aliases
        }
        return Wanted(found.get(CHAMPION), found.get(CHALLENGER))


def registered(workspace: Workspace, model: str, version: int) -> Registered:
    """Return a registered version.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version.
    """
    with mlflow_store(workspace) as client:
        return _registered(client.get_model_version(model, str(version)))


def find_registered(workspace: Workspace, model: str, tags: Mapping[str, str]) -> list[Registered]:
    """Return the registered versions of a model that carry all of these tags, rising.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    with mlflow_store(workspace) as client:
        # Searched by name only: MLflow's filter takes some characters of a tag's value for its own syntax.
        found = client.search_model_versions(f"name = '{model}'")
        versions: list[Any] = list(found)
        while found.token:
            found = client.search_model_versions(f"name = '{model}'", page_token=found.token)
            versions += found
        matching = [one for one in versions if all(one.tags.get(key) == value for key, value in tags.items())]
        return sorted(map(_registered, matching), key=lambda one: one.version)


def set_alias(workspace: Workspace, model: str, alias: str, version: int) -> None:
    """Point an alias at a registered version; `champion` asks for its promotion.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version.
    """
    with mlflow_store(workspace) as client:
        client.set_registered_model_alias(model, alias, str(version))


def delete_alias(workspace: Workspace, model: str, alias: str) -> None:
    """Take an alias away; one that is not set stays so.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such model.
    """
    with mlflow_store(workspace) as client:
        client.delete_registered_model_alias(model, alias)


def request(workspace: Workspace, model: str, alias: str, version: int, why: str) -> None:
    """Point an alias at a registered version, and note there who asks for it and why.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version.
    """
    tag(workspace, model, version, {REQUEST: why})
    set_alias(workspace, model, alias, version)


def tag(workspace: Workspace, model: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a registered version.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version.
    """
    with mlflow_store(workspace) as client:
        for key, value in tags.items():
            client.set_model_version_tag(model, str(version), key, value)


def untag(workspace: Workspace, model: str, version: Registered, *names: str) -> None:
    """Remove tags of a registered version, as far as it has them.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    with mlflow_store(workspace) as client:
        for name in set(names) & set(version.tags):
            client.delete_model_version_tag(model, str(version.version), name)


def log_release(workspace: Workspace, run_id: str, directory: Path) -> None:
    """Keep a version's whole directory with a run, replacing what was kept there.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such run.
    """
    with mlflow_store(workspace) as client:
        client.log_artifacts(run_id, str(directory), artifact_path=RELEASE)


@contextmanager
def release_of(workspace: Workspace, model: str, version: Registered) -> Iterator[tuple[Path, Manifest]]:
    """Fetch the directory that was kept of a registered version, for as long as the block lasts.

    Yields:
        Where it lies, and its manifest; hashes and signature hold.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: nothing was kept of it, it is not whole, is signed with no trusted key, or is another model's.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="release-", dir=workspace.home) as folder:
        with mlflow_store(workspace) as client:
            directory = _download(client, model, version, Path(folder))
        manifest = check_files(directory, Trust.of(workspace))
        if version.artifact_id not in (None, manifest.artifact_id):
            raise ReleaseError(
                f"{model} registry:{version.version}: its tag {ARTIFACT_ID} is {version.artifact_id}, that of what "
                f"is kept with its run {manifest.artifact_id}; correct the tag, or register the version again"
            )
        yield directory, manifest


def _download(client: "MlflowClient", model: str, version: Registered, folder: Path) -> Path:
    if not version.run_id or not any(one.path == RELEASE for one in client.list_artifacts(version.run_id)):
        raise ReleaseError(
            f"{model} registry:{version.version}: no {RELEASE} folder is kept with it (run {version.run_id or 'none'}) "
            "and the repository does not have it; retrain, or move the alias to another version"
        )
    directory = Path(client.download_artifacts(version.run_id, RELEASE, str(folder)))
    if not (directory / MANIFEST).is_file():
        raise ReleaseError(f"{model} registry:{version.version}: what is kept with its run has no {MANIFEST}; retrain")
    return directory


def _registered(found: Any) -> Registered:
    return Registered(int(found.version), found.run_id or None, dict(found.tags))
