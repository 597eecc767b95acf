"""Aliases of MLflow's registry: the registered versions that are wanted.

`champion` is wanted in production, `challenger` as the candidate deployment. The tag `artifact_id`, the SHA-256 of the
model file, identifies the artifact. A version's directory is kept with its run as `release`, for promotion after the
repository has deleted it.

Every function raises RegistryError where MLflow cannot be reached, ReleaseError where model, version or run does not
exist.
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
"""Tag: the version's last status, as text."""
REQUEST = "request"
"""Tag: requester and reason of the version's promotion request, until it is served."""
REFUSED = "refused"
"""Tag: reason and time of the version's refusal, as JSON."""


@dataclass(frozen=True)
class Registered:
    """A registered version of a model."""

    version: int
    run_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifact_id(self) -> str | None:
        """SHA-256 of the model file; None without the tag."""
        return self.tags.get(ARTIFACT_ID)


@dataclass(frozen=True)
class AliasTargets:
    """The targets of a registered model's aliases; None where an alias is not set."""

    champion: Registered | None = None
    challenger: Registered | None = None


def alias_targets(workspace: Workspace, model: str) -> AliasTargets:
    """Return the targets of a model's aliases; none where it is not registered."""
    with mlflow_store(workspace) as client:
        if not client.search_registered_models(f"name = '{model}'"):
            return AliasTargets()
        aliases = client.get_registered_model(model).aliases
        targets = {
            name: _registered(client.get_model_version(model, str(aliases[name])))
            for name in (CHAMPION, CHALLENGER)
            if name in aliases
        }
        return AliasTargets(targets.get(CHAMPION), targets.get(CHALLENGER))


def registered(workspace: Workspace, model: str, version: int) -> Registered:
    """Return a registered version."""
    with mlflow_store(workspace) as client:
        return _registered(client.get_model_version(model, str(version)))


def find_registered(workspace: Workspace, model: str, tags: Mapping[str, str]) -> list[Registered]:
    """Return the registered versions of a model that have all of these tags, rising."""
    with mlflow_store(workspace) as client:
        # By name only: MLflow's filter parses some characters of a tag's value as syntax.
        page = client.search_model_versions(f"name = '{model}'")
        versions: list[Any] = list(page)
        while page.token:
            page = client.search_model_versions(f"name = '{model}'", page_token=page.token)
            versions += page
        matching = [version for version in versions if tags.items() <= dict(version.tags).items()]
        return sorted(map(_registered, matching), key=lambda version: version.version)


def set_alias(workspace: Workspace, model: str, alias: str, version: int) -> None:
    """Point an alias at a registered version; `champion` requests its promotion."""
    with mlflow_store(workspace) as client:
        client.set_registered_model_alias(model, alias, str(version))


def delete_alias(workspace: Workspace, model: str, alias: str) -> None:
    """Delete an alias, if it is set."""
    with mlflow_store(workspace) as client:
        client.delete_registered_model_alias(model, alias)


def request(workspace: Workspace, model: str, alias: str, version: int, why: str) -> None:
    """Point an alias at a registered version, and tag it with the requester and the reason."""
    tag(workspace, model, version, {REQUEST: why})
    set_alias(workspace, model, alias, version)


def tag(workspace: Workspace, model: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a registered version."""
    with mlflow_store(workspace) as client:
        for key, value in tags.items():
            client.set_model_version_tag(model, str(version), key, value)


def untag(workspace: Workspace, model: str, version: Registered, *names: str) -> None:
    """Remove those of these tags that a registered version has."""
    with mlflow_store(workspace) as client:
        for name in set(names) & set(version.tags):
            client.delete_model_version_tag(model, str(version.version), name)


def log_release(workspace: Workspace, run_id: str, directory: Path) -> None:
    """Keep a version's directory with a run, replacing an earlier copy."""
    with mlflow_store(workspace) as client:
        client.log_artifacts(run_id, str(directory), artifact_path=RELEASE)


@contextmanager
def release_of(workspace: Workspace, model: str, version: Registered) -> Iterator[tuple[Path, Manifest]]:
    """Fetch the kept directory of a registered version while the block runs; yield its path and checked manifest.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: nothing was kept, or it is incomplete, not signed with a trusted key, or another model's.
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
    if not version.run_id or not any(artifact.path == RELEASE for artifact in client.list_artifacts(version.run_id)):
        raise ReleaseError(
            f"{model} registry:{version.version}: no {RELEASE} folder is kept with it (run {version.run_id or 'none'}) "
            "and the repository does not have it; retrain, or move the alias to another version"
        )
    directory = Path(client.download_artifacts(version.run_id, RELEASE, str(folder)))
    if not (directory / MANIFEST).is_file():
        raise ReleaseError(f"{model} registry:{version.version}: what is kept with its run has no {MANIFEST}; retrain")
    return directory


def _registered(version: Any) -> Registered:
    return Registered(int(version.version), version.run_id or None, dict(version.tags))
