"""Reconciling: the repository is made to follow the aliases in MLflow's registry.

Each step is decided from what the registry, the repository and the journal say at that moment (`release/desired.py`),
and leads to a situation in which it is not the next one. So it does not matter who takes a step, how often, or who was
killed after which: whoever reconciles next goes on. While MLflow is away nothing is changed, and what serves goes on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from lobsmith.errors import LobsmithError, RegistryError
from lobsmith.gates.live_verdict import WATCH
from lobsmith.gates.verdict import Verdict
from lobsmith.lease import hold_lease
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release import journal, registry
from lobsmith.release.candidate import retire_candidate
from lobsmith.release.config import candidate_model
from lobsmith.release.desired import (
    Crown,
    DropChallenger,
    Fill,
    Present,
    Promote,
    Restore,
    Retire,
    Settle,
    Situation,
    Step,
    Tag,
    next_step,
    taken_back,
)
from lobsmith.release.manifest import Manifest, read_manifest
from lobsmith.release.promote import nominate, promote
from lobsmith.release.recovery import resume
from lobsmith.release.registry import CHALLENGER, CHAMPION, Registered, Wanted
from lobsmith.release.repository import Repository
from lobsmith.release.server import Server
from lobsmith.release.sources import source_of
from lobsmith.release.writer import sole_writer
from lobsmith.workspace import Workspace

_MOST_STEPS = 12
"""More than any situation needs: somebody keeps moving the aliases."""
_FAULTY = "faulty"
_Kind = TypeVar("_Kind")


class Point(StrEnum):
    """The crash points: what is done when a process may be killed."""

    DECIDED = "decided"
    FOUND = "found"
    """A sound copy of what is wanted is at hand."""
    PROMOTED = "promoted"
    CROWNED = "crowned"
    """The challenger is the champion, as nothing serves."""
    FILLED = "filled"
    EMPTIED = "emptied"
    BLAMED = "blamed"
    """The registered version says that it was rolled back."""
    RESTORED = "restored"
    """The alias points at what serves."""
    SETTLED = "settled"
    DROPPED = "dropped"
    """The alias `challenger` is gone from what is in production."""
    TAGGED = "tagged"
    JOURNALED = "journaled"
    """The journal has a refusal."""
    REFUSED = "refused"


class Reconciled(Struct, frozen=True, kw_only=True):
    """What was done and what could not be.

    Attributes:
        model: the production model.
        active: its active version.
        candidate: the version in the candidate slot.
        promoted: the last version that was promoted in this call.
        done: the steps taken, in words.
        refused: aliases whose wish cannot be had, and why.
        away: why MLflow cannot be asked; nothing was changed then.
    """

    model: str
    active: int | None
    candidate: int | None
    promoted: int | None = None
    done: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    away: str | None = None


class _Refusal(Struct, frozen=True):
    time_ns: int
    reason: str


@dataclass(kw_only=True)
class _Work:
    """One call's work."""

    workspace: Workspace
    params: Params
    model: str
    server: Server | None
    who: str | None
    retry: bool
    note: Note | None
    promoted: Manifest | None = None
    done: list[str] = field(default_factory=list)
    tried: set[tuple[str, int]] = field(default_factory=set)

    def reached(self, point: Point) -> None:
        if self.note is not None:
            self.note(point.value)

    @property
    def repository(self) -> Repository:
        return Repository.of(self.workspace)


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
    work = _Work(workspace=workspace, params=params, model=model, server=server, who=who, retry=retry, note=note)
    limits = params.reconcile
    away = None
    with hold_lease(
        workspace.reconcile_lease, f"reconcile {model}", ttl_s=limits.lease_s, wait_s=limits.wait_s
    ) as lease:
        wanted = Wanted()
        try:
            for _ in range(_MOST_STEPS):
                # Who was stopped and goes on must not act on what he knew then.
                with lease.fence():
                    pass
                wanted = registry.wanted(workspace, model)
                step = next_step(_situation(work, wanted))
                work.reached(Point.DECIDED)
                if step is None:
                    break
                _take(work, step)
        except RegistryError as error:
            away = str(error)
    active, slot = (work.repository.active(name) for name in (model, candidate_model(model)))
    return Reconciled(
        model=model,
        active=active,
        candidate=slot,
        promoted=None if work.promoted is None else work.promoted.version,
        done=tuple(work.done),
        refused=_refused(wanted),
        away=away,
    )


def _situation(work: _Work, wanted: Wanted) -> Situation:
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


def _lately_refused(work: _Work, wanted: Wanted) -> set[tuple[str, int]]:
    if work.retry:
        return set()
    since_ns = time.time_ns() - int(work.params.reconcile.retry_s * 1e9)
    found = set()
    for alias, version in _wishes(wanted):
        refusal = _refusal(version)
        if refusal is not None and refusal.time_ns > since_ns:
            found.add((alias, version.version))
    return found


def _refused(wanted: Wanted) -> dict[str, str]:
    refusals = {alias: (version, _refusal(version)) for alias, version in _wishes(wanted)}
    return {
        alias: f"registry:{version.version}: {refusal.reason}"
        for alias, (version, refusal) in refusals.items()
        if refusal is not None
    }


def _wishes(wanted: Wanted) -> list[tuple[str, Registered]]:
    both = ((CHAMPION, wanted.champion), (CHALLENGER, wanted.challenger))
    return [(alias, version) for alias, version in both if version is not None]


def _refusal(version: Registered) -> _Refusal | None:
    return _decoded(version.tags.get(registry.REFUSED), _Refusal)


def _take(work: _Work, step: Step) -> None:
    match step:
        case Promote(champion):
            _grant(work, CHAMPION, champion, lambda: _promote(work, champion))
        case Crown(challenger):
            registry.set_alias(work.workspace, work.model, CHAMPION, challenger.version)
            work.reached(Point.CROWNED)
            work.done.append(f"registry:{challenger.version} is {CHAMPION}: nothing serves, and its gates have passed")
        case Fill(challenger):
            _grant(work, CHALLENGER, challenger, lambda: _fill(work, challenger))
        case Retire(slot):
            _retire(work, slot)
        case Restore(champion, active):
            _restore(work, champion, active)
        case Settle(artifacts):
            _settle(work, artifacts)
        case DropChallenger(challenger):
            registry.delete_alias(work.workspace, work.model, CHALLENGER)
            work.reached(Point.DROPPED)
            work.done.append(f"registry:{challenger.version} is in production and no challenger any more")
        case Tag(champion, active):
            _tag(work, champion, active)


def _grant(work: _Work, alias: str, wished: Registered, act: Callable[[], str]) -> None:
    """Fulfil a wish, or note why not: in the journal once, and on the registered version, where it is looked for."""
    name = work.model if alias == CHAMPION else candidate_model(work.model)
    known = len(journal.read(work.workspace.journal))
    work.tried.add((alias, wished.version))
    try:
        if wished.artifact_id is None:
            _identify(work, wished)
            work.tried.discard((alias, wished.version))
            return
        work.done.append(act())
    except RegistryError:
        raise
    except LobsmithError as error:
        before, reason = _refusal(wished), " ".join(str(error).split())
        written = any(
            (entry.model, entry.action) == (name, journal.REFUSED)
            for entry in journal.read(work.workspace.journal)[known:]
        )
        if not written and (before is None or before.reason != reason):
            _record(work, name, journal.REFUSED, wished.artifact_id, f"registry:{wished.version}: {reason}")
        work.reached(Point.JOURNALED)
        refusal = msgspec.json.encode(_Refusal(time.time_ns(), reason)).decode()
        tags = {registry.REFUSED: refusal, registry.SERVING: f"refused: {reason}"}
        registry.tag(work.workspace, work.model, wished.version, tags)
        work.reached(Point.REFUSED)


def _identify(work: _Work, wished: Registered) -> None:
    """Note which artifact a version holds that somebody registered by hand."""
    with registry.release_of(work.workspace, work.model, wished) as (_, manifest):
        tags = {registry.ARTIFACT_ID: manifest.artifact_id}
    registry.tag(work.workspace, work.model, wished.version, tags)


def _promote(work: _Work, champion: Registered) -> str:
    verdict = _verdict(champion)
    with source_of(work.workspace, work.model, champion) as source:
        work.reached(Point.FOUND)
        work.promoted = promote(
            work.workspace,
            work.params,
            source,
            model=work.model,
            server=work.server,
            who=work.who,
            reason=_why(CHAMPION, champion),
            verdicts=(verdict,) if verdict is not None and verdict.passed else (),
            note=work.note,
        )
    work.reached(Point.PROMOTED)
    return f"promoted registry:{champion.version} as {work.model} {work.promoted.version}"


def _fill(work: _Work, challenger: Registered) -> str:
    with source_of(work.workspace, work.model, challenger) as source:
        work.reached(Point.FOUND)
        manifest = nominate(
            work.workspace,
            work.params,
            source,
            model=work.model,
            server=work.server,
            who=work.who,
            reason=_why(CHALLENGER, challenger),
            note=work.note,
        )
    work.reached(Point.FILLED)
    return f"published registry:{challenger.version} as {manifest.model} {manifest.version}"


def _retire(work: _Work, slot: Present) -> None:
    """Empty the slot; the last verdict on what was in it, if there is one, goes into the journal."""
    found = registry.find_registered(work.workspace, work.model, {registry.ARTIFACT_ID: slot.artifact_id})
    verdicts = [verdict for verdict in map(_verdict, found) if verdict is not None and not _undecided(verdict)]
    retire_candidate(
        work.workspace,
        work.params,
        work.model,
        server=work.server,
        who=work.who,
        reason=f"no registered version is {CHALLENGER}",
        verdicts=tuple(verdicts[-1:]),
        note=work.note,
    )
    work.reached(Point.EMPTIED)
    work.done.append(f"emptied {candidate_model(work.model)}, which held {slot.version}")


def _restore(work: _Work, champion: Registered, active: Present | None) -> None:
    """Point the alias at what serves; where that is not registered, at nothing."""
    tags = {registry.SERVING: "rolled back"}
    registry.tag(work.workspace, work.model, champion.version, tags)
    work.reached(Point.BLAMED)
    serving: list[Registered] = []
    if active is not None:
        wanted = {registry.ARTIFACT_ID: active.artifact_id}
        serving = registry.find_registered(work.workspace, work.model, wanted)
    if serving:
        registry.set_alias(work.workspace, work.model, CHAMPION, serving[-1].version)
        where = f"registry:{serving[-1].version}"
    else:
        registry.delete_alias(work.workspace, work.model, CHAMPION)
        where = "nothing"
    work.reached(Point.RESTORED)
    work.done.append(f"{CHAMPION} moved from registry:{champion.version}, which was rolled back, to {where}")


def _settle(work: _Work, artifacts: frozenset[str]) -> None:
    short = ", ".join(sorted(one[:12] for one in artifacts))
    reason = f"{CHAMPION} asks for what was rolled back no longer ({short}); it may be asked for again"
    _record(work, work.model, journal.SETTLED, None, reason)
    work.reached(Point.SETTLED)
    work.done.append("the rollback is complete")


def _tag(work: _Work, champion: Registered, active: Present) -> None:
    tags = {
        registry.TRITON_VERSION: str(active.version),
        registry.SERVING: f"active as {work.model} {active.version}",
    }
    registry.untag(work.workspace, work.model, champion, registry.REQUEST, registry.REFUSED)
    registry.tag(work.workspace, work.model, champion.version, tags)
    work.reached(Point.TAGGED)


def _record(work: _Work, model: str, action: str, artifact_id: str | None, reason: str) -> None:
    purpose = f"journal {action} of {model}"
    with sole_writer(work.workspace, work.params, purpose, server=work.server, who=work.who) as writer:
        active = work.repository.active(model)
        writer.record(writer.entry(action, model, before=active, about=None, artifact_id=artifact_id, reason=reason))


def _why(alias: str, wished: Registered) -> str:
    request = wished.tags.get(registry.REQUEST)
    return f"registry:{wished.version} is {alias}" + (f": {request}" if request else "")


def _verdict(version: Registered) -> Verdict | None:
    return _decoded(version.tags.get(registry.SHADOW), Verdict)


def _undecided(verdict: Verdict) -> bool:
    return verdict.evidence.get("decision") == WATCH


def _decoded(text: str | None, kind: type[_Kind]) -> _Kind | None:
    """Return what a tag says; anybody may have written something else there."""
    try:
        return None if text is None else msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None
