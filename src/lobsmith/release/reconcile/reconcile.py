"""Reconcile: the repository is made to follow the aliases in MLflow's registry.

Each step is decided from what the registry, the repository and the journal say at that moment
(`release/reconcile/plan.py`), and leads to a situation in which it is not the next one. So any process may take a step,
any number of times, and be killed after it: the next reconcile goes on. While MLflow is away nothing is changed, and
what serves goes on.
"""

from dataclasses import replace

from msgspec import Struct

from lobsmith import clock
from lobsmith.errors import RegistryError
from lobsmith.lease import hold_lease
from lobsmith.release.context import Release
from lobsmith.release.publish.score import catch_up
from lobsmith.release.reconcile.actions import CrashPoint, Work, perform, refusal_of
from lobsmith.release.reconcile.plan import Present, Situation, next_action, taken_back
from lobsmith.release.registry import aliases
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, Registered, Wanted
from lobsmith.release.repository import journal
from lobsmith.release.repository.recovery import resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.units import NS_PER_S

_MOST_STEPS = 12
"""More than any situation needs: the aliases keep moving."""
_FAULTY = "faulty"


class Reconciled(Struct, frozen=True, kw_only=True):
    """What was done and what could not be.

    Attributes:
        model: the production model.
        active: its active version.
        candidate: the version in the candidate slot.
        champion: the registered version that the alias asked for in the end.
        promoted: the last version that was promoted in this call.
        done: the steps taken, in words.
        refused: aliases whose wish cannot be had, and why.
        away: why MLflow cannot be asked; what was not done before is left as it is.
        unscored: listed versions whose reference score is not served, and why; they answer without it.
    """

    model: str
    active: int | None
    candidate: int | None
    champion: int | None = None
    promoted: int | None = None
    done: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    away: str | None = None
    unscored: dict[int, str] = {}

    def words(self) -> str:
        """Return what came of it, in one line."""
        return "; ".join(
            [
                *([f"nothing changed: {self.away}"] if self.away else []),
                *self.done,
                *(f"refused: {reason}" for reason in self.refused.values()),
                *(f"{version} is without its score: {reason}" for version, reason in self.unscored.items()),
            ]
        )


def reconcile(release: Release, model: str, *, retry: bool = False) -> Reconciled:
    """Make the repository follow the registry's aliases, as far as possible.

    It may run in several processes at once: one works, the others wait and find nothing left to do.

    Args:
        release: the context; `note` is called with the name of each crash point too, see `CrashPoint`. `who` is for the
            journal, where the registry does not say who asked.
        model: the production model.
        retry: try again what was refused before, now.

    Raises:
        LeaseError: another process reconciles all the time, or took over.
        ReleaseError: the repository or the journal is unreadable.
        ServingError: the server does not let go of a candidate.
    """
    workspace, limits = release.workspace, release.params.reconcile
    away = None
    with hold_lease(
        workspace.reconcile_lease, f"reconcile {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s
    ) as lease:
        work = Work(release=release, model=model, retry=retry, lease=lease)
        wanted = Wanted()
        try:
            for _ in range(_MOST_STEPS):
                # A process that was stopped and goes on must not act on what it knew then.
                with lease.fence():
                    pass
                wanted = aliases.wanted(workspace, model)
                action = next_action(_situation(work, wanted))
                work.reached(CrashPoint.DECIDED)
                if action is None:
                    break
                perform(work, action)
        except RegistryError as error:
            away = str(error)
        unscored = catch_up(release, model, retry=retry)
    active, candidate = (release.repository.active(name) for name in (model, candidate_model(model)))
    return Reconciled(
        model=model,
        active=active,
        candidate=candidate,
        champion=None if wanted.champion is None else wanted.champion.version,
        promoted=None if work.promoted is None else work.promoted.version,
        done=tuple(work.done),
        refused=_refused(wanted),
        away=away,
        unscored=unscored,
    )


def _situation(work: Work, wanted: Wanted) -> Situation:
    """Read repository and journal under the lease, at one moment at which no writer is in the middle of a change."""
    with sole_writer(replace(work.release, note=None), f"look at {work.model}") as writer:
        # A rollback that was begun must be seen as one, or it would be undone here.
        resume(writer)
        entries = journal.read(work.release.workspace.journal)
        return Situation(
            active=_present(writer.repository, work.model),
            candidate=_present(writer.repository, candidate_model(work.model)),
            wanted=wanted,
            taken_back=taken_back(entries, work.model),
            refused=frozenset(work.tried | _lately_refused(work, wanted)),
        )


def _present(repository: Repository, model: str) -> Present | None:
    version = repository.active(model)
    if version is None:
        return None
    # A spoilt copy is not what is wanted, and a sound one may be at hand.
    if repository.integrity_error(model, version) is not None:
        return Present(version, _FAULTY)
    return Present(version, read_manifest(repository.directory(model, version)).artifact_id)


def _lately_refused(work: Work, wanted: Wanted) -> set[tuple[str, int]]:
    if work.retry:
        return set()
    since_ns = clock.now_ns() - int(work.release.params.reconcile.retry_s * NS_PER_S)
    found = set()
    for alias, version in _wishes(wanted):
        refusal = refusal_of(version)
        if refusal is not None and refusal.time_ns > since_ns:
            found.add((alias, version.version))
    return found


def _refused(wanted: Wanted) -> dict[str, str]:
    refusals = {alias: (version, refusal_of(version)) for alias, version in _wishes(wanted)}
    return {
        alias: f"registry:{version.version}: {refusal.reason}"
        for alias, (version, refusal) in refusals.items()
        if refusal is not None
    }


def _wishes(wanted: Wanted) -> list[tuple[str, Registered]]:
    both = ((CHAMPION, wanted.champion), (CHALLENGER, wanted.challenger))
    return [(alias, version) for alias, version in both if version is not None]
