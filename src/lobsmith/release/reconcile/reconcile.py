"""Reconciling: the repository is made to follow the aliases in MLflow's registry.

Each step is decided from what the registry, the repository and the journal say at that moment
(`release/reconcile/plan.py`), and leads to a situation in which it is not the next one. So it does not matter who takes
a step, how often, or who was killed after which: whoever reconciles next goes on. While MLflow is away nothing is
changed, and what serves goes on.
"""

import time

from msgspec import Struct

from lobsmith.errors import RegistryError
from lobsmith.lease import hold_lease
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.publish.score import catch_up
from lobsmith.release.reconcile.plan import Present, Situation, next_step, taken_back
from lobsmith.release.reconcile.steps import Point, Work, refusal_of, take
from lobsmith.release.registry import aliases
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, Registered, Wanted
from lobsmith.release.repository import journal
from lobsmith.release.repository.recovery import resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.server import Server
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_MOST_STEPS = 12
"""More than any situation needs: somebody keeps moving the aliases."""
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


def reconcile(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    server: Server | None,
    who: str | None = None,
    retry: bool = False,
    note: Note | None = None,
) -> Reconciled:
    """Make the repository follow the registry's aliases, as far as possible.

    It may run in several processes at once: one works, the others wait and find nothing left to do.

    Args:
        workspace: where the repository lies.
        params: `reconcile` is used, and what publishing uses.
        model: the production model.
        server: the running server, None where none runs.
        who: for the journal, where the registry does not say who asked; the user of this process by default.
        retry: try again what was refused before, now.
        note: told each crash point once it is reached, and the steps of publications; see `Point`.

    Raises:
        LeaseError: another process reconciles all the time, or took over.
        ReleaseError: the repository or the journal is unreadable.
        ServingError: the server does not let go of a candidate.
    """
    limits = params.reconcile
    away = None
    with hold_lease(
        workspace.reconcile_lease, f"reconcile {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s
    ) as lease:
        work = Work(
            workspace=workspace,
            params=params,
            model=model,
            server=server,
            who=who,
            retry=retry,
            note=note,
            lease=lease,
        )
        wanted = Wanted()
        try:
            for _ in range(_MOST_STEPS):
                # Who was stopped and goes on must not act on what he knew then.
                with lease.fence():
                    pass
                wanted = aliases.wanted(workspace, model)
                step = next_step(_situation(work, wanted))
                work.reached(Point.DECIDED)
                if step is None:
                    break
                take(work, step)
        except RegistryError as error:
            away = str(error)
        unscored = catch_up(workspace, params, model, server=server, who=who, note=note, retry=retry)
    active, slot = (work.repository.active(name) for name in (model, candidate_model(model)))
    return Reconciled(
        model=model,
        active=active,
        candidate=slot,
        champion=None if wanted.champion is None else wanted.champion.version,
        promoted=None if work.promoted is None else work.promoted.version,
        done=tuple(work.done),
        refused=_refused(wanted),
        away=away,
        unscored=unscored,
    )


def _situation(work: Work, wanted: Wanted) -> Situation:
    """Read repository and journal at one moment, in which nobody is in the middle of changing them."""
    with sole_writer(work.workspace, work.params, f"look at {work.model}", server=work.server, who=work.who) as writer:
        # A rollback that was begun must be seen as one, or it would be undone here.
        resume(writer)
        entries = journal.read(work.workspace.journal)
        return Situation(
            active=_present(work.repository, work.model),
            slot=_present(work.repository, candidate_model(work.model)),
            wanted=wanted,
            taken_back=taken_back(entries, work.model),
            refused=frozenset(work.tried | _lately_refused(work, wanted)),
        )


def _present(repository: Repository, model: str) -> Present | None:
    version = repository.active(model)
    if version is None:
        return None
    # A spoilt copy is not what is wanted, and a sound one may be at hand.
    if repository.fault(model, version) is not None:
        return Present(version, _FAULTY)
    return Present(version, read_manifest(repository.directory(model, version)).artifact_id)


def _lately_refused(work: Work, wanted: Wanted) -> set[tuple[str, int]]:
    if work.retry:
        return set()
    since_ns = time.time_ns() - int(work.params.reconcile.retry_s * NS_PER_S)
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
