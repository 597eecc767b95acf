"""Asking for a version by hand: which registered version is meant, and what becomes of the wish."""

import re

from lobsmith.errors import ReleaseError
from lobsmith.lease import hold_lease
from lobsmith.params import Params
from lobsmith.process import user
from lobsmith.release.config import candidate_model
from lobsmith.release.manifest import Manifest
from lobsmith.release.reconcile import Reconciled, reconcile
from lobsmith.release.registry import ARTIFACT_ID, CHAMPION, Registered, find_registered, registered, request, wanted
from lobsmith.release.repository import Repository
from lobsmith.release.server import Server
from lobsmith.workspace import Workspace

_REGISTERED = re.compile(r"registry:([1-9][0-9]{0,17})", re.ASCII)


def registered_of(workspace: Workspace, model: str, name: str | None) -> Registered:
    """Return the registered version that a person means.

    Args:
        workspace: where the repository lies.
        model: the production model.
        name: a version of production or of the candidate slot, `registry:N`, or None for the challenger.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReleaseError: there is no such version, or it is not registered.
    """
    if name is None:
        challenger = wanted(workspace, model).challenger
        if challenger is None:
            raise ReleaseError(f"{model}: there is no challenger; name a version, see lobsmith models list")
        return challenger
    if found := _REGISTERED.fullmatch(name):
        return registered(workspace, model, int(found[1]))
    manifest = version_named(workspace, model, name)
    same = find_registered(workspace, model, {ARTIFACT_ID: manifest.artifact_id})
    if not same:
        raise ReleaseError(f"{manifest.model} {name}: no registered version holds this artifact; name registry:N")
    return same[-1]


def version_named(workspace: Workspace, model: str, name: str) -> Manifest:
    """Return the manifest of a version of production or of the candidate slot, checked.

    Raises:
        ReleaseError: there is no such version, or it is not sound.
    """
    repository = Repository.of(workspace)
    for place in (model, candidate_model(model)):
        if name in map(str, repository.versions(place)):
            return repository.verify(place, int(name))
    raise ReleaseError(
        f"{name}: neither {model} nor {candidate_model(model)} has such a version; see lobsmith models list"
    )


def ask_for(
    workspace: Workspace,
    params: Params,
    model: str,
    version: int,
    *,
    server: Server | None,
    who: str | None = None,
    reason: str = "",
) -> Reconciled:
    """Point the alias `champion` at a registered version, and make the repository follow at once.

    Args:
        workspace: where the repository lies.
        params: what reconciling uses.
        model: the production model.
        version: the registered version.
        server: the running server, None where none runs.
        who: who asks; the user of this process by default.
        reason: why, for the journal.

    Raises:
        RegistryError: MLflow cannot be reached; nothing was changed.
        ReleaseError: there is no such version, or the repository is unreadable.
        LeaseError: another process reconciles all the time.
    """
    who = who or user()
    # A rollback that the alias has not followed yet is completed first: then this is a new wish, and not the old one.
    before = reconcile(workspace, params, model, server=server, who=who)
    if before.away is None:
        limits = params.reconcile
        # Nobody else is in the middle of moving the alias, or he would overwrite the wish.
        with hold_lease(workspace.reconcile_lease, f"promote {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s):
            request(workspace, model, CHAMPION, version, f"{who}{': ' if reason else ''}{reason}")
    return reconcile(workspace, params, model, server=server, who=who, retry=True)
