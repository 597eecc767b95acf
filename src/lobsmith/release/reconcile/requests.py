"""Promotion requests: by a person for a registered version, or by a retrain that registers a challenger."""

import re

from lobsmith.errors import ContractError, GateError, ReleaseError
from lobsmith.lease import hold_lease
from lobsmith.process import user
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.publish.publication import check_model
from lobsmith.release.reconcile.reconcile import Reconciled, reconcile
from lobsmith.release.registry.aliases import (
    ARTIFACT_ID,
    CHALLENGER,
    CHAMPION,
    SERVING,
    Registered,
    alias_targets,
    find_registered,
    log_release,
    registered,
    request,
    tag,
)
from lobsmith.release.registry.runs import RunRef
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.release.version.triton_config import BACKEND
from lobsmith.workspace import Workspace

_REGISTERED = re.compile(r"registry:([1-9][0-9]{0,17})", re.ASCII)


def registered_of(workspace: Workspace, model: str, name: str | None) -> Registered:
    """Return the registered version of a name.

    That is a version of production or of the candidate deployment, `registry:N`, or None for the challenger.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version, or it is not registered.
    """
    if name is None:
        challenger = alias_targets(workspace, model).challenger
        if challenger is None:
            raise ReleaseError(f"{model}: there is no challenger; name a version, see lobsmith models list")
        return challenger
    if match := _REGISTERED.fullmatch(name):
        return registered(workspace, model, int(match[1]))
    manifest = version_named(workspace, model, name)
    versions = find_registered(workspace, model, {ARTIFACT_ID: manifest.artifact_id})
    if not versions:
        raise ReleaseError(f"{manifest.model} {name}: no registered version holds this artifact; name registry:N")
    return versions[-1]


def version_named(workspace: Workspace, model: str, name: str) -> Manifest:
    """Return the verified manifest of a version of production or of the candidate deployment.

    Raises:
        ReleaseError: there is no such version, or it is corrupt.
    """
    repository = Repository.of(workspace)
    for place in (model, candidate_model(model)):
        if name in map(str, repository.versions(place)):
            return repository.verify(place, int(name))
    raise ReleaseError(
        f"{name}: neither {model} nor {candidate_model(model)} has such a version; see lobsmith models list"
    )


def request_promotion(release: Release, model: str, version: int, *, reason: str = "") -> Reconciled:
    """Request a promotion: point the alias `champion` at a registered version, and reconcile.

    Raises:
        RegistryError: MLflow cannot be reached; nothing was changed.
        ReleaseError: there is no such version, or the repository is unreadable.
        LeaseError: another process reconciles all the time.
    """
    actor = release.actor or user()
    # Complete a pending rollback first: otherwise this request would be taken for the one rolled back.
    before = reconcile(release, model)
    if before.unreachable is None:
        workspace, limits = release.workspace, release.params.reconcile
        # Another process that moves the alias would overwrite the request.
        with hold_lease(workspace.reconcile_lease, f"promote {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s):
            request(workspace, model, CHAMPION, version, f"{actor}{': ' if reason else ''}{reason}")
    return reconcile(release, model, retry=True)


def register_challenger(
    release: Release, artifact: Artifact, *, model: str, contract: WireContract, run: RunRef
) -> Manifest:
    """Publish an artifact as the candidate deployment, keep it with its run, and point the alias `challenger` at it.

    No other process reconciles meanwhile: it would undeploy a candidate without an alias. The next one does so after a
    crash; the run can be resumed.

    Args:
        release: the context.
        artifact: to be published.
        model: the production model.
        contract: that the artifact was made for.
        run: in MLflow, with the registered version.

    Raises:
        GateError: a verdict is a refusal; nothing was published.
        ContractError: production has another contract; nothing was published.
        RegistryError: MLflow cannot be reached.
        ReleaseError, ServingError: it could not be published.
    """
    workspace, limits, deployment = release.workspace, release.params.reconcile, candidate_model(model)
    purpose = f"register a challenger of {model}"
    with hold_lease(workspace.reconcile_lease, purpose, ttl_s=limits.lease_s, wait_s=limits.wait_s):
        try:
            check_model(release.repository, model, contract, BACKEND)
            manifest = publish(release, artifact, model=deployment, contract=contract)
        except (GateError, ContractError) as error:
            tag_status(workspace, model, run, f"refused: {error}")
            raise
        log_release(workspace, run.run_id, release.repository.directory(deployment, manifest.version))
        request(workspace, model, CHALLENGER, run.registry_version, f"run {artifact.run}")
        # Last: from here on the window counts as trained.
        tag_status(workspace, model, run, f"candidate {deployment} {manifest.version}")
        return manifest


def in_service(workspace: Workspace, model: str, artifact_id: str) -> int | None:
    """Return the active version if it has this artifact.

    Raises:
        ReleaseError: the repository is unreadable.
    """
    repository = Repository.of(workspace)
    active = repository.active(model)
    if active is None or read_manifest(repository.directory(model, active)).artifact_id != artifact_id:
        return None
    return active


def tag_status(workspace: Workspace, model: str, run: RunRef, status: str) -> None:
    """Tag a registered version with its status.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    tag(workspace, model, run.registry_version, {SERVING: status})
