"""The reconcile flow: makes the repository follow MLflow's aliases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from lobsmith.errors import LeaseLostError, VersionGoneError
from lobsmith.monitoring.alerts import NO_SCORE, fire, resolve
from lobsmith.params import Params, load_params
from lobsmith.progress import Note, stage
from lobsmith.release.context import Release
from lobsmith.release.publish.built_plans import plans_of
from lobsmith.release.reconcile.reconcile import Reconciled
from lobsmith.release.reconcile.reconcile import reconcile as follow
from lobsmith.serving.running_server import running_server
from lobsmith.workspace import Workspace

LONGEST_S = 1800
"""A longer run is ended; the next one continues."""


def lost_the_lease(_task: object, _run: object, state: State[Any]) -> bool:
    """Return whether a task failed because a rollback seized the repository's lease."""
    return isinstance(state.data, LeaseLostError)


@task(name="follow the registry", retries=1, retry_condition_fn=lost_the_lease)
def follow_the_registry(workspace: Workspace, params: Params, actor: str, retry: bool = False) -> Reconciled:
    """Make the repository follow the aliases."""
    with stage("follow the registry") as note:
        release = Release(workspace, params, running_server(workspace, params), actor)
        reconciled = follow(release, params.model.name, retry=retry)
        _alert(workspace, reconciled)
        note(reconciled.summary() or "as wanted")
        return reconciled


def _alert(workspace: Workspace, reconciled: Reconciled) -> None:
    if reconciled.unscored:
        version, reason = max(reconciled.unscored.items())
        fire(workspace, NO_SCORE, reconciled.model, f"clients of {version} cannot score their own rows: {reason}")
    else:
        resolve(workspace, NO_SCORE, reconciled.model)


@task(name="build and publish plans", retries=1, retry_condition_fn=lost_the_lease)
def build_plans_of(workspace: Workspace, params: Params, version: int) -> str:
    """Build TensorRT plans of a promoted version where this machine can; the ONNX model stays the fallback."""
    with stage("build and publish plans") as note:
        release = Release(workspace, params, running_server(workspace, params))
        outcome = _plans(release, params.model.name, version, note)
        note(outcome)
        return outcome


def _plans(release: Release, model: str, version: int, note: Note) -> str:
    try:
        with release.repository.reading(model, version):
            manifest = release.repository.verify(model, version)
    except VersionGoneError as error:
        return f"no plans: {error}"
    return plans_of(release, manifest, on_progress=note)


def follow_and_build(workspace: Workspace, params: Params, actor: str) -> tuple[Reconciled, str]:
    """Reconcile, and build the plans of a promoted version; return both results."""
    reconciled = follow_the_registry(workspace, params, actor)
    if reconciled.promoted is None:
        return reconciled, "no plans: nothing was promoted"
    return reconciled, build_plans_of(workspace, params, reconciled.promoted)


@flow(name="reconcile", log_prints=False, timeout_seconds=LONGEST_S)
def reconcile(root: str = ".", overrides: Mapping[str, Any] | None = None) -> Reconciled:
    """Promote, publish and undeploy until the repository matches the registry's aliases.

    Args:
        root: the project's folder, with `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
    """
    workspace = Workspace.open(Path(root))
    return follow_and_build(workspace, load_params(workspace.params, overrides), "reconcile flow")[0]
