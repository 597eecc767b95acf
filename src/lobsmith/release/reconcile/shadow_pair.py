"""The champion/challenger pair of shadow evaluation, and the aliases that a verdict moves."""

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from lobsmith.lease import hold_lease
from lobsmith.online.evidence import PROMOTE, REJECT, LiveVerdict
from lobsmith.params import Params
from lobsmith.release.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    REFUSED,
    Registered,
    alias_targets,
    delete_alias,
    request,
)
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace


class VersionPair(Struct, frozen=True):
    """The active version, the candidate, and the candidate's registered version."""

    active: Manifest
    candidate: Manifest
    challenger: Registered

    def has_same_versions(self, other: "VersionPair | str") -> bool:
        """Return whether `other` is a pair of the same versions, whatever their tags."""
        if not isinstance(other, VersionPair):
            return False
        return all(
            mine.version == its.version
            for mine, its in (
                (self.active, other.active),
                (self.candidate, other.candidate),
                (self.challenger, other.challenger),
            )
        )


def pair_of(workspace: Workspace, model: str) -> VersionPair | str:
    """Return the pair to be compared, or why there is none.

    Raises:
        RegistryError: MLflow cannot be reached.
        VersionGoneError: a version was rolled back or retired meanwhile.
        ReleaseError: a version is corrupt.
    """
    repository, deployment = Repository.of(workspace), candidate_model(model)
    active, candidate = repository.active(model), repository.active(deployment)
    if candidate is None:
        return "there is no candidate"
    if active is None:
        return "nothing serves that a candidate could be compared with"
    with repository.reading(deployment, candidate):
        manifest = repository.verify(deployment, candidate)
    targets = alias_targets(workspace, model)
    champion = targets.champion
    if targets.challenger is None or targets.challenger.artifact_id != manifest.artifact_id:
        return "the candidate is not the challenger; reconcile first"
    with repository.reading(model, active):
        serving = read_manifest(repository.directory(model, active))
    # Another promotion is requested, or was rolled back: a verdict must not overrule that.
    if champion is not None and champion.artifact_id != serving.artifact_id and REFUSED not in champion.tags:
        return "the champion is not what serves; reconcile first"
    return VersionPair(serving, manifest, targets.challenger)


def apply_decision(workspace: Workspace, params: Params, model: str, pair: VersionPair, verdict: LiveVerdict) -> bool:
    """Move the aliases by a verdict; return False, without a move, where the pair has changed.

    Raises:
        RegistryError: MLflow cannot be reached.
        LeaseError: another process reconciles all the time.
    """
    with _hold_pair(workspace, params, model, pair) as unchanged:
        if unchanged and verdict.decision == PROMOTE:
            request(workspace, model, CHAMPION, pair.challenger.version, f"shadow verdict: {verdict.reason}")
        elif unchanged and verdict.decision == REJECT:
            delete_alias(workspace, model, CHALLENGER)
        return unchanged


def promote_on_gates(workspace: Workspace, params: Params, model: str, pair: VersionPair, why: str) -> bool:
    """Make the challenger the champion without a verdict; return False where the pair has changed.

    Raises:
        RegistryError: MLflow cannot be reached.
        LeaseError: another process reconciles all the time.
    """
    with _hold_pair(workspace, params, model, pair) as unchanged:
        if unchanged:
            request(workspace, model, CHAMPION, pair.challenger.version, why)
        return unchanged


@contextmanager
def _hold_pair(workspace: Workspace, params: Params, model: str, pair: VersionPair) -> Iterator[bool]:
    """Yield whether a pair is unchanged; meanwhile no other process reconciles or registers a challenger."""
    limits = params.reconcile
    purpose = f"act on a candidate of {model}"
    with hold_lease(workspace.reconcile_lease, purpose, ttl_s=limits.lease_s, wait_s=limits.wait_s):
        yield pair.has_same_versions(pair_of(workspace, model))
