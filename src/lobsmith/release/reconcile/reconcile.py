"""Reconcile: the repository follows the aliases in MLflow's registry.

Each action is planned anew (`release/reconcile/plan.py`), so the next reconcile, in any process, continues after a
crash. While MLflow is unreachable nothing is changed, and serving continues.
"""

from dataclasses import replace

from msgspec import Struct, field

from lobsmith import clock
from lobsmith.errors import RegistryError
from lobsmith.lease import hold_lease
from lobsmith.release.context import Release
from lobsmith.release.publish.score import catch_up
from lobsmith.release.reconcile.actions import ReconcilePoint, Work, perform, refusal_of
from lobsmith.release.reconcile.plan import Present, Situation, next_action, taken_back
from lobsmith.release.registry import aliases
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, AliasTargets, Registered
from lobsmith.release.repository import journal
from lobsmith.release.repository.recovery import resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.units import NS_PER_S

_MOST_ACTIONS = 12
"""More than any situation needs; reached if the aliases keep moving."""
_CORRUPT = "corrupt"


class Reconciled(Struct, frozen=True, kw_only=True):
    """The outcome of a reconcile.

    Attributes:
        model: the production model.
        active: its active version.
        candidate: the version of the candidate deployment.
        champion: the registered version that the alias requested last.
        promoted: the last version promoted in this call.
        actions: the actions taken, as text.
        refused: the reason by alias.
        unreachable: why MLflow is unreachable; later actions were not taken.
        unscored: the reason by listed version whose drift score is not served.
    """

    model: str
    active: int | None
    candidate: int | None
    champion: int | None = None
    promoted: int | None = None
    actions: tuple[str, ...] = field(default=(), name="done")
    refused: dict[str, str] = {}
    unreachable: str | None = field(default=None, name="away")
    unscored: dict[int, str] = {}

    def summary(self) -> str:
        """Return the outcome in one line."""
        return "; ".join(
            [
                *([f"nothing changed: {self.unreachable}"] if self.unreachable else []),
                *self.actions,
                *(f"refused: {reason}" for reason in self.refused.values()),
                *(f"{version} is without its score: {reason}" for version, reason in self.unscored.items()),
            ]
        )


def reconcile(release: Release, model: str, *, retry: bool = False) -> Reconciled:
    """Make the repository follow the registry's aliases, as far as possible.

    Of several processes one acts, the others wait and have nothing left to do.

    Args:
        release: the context; `actor` is for the journal where the registry names no requester.
        model: the production model.
        retry: try again now what was refused lately.

    Raises:
        LeaseError: another process reconciles all the time, or took over.
        ReleaseError: repository or journal is unreadable.
        ServingError: the server does not unload a candidate.
    """
    workspace, limits = release.workspace, release.params.reconcile
    unreachable = None
    with hold_lease(
        workspace.reconcile_lease, f"reconcile {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s
    ) as lease:
        work = Work(release=release, model=model, retry=retry, lease=lease)
        targets = AliasTargets()
        try:
            for _ in range(_MOST_ACTIONS):
                # A process that was paused must not act on an old situation.
                with lease.fence():
                    pass
                targets = aliases.alias_targets(workspace, model)
                action = next_action(_situation(work, targets))
                work.reached(ReconcilePoint.DECIDED)
                if action is None:
                    break
                perform(work, action)
        except RegistryError as error:
            unreachable = str(error)
        unscored = catch_up(release, model, retry=retry)
    active, candidate = (release.repository.active(name) for name in (model, candidate_model(model)))
    return Reconciled(
        model=model,
        active=active,
        candidate=candidate,
        champion=None if targets.champion is None else targets.champion.version,
        promoted=None if work.promoted is None else work.promoted.version,
        actions=tuple(work.actions),
        refused=_refused(targets),
        unreachable=unreachable,
        unscored=unscored,
    )


def _situation(work: Work, targets: AliasTargets) -> Situation:
    """Read repository and journal under the lease, between two changes."""
    with sole_writer(replace(work.release, note=None), f"read the state of {work.model}") as writer:
        # An incomplete rollback must be journaled first, or it would be undone here.
        resume(writer)
        entries = journal.read(work.release.workspace.journal)
        return Situation(
            active=_present(writer.repository, work.model),
            candidate=_present(writer.repository, candidate_model(work.model)),
            targets=targets,
            taken_back=taken_back(entries, work.model),
            refused=frozenset(work.tried | _lately_refused(work, targets)),
        )


def _present(repository: Repository, model: str) -> Present | None:
    version = repository.active(model)
    if version is None:
        return None
    # Not the wanted artifact: a valid copy may replace it.
    if repository.integrity_error(model, version) is not None:
        return Present(version, _CORRUPT)
    return Present(version, read_manifest(repository.directory(model, version)).artifact_id)


def _lately_refused(work: Work, targets: AliasTargets) -> set[tuple[str, int]]:
    if work.retry:
        return set()
    since_ns = clock.now_ns() - int(work.release.params.reconcile.retry_s * NS_PER_S)
    refused = set()
    for alias, version in _requests(targets):
        refusal = refusal_of(version)
        if refusal is not None and refusal.time_ns > since_ns:
            refused.add((alias, version.version))
    return refused


def _refused(targets: AliasTargets) -> dict[str, str]:
    refusals = {alias: (version, refusal_of(version)) for alias, version in _requests(targets)}
    return {
        alias: f"registry:{version.version}: {refusal.reason}"
        for alias, (version, refusal) in refusals.items()
        if refusal is not None
    }


def _requests(targets: AliasTargets) -> list[tuple[str, Registered]]:
    both = ((CHAMPION, targets.champion), (CHALLENGER, targets.challenger))
    return [(alias, version) for alias, version in both if version is not None]
