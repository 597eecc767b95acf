"""The steps of reconciling: what is done for each, and the crash points between their parts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from lobsmith import clock
from lobsmith.errors import LeaseError, LeaseLostError, LobsmithError, RegistryError
from lobsmith.lease import Lease
from lobsmith.online.evidence import WATCH
from lobsmith.release.context import Release
from lobsmith.release.publish.promote import deploy_candidate, promote
from lobsmith.release.reconcile.artifact_source import source_of
from lobsmith.release.reconcile.plan import (
    AcknowledgeRollback,
    Action,
    DeployCandidate,
    DropChallenger,
    Present,
    Promote,
    PromoteChallenger,
    RevertAlias,
    Tag,
    UndeployCandidate,
    taken_back,
)
from lobsmith.release.registry import aliases
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, Registered
from lobsmith.release.repository import journal
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.verdict import Verdict

_Kind = TypeVar("_Kind")


class CrashPoint(StrEnum):
    """The crash points: what is done when a process may be killed."""

    DECIDED = "decided"
    FOUND = "found"
    """A sound copy of what is wanted is at hand."""
    PROMOTED = "promoted"
    CHALLENGER_PROMOTED = "crowned"
    """The challenger is the champion, as nothing serves."""
    CANDIDATE_DEPLOYED = "filled"
    CANDIDATE_UNDEPLOYED = "emptied"
    ROLLBACK_TAGGED = "blamed"
    """The registered version says that it was rolled back."""
    ALIAS_REVERTED = "restored"
    """The alias points at what serves."""
    SETTLED = "settled"
    DROPPED = "dropped"
    """The alias `challenger` is gone from what is in production."""
    TAGGED = "tagged"
    JOURNALED = "journaled"
    """The journal has a refusal."""
    REFUSED = "refused"


class Refusal(Struct, frozen=True):
    """Why a wish could not be had, and when that was found out."""

    time_ns: int
    reason: str


@dataclass(kw_only=True)
class Work:
    """One call of `reconcile`: what it was given, what it has done and which wishes it has tried."""

    release: Release
    model: str
    retry: bool
    lease: Lease
    promoted: Manifest | None = None
    done: list[str] = field(default_factory=list)
    tried: set[tuple[str, int]] = field(default_factory=set)

    def reached(self, point: CrashPoint) -> None:
        """Report a crash point."""
        if self.release.note is not None:
            self.release.note(point.value)


def perform(work: Work, action: Action) -> None:
    """Do a step.

    Raises:
        RegistryError: MLflow cannot be reached.
        LobsmithError: the step could not be done, and is no wish that could be refused.
    """
    match action:
        case Promote(champion):
            _fulfil(work, CHAMPION, champion, lambda: _promote(work, champion))
        case PromoteChallenger(challenger):
            why = "nothing serves that it could be compared with, and its gates have passed"
            aliases.request(work.release.workspace, work.model, CHAMPION, challenger.version, why)
            work.reached(CrashPoint.CHALLENGER_PROMOTED)
            work.done.append(f"registry:{challenger.version} is {CHAMPION}: {why}")
        case DeployCandidate(challenger):
            _fulfil(work, CHALLENGER, challenger, lambda: _deploy_candidate(work, challenger))
        case UndeployCandidate(candidate):
            _undeploy_candidate(work, candidate)
        case RevertAlias(champion, active):
            _revert_alias(work, champion, active)
        case AcknowledgeRollback(artifacts):
            _acknowledge_rollback(work, artifacts)
        case DropChallenger(challenger):
            aliases.delete_alias(work.release.workspace, work.model, CHALLENGER)
            work.reached(CrashPoint.DROPPED)
            work.done.append(f"registry:{challenger.version} is in production and no challenger any more")
        case Tag(champion, active):
            _tag(work, champion, active)


def _fulfil(work: Work, alias: str, requested: Registered, act: Callable[[], str]) -> None:
    """Fulfil a wish, or note why not: in the journal once, and on the registered version, where it is looked for."""
    name = work.model if alias == CHAMPION else candidate_model(work.model)
    known = len(journal.read(work.release.workspace.journal))
    work.tried.add((alias, requested.version))
    try:
        if requested.artifact_id is None:
            _identify(work, requested)
            work.tried.discard((alias, requested.version))
            return
        work.done.append(act())
    except (RegistryError, LeaseError):
        # Neither says anything of the wish.
        raise
    except LobsmithError as error:
        before, reason = refusal_of(requested), " ".join(str(error).split())
        written = any(
            (entry.model, entry.action) == (name, journal.REFUSED)
            for entry in journal.read(work.release.workspace.journal)[known:]
        )
        if not written and (before is None or before.reason != reason):
            _journal(work, name, journal.REFUSED, requested.artifact_id, f"registry:{requested.version}: {reason}")
        work.reached(CrashPoint.JOURNALED)
        refusal = msgspec.json.encode(Refusal(clock.now_ns(), reason)).decode()
        tags = {aliases.REFUSED: refusal, aliases.SERVING: f"refused: {reason}"}
        aliases.tag(work.release.workspace, work.model, requested.version, tags)
        work.reached(CrashPoint.REFUSED)


def _identify(work: Work, requested: Registered) -> None:
    """Note which artifact a version holds that somebody registered by hand."""
    with aliases.release_of(work.release.workspace, work.model, requested) as (_, manifest):
        tags = {aliases.ARTIFACT_ID: manifest.artifact_id}
    aliases.tag(work.release.workspace, work.model, requested.version, tags)


def _promote(work: Work, champion: Registered) -> str:
    verdict = _verdict(champion)
    reason = _why(CHAMPION, champion)
    # An alias that is set by hand may overrule live traffic, but not unseen.
    if verdict is not None and not verdict.passed and not _undecided(verdict):
        reason += f"; against the verdict {verdict}"
    with source_of(work.release.workspace, work.model, champion) as source:
        work.reached(CrashPoint.FOUND)
        work.promoted = promote(
            work.release,
            source,
            model=work.model,
            reason=reason,
            verdicts=(verdict,) if verdict is not None and verdict.passed else (),
            confirm=lambda: _confirm(work, champion),
        )
    work.reached(CrashPoint.PROMOTED)
    return f"promoted registry:{champion.version} as {work.model} {work.promoted.version}"


def _confirm(work: Work, champion: Registered) -> None:
    """Refuse to promote on what was known before another process took over, or rolled the wanted version back.

    Raises:
        LeaseLostError: so it was.
    """
    with work.lease.fence():
        pass
    if champion.artifact_id in taken_back(journal.read(work.release.workspace.journal), work.model):
        wish = f"{work.model} registry:{champion.version}"
        raise LeaseLostError(f"{wish}: rolled back when it was about to be promoted; reconcile again")


def _deploy_candidate(work: Work, challenger: Registered) -> str:
    with source_of(work.release.workspace, work.model, challenger) as source:
        work.reached(CrashPoint.FOUND)
        manifest = deploy_candidate(work.release, source, model=work.model, reason=_why(CHALLENGER, challenger))
    work.reached(CrashPoint.CANDIDATE_DEPLOYED)
    return f"published registry:{challenger.version} as {manifest.model} {manifest.version}"


def _undeploy_candidate(work: Work, candidate: Present) -> None:
    """Empty the slot; the last verdict on what was in it, if there is one, goes into the journal."""
    found = aliases.find_registered(work.release.workspace, work.model, {aliases.ARTIFACT_ID: candidate.artifact_id})
    verdicts = [verdict for verdict in map(_verdict, found) if verdict is not None and not _undecided(verdict)]
    undeploy_candidate(
        work.release,
        work.model,
        reason=f"no registered version is {CHALLENGER}",
        verdicts=tuple(verdicts[-1:]),
    )
    work.reached(CrashPoint.CANDIDATE_UNDEPLOYED)
    work.done.append(f"emptied {candidate_model(work.model)}, which held {candidate.version}")


def _revert_alias(work: Work, champion: Registered, active: Present | None) -> None:
    """Point the alias at what serves; where that is not registered, at nothing."""
    tags = {aliases.SERVING: "rolled back"}
    aliases.tag(work.release.workspace, work.model, champion.version, tags)
    work.reached(CrashPoint.ROLLBACK_TAGGED)
    serving: list[Registered] = []
    if active is not None:
        wanted = {aliases.ARTIFACT_ID: active.artifact_id}
        serving = aliases.find_registered(work.release.workspace, work.model, wanted)
        # Of several with the same bits, the one that was promoted.
        serving.sort(key=lambda one: (one.tags.get(aliases.TRITON_VERSION) == str(active.version), one.version))
    if serving:
        aliases.set_alias(work.release.workspace, work.model, CHAMPION, serving[-1].version)
        where = f"registry:{serving[-1].version}"
    else:
        aliases.delete_alias(work.release.workspace, work.model, CHAMPION)
        where = "nothing"
    work.reached(CrashPoint.ALIAS_REVERTED)
    work.done.append(f"{CHAMPION} moved from registry:{champion.version}, which was rolled back, to {where}")


def _acknowledge_rollback(work: Work, artifacts: frozenset[str]) -> None:
    short = ", ".join(sorted(one[:12] for one in artifacts))
    reason = f"{CHAMPION} asks for what was rolled back no longer ({short}); it may be asked for again"
    _journal(work, work.model, journal.SETTLED, None, reason)
    work.reached(CrashPoint.SETTLED)
    work.done.append("the rollback is complete")


def _tag(work: Work, champion: Registered, active: Present) -> None:
    tags = {
        aliases.TRITON_VERSION: str(active.version),
        aliases.SERVING: f"active as {work.model} {active.version}",
    }
    aliases.untag(work.release.workspace, work.model, champion, aliases.REQUEST, aliases.REFUSED)
    aliases.tag(work.release.workspace, work.model, champion.version, tags)
    work.reached(CrashPoint.TAGGED)


def _journal(work: Work, model: str, action: str, artifact_id: str | None, reason: str) -> None:
    purpose = f"journal {action} of {model}"
    with sole_writer(work.release, purpose) as writer:
        active = writer.repository.active(model)
        writer.journal(writer.entry(action, model, before=active, about=None, artifact_id=artifact_id, reason=reason))


def _why(alias: str, requested: Registered) -> str:
    request = requested.tags.get(aliases.REQUEST)
    return f"registry:{requested.version} is {alias}" + (f": {request}" if request else "")


def _verdict(version: Registered) -> Verdict | None:
    return _decoded(version.tags.get(aliases.SHADOW), Verdict)


def _undecided(verdict: Verdict) -> bool:
    return verdict.evidence.get("decision") == WATCH


def refusal_of(version: Registered) -> Refusal | None:
    """Return why a registered version could not be had, None where that is not known."""
    return _decoded(version.tags.get(aliases.REFUSED), Refusal)


def _decoded(text: str | None, kind: type[_Kind]) -> _Kind | None:
    """Return what a tag says; anybody may have written something else there."""
    try:
        return None if text is None else msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None
