"""Registered versions of the model `toy` for requests, in a real MLflow on SQLite."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lobsmith.release.context import Release
from lobsmith.release.registry.aliases import ARTIFACT_ID, Registered, log_release, registered
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import SQLITE, Workspace
from tests.release import toy
from tests.release.in_process import publish

PARAMS = toy.params(reconcile__wait_s=60, reconcile__lease_s=5)
DEPLOYMENT = candidate_model("toy")


@cache
def _empty_database() -> Path:
    """An empty MLflow database; making it takes seconds."""
    workspace = Workspace(Path(mkdtemp()))
    with mlflow_store(workspace) as client:
        client.search_registered_models()
    return workspace.home / "mlflow.db"


def workspace_with_mlflow(root: Path) -> Workspace:
    workspace = Workspace(root)
    workspace.home.mkdir(parents=True)
    shutil.copy(_empty_database(), workspace.home / "mlflow.db")
    return workspace


def candidate(workspace: Workspace, scale: float, **options: Any) -> Manifest:
    """Publish an artifact as the candidate deployment, as a retrain does; options are those of `toy.artifact`."""
    artifact = toy.artifact(workspace.root / f"run-{scale}", scale=scale, **options)
    return publish(Release(workspace, toy.params()), artifact, model=DEPLOYMENT, contract=toy.CONTRACT)


def register(workspace: Workspace, manifest: Manifest | None, *, keep: bool = True, tagged: bool = True) -> Registered:
    """Register the deployed candidate; with `keep` its directory stays with the run."""
    with mlflow_store(workspace) as client:
        existing = client.get_experiment_by_name("toy")
        location = workspace.mlflow_artifacts.as_uri() if workspace.mlflow_uri.startswith(SQLITE) else None
        experiment = existing.experiment_id if existing else client.create_experiment("toy", artifact_location=location)
        run = client.create_run(experiment).info.run_id
        if not client.search_registered_models("name = 'toy'"):
            client.create_registered_model("toy")
        tags = {ARTIFACT_ID: manifest.artifact_id} if manifest is not None and tagged else {}
        number = int(client.create_model_version("toy", f"runs:/{run}/release", run_id=run, tags=tags).version)
    if keep and manifest is not None:
        log_release(workspace, run, Repository.of(workspace).directory(DEPLOYMENT, manifest.version))
    return registered(workspace, "toy", number)


def point_alias(workspace: Workspace, alias: str, version: Registered | None) -> None:
    """Set an alias as MLflow's own page does, or delete it."""
    with mlflow_store(workspace) as client:
        if version is None:
            client.delete_registered_model_alias("toy", alias)
        else:
            client.set_registered_model_alias("toy", alias, str(version.version))
