"""From a retrain to the candidate slot: published, kept with its run, and asked for as the challenger."""

from lobsmith.errors import ContractError, GateError
from lobsmith.lease import hold_lease
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.config import BACKEND, candidate_model
from lobsmith.release.contract import WireContract
from lobsmith.release.manifest import Manifest, read_manifest
from lobsmith.release.publication import check_model
from lobsmith.release.publish import Artifact, publish
from lobsmith.release.registry import CHALLENGER, SERVING, log_release, request, tag
from lobsmith.release.repository import Repository
from lobsmith.release.server import Server
from lobsmith.release.tracking import RunRef
from lobsmith.workspace import Workspace


def nominate_new(
    workspace: Workspace,
    params: Params,
    artifact: Artifact,
    *,
    model: str,
    contract: WireContract,
    run: RunRef,
    server: Server | None,
    who: str | None = None,
    note: Note | None = None,
) -> Manifest:
    """Publish an artifact in the candidate slot, keep the version with its run, and point the alias at it.

    Nobody reconciles meanwhile: a candidate that no alias asks for yet would be taken for one that is not wanted.
    Whoever is killed on the way leaves a candidate without an alias, which the next one to reconcile retires; the run
    can be resumed.

    Args:
        workspace: where the repository lies.
        params: what publishing uses, and `reconcile`.
        artifact: what to publish.
        model: the production model.
        contract: tensors and definitions that the artifact was made for.
        run: in MLflow, with the registered version.
        server: the running server, None where none runs.
        who: for the journal; the user of this process by default.
        note: told each step of the publication once it is done.

    Returns:
        The manifest of the version in the slot.

    Raises:
        GateError: a verdict is a refusal; nothing was published.
        ContractError: production has another contract; nothing was published.
        RegistryError: MLflow cannot be reached.
        ReleaseError, ServingError: it could not be published.
    """
    slot, limits = candidate_model(model), params.reconcile
    purpose = f"nominate a candidate of {model}"
    with hold_lease(workspace.reconcile_lease, purpose, ttl_s=limits.lease_s, wait_s=limits.wait_s):
        try:
            check_model(Repository.of(workspace), model, contract, BACKEND)
            manifest = publish(
                workspace, params, artifact, model=slot, contract=contract, server=server, who=who, note=note
            )
        except (GateError, ContractError) as error:
            note_serving(workspace, model, run, f"refused: {error}")
            raise
        log_release(workspace, run.run_id, Repository.of(workspace).directory(slot, manifest.version))
        request(workspace, model, CHALLENGER, run.registry_version, f"run {artifact.run}")
        # Last: with it the window counts as trained, and a candidate that nobody asks for would be lost.
        note_serving(workspace, model, run, f"candidate {slot} {manifest.version}")
        return manifest


def in_service(workspace: Workspace, model: str, artifact_id: str) -> int | None:
    """Return the active version if it holds an artifact.

    Raises:
        ReleaseError: the repository is unreadable.
    """
    repository = Repository.of(workspace)
    active = repository.active(model)
    if active is None or read_manifest(repository.directory(model, active)).artifact_id != artifact_id:
        return None
    return active


def note_serving(workspace: Workspace, model: str, run: RunRef, words: str) -> None:
    """Note on a registered version what became of it.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    tag(workspace, model, run.registry_version, {SERVING: words})
