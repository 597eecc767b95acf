"""The champion/challenger pair of shadow evaluation, and the aliases that a verdict on it moves."""

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from lobsmith.lease import hold_lease
from lobsmith.online.evidence import PROMOTE, REJECT, LiveVerdict
from lobsmith.params import Params
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, REFUSED, Registered, delete_alias, request, wanted
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace


class Pair(Struct, frozen=True):
    """The active version, the candidate, and the registered version that it is of."""

    active: Manifest
    candidate: Manifest
    challenger: Registered

    def is_still(self, other: "Pair | str") -> bool:
        """Say whether it is the same pair, whatever was noted on the registered version meanwhile."""
        return isinstance(other, Pair) and (self.active.version, self.candidate.version, self.challenger.version) == (
            other.active.version,
            other.candidate.version,
            other.challenger.version,
        )


def pair_of(workspace: Workspace, model: str) -> Pair | str:
    """Return the pair that is to be compared, or why there is none.

    Raises:
        RegistryError: MLflow cannot be reached.
        VersionGoneError: one was rolled back or retired meanwhile.
        ReleaseError: a version is not sound.
    """
    repository, deployment = Repository.of(workspace), candidate_model(model)
    active, candidate = repository.active(model), repository.active(deployment)
    if candidate is None:
        return "there is no candidate"
    if active is None:
        return "nothing serves that a candidate could be compared with"
    with repository.reading(deployment, candidate):
        manifest = repository.verify(deployment, candidate)
    now = wanted(workspace, model)
    champion = now.champion
    if now.challenger is None or now.challenger.artifact_id != manifest.artifact_id:
        return "the candidate is not the challenger; reconcile first"
    with repository.reading(model, active):
        serving = read_manifest(repository.directory(model, active))
    # Another version is wanted, or the wanted one was rolled back: a verdict must not overrule that.
    if champion is not None and champion.artifact_id != serving.artifact_id and REFUSED not in champion.tags:
        return "the champion is not what serves; reconcile first"
    return Pair(serving, manifest, now.challenger)


def move_aliases(workspace: Workspace, params: Params, model: str, pair: Pair, verdict: LiveVerdict) -> bool:
    """Move the aliases as a verdict says; return False, having moved none, where it is about another pair by now.

    Raises:
        RegistryError: MLflow cannot be reached.
        LeaseError: another process reconciles all the time.
    """
    with _if_still(workspace, params, model, pair) as still:
        if still and verdict.decision == PROMOTE:
            request(workspace, model, CHAMPION, pair.challenger.version, f"shadow verdict: {verdict.reason}")
        elif still and verdict.decision == REJECT:
            delete_alias(workspace, model, CHALLENGER)
        return still


def promote_on_gates(workspace: Workspace, params: Params, model: str, pair: Pair, why: str) -> bool:
    """Make the challenger the champion without a verdict; return False where it is about another pair by now.

    Raises:
        RegistryError: MLflow cannot be reached.
        LeaseError: another process reconciles all the time.
    """
    with _if_still(workspace, params, model, pair) as still:
        if still:
            request(workspace, model, CHAMPION, pair.challenger.version, why)
        return still


@contextmanager
def _if_still(workspace: Workspace, params: Params, model: str, pair: Pair) -> Iterator[bool]:
    """Say whether a pair is still the one to be compared, and keep it so for as long as the block lasts.

    No other process reconciles or nominates meanwhile: a new challenger must not lose its alias to an old verdict.
    """
    limits = params.reconcile
    purpose = f"act on a candidate of {model}"
    with hold_lease(workspace.reconcile_lease, purpose, ttl_s=limits.lease_s, wait_s=limits.wait_s):
        yield pair.is_still(pair_of(workspace, model))
