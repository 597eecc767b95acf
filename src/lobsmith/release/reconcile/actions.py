"""Actions of a reconcile plan, and their crash points."""

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


class ReconcilePoint(StrEnum):
    """A phase of an action that is complete."""

    DECIDED = "decided"
    FOUND = "found"
    """A valid copy of the requested version is available."""
    PROMOTED = "promoted"
    CHALLENGER_PROMOTED = "crowned"
    """The challenger is the champion, as nothing serves."""
    CANDIDATE_DEPLOYED = "filled"
    CANDIDATE_UNDEPLOYED = "emptied"
    ROLLBACK_TAGGED = "blamed"
    """The registered version is tagged as rolled back."""
    ALIAS_REVERTED = "restored"
    """The alias points at what serves."""
    ROLLBACK_ACKNOWLEDGED = "settled"
    DROPPED = "dropped"
    """The alias `challenger` no longer points at what is in production."""
    TAGGED = "tagged"
    JOURNALED = "journaled"
    """A refusal is in the journal."""
    REFUSED = "refused"


class Refusal(Struct, frozen=True):
    """Why and when a request was refused."""

    time_ns: int
    reason: str


@dataclass(kw_only=True)
class Work:
    """State of one `reconcile` call: its arguments, the actions taken, the requests tried."""

    release: Release
    model: str
    retry: bool
    lease: Lease
    promoted: Manifest | None = None
    actions: list[str] = field(default_factory=list)
    tried: set[tuple[str, int]] = field(default_factory=set)

    def reached(self, point: ReconcilePoint) -> None:
        """Report a crash point."""
        if self.release.note is not None:
            self.release.note(point.value)


def perform(work: Work, action: Action) -> None:
    """Perform an action.

    Raises:
        RegistryError: MLflow cannot be reached.
        LobsmithError: the action failed and is no request that could be refused.
    """
    match action:
        case Promote(champion):
            _attempt(work, CHAMPION, champion, lambda: _promote(work, champion))
        case PromoteChallenger(challenger):
            reason = "nothing serves that it could be compared with, and its gates have passed"
            aliases.request(work.release.workspace, work.model, CHAMPION, challenger.version, reason)
            work.reached(ReconcilePoint.CHALLENGER_PROMOTED)
            work.actions.append(f"registry:{challenger.version} is {CHAMPION}: {reason}")
        case DeployCandidate(challenger):
            _attempt(work, CHALLENGER, challenger, lambda: _deploy_candidate(work, challenger))
        case UndeployCandidate(candidate):
            _undeploy_candidate(work, candidate)
        case RevertAlias(champion, active):
            _revert_alias(work, champion, active)
        case AcknowledgeRollback(artifacts):
            _acknowledge_rollback(work, artifacts)
        case DropChallenger(challenger):
            aliases.delete_alias(work.release.workspace, work.model, CHALLENGER)
            work.reached(ReconcilePoint.DROPPED)
            work.actions.append(f"registry:{challenger.version} is in production and no challenger any more")
        case Tag(champion, active):
            _tag(work, champion, active)


def _attempt(work: Work, alias: str, requested: Registered, act: Callable[[], str]) -> None:
    """Fulfil a request, or journal the refusal once and tag the registered version with it."""
    name = work.model if alias == CHAMPION else candidate_model(work.model)
    lines_before = len(journal.read(work.release.workspace.journal))
    work.tried.add((alias, requested.version))
    try:
        if requested.artifact_id is None:
            _tag_artifact(work, requested)
            work.tried.discard((alias, requested.version))
            return
        work.actions.append(act())
    except (RegistryError, LeaseError):
        # No failure of the request.
        raise
    except LobsmithError as error:
        previous, reason = refusal_of(requested), " ".join(str(error).split())
        journaled = any(
            (entry.model, entry.action) == (name, journal.REFUSED)
            for entry in journal.read(work.release.workspace.journal)[lines_before:]
        )
        if not journaled and (previous is None or previous.reason != reason):
            _journal(work, name, journal.REFUSED, requested.artifact_id, f"registry:{requested.version}: {reason}")
        work.reached(ReconcilePoint.JOURNALED)
        refusal = msgspec.json.encode(Refusal(clock.now_ns(), reason)).decode()
        tags = {aliases.REFUSED: refusal, aliases.SERVING: f"refused: {reason}"}
        aliases.tag(work.release.workspace, work.model, requested.version, tags)
        work.reached(ReconcilePoint.REFUSED)


def _tag_artifact(work: Work, requested: Registered) -> None:
    """Tag a version that was registered by hand with its artifact."""
    with aliases.release_of(work.release.workspace, work.model, requested) as (_, manifest):
        tags = {aliases.ARTIFACT_ID: manifest.artifact_id}
    aliases.tag(work.release.workspace, work.model, requested.version, tags)


def _promote(work: Work, champion: Registered) -> str:
    verdict = _verdict(champion)
    reason = _reason(CHAMPION, champion)
    # An alias set by hand may overrule a verdict, but the journal has it.
    if verdict is not None and not verdict.passed and not _undecided(verdict):
        reason += f"; against the verdict {verdict}"
    with source_of(work.release.workspace, work.model, champion) as source:
        work.reached(ReconcilePoint.FOUND)
        work.promoted = promote(
            work.release,
            source,
            model=work.model,
            reason=reason,
            verdicts=(verdict,) if verdict is not None and verdict.passed else (),
            confirm=lambda: _confirm(work, champion),
        )
    work.reached(ReconcilePoint.PROMOTED)
    return f"promoted registry:{champion.version} as {work.model} {work.promoted.version}"


def _confirm(work: Work, champion: Registered) -> None:
    """Refuse a promotion if another process took over or rolled the version back.

    Raises:
        LeaseLostError: one of these happened.
    """
    with work.lease.fence():
        pass
    if champion.artifact_id in taken_back(journal.read(work.release.workspace.journal), work.model):
        requested = f"{work.model} registry:{champion.version}"
        raise LeaseLostError(f"{requested}: rolled back when it was about to be promoted; reconcile again")


def _deploy_candidate(work: Work, challenger: Registered) -> str:
    with source_of(work.release.workspace, work.model, challenger) as source:
        work.reached(ReconcilePoint.FOUND)
        manifest = deploy_candidate(work.release, source, model=work.model, reason=_reason(CHALLENGER, challenger))
    work.reached(ReconcilePoint.CANDIDATE_DEPLOYED)
    return f"published registry:{challenger.version} as {manifest.model} {manifest.version}"


def _undeploy_candidate(work: Work, candidate: Present) -> None:
    tags = {aliases.ARTIFACT_ID: candidate.artifact_id}
    versions = aliases.find_registered(work.release.workspace, work.model, tags)
    verdicts = [verdict for verdict in map(_verdict, versions) if verdict is not None and not _undecided(verdict)]
    undeploy_candidate(
        work.release,
        work.model,
        reason=f"no registered version is {CHALLENGER}",
        verdicts=tuple(verdicts[-1:]),
    )
    work.reached(ReconcilePoint.CANDIDATE_UNDEPLOYED)
    work.actions.append(f"undeployed {candidate_model(work.model)} {candidate.version}")


def _revert_alias(work: Work, champion: Registered, active: Present | None) -> None:
    """Point the alias at what serves; delete it where that is not registered."""
    tags = {aliases.SERVING: "rolled back"}
    aliases.tag(work.release.workspace, work.model, champion.version, tags)
    work.reached(ReconcilePoint.ROLLBACK_TAGGED)
    serving: list[Registered] = []
    if active is not None:
        holding = {aliases.ARTIFACT_ID: active.artifact_id}
        serving = aliases.find_registered(work.release.workspace, work.model, holding)
        # Of several with the same bits, the one that was promoted.
        serving.sort(
            key=lambda version: (version.tags.get(aliases.TRITON_VERSION) == str(active.version), version.version)
        )
    if serving:
        aliases.set_alias(work.release.workspace, work.model, CHAMPION, serving[-1].version)
        target = f"registry:{serving[-1].version}"
    else:
        aliases.delete_alias(work.release.workspace, work.model, CHAMPION)
        target = "nothing"
    work.reached(ReconcilePoint.ALIAS_REVERTED)
    work.actions.append(f"{CHAMPION} moved from registry:{champion.version}, which was rolled back, to {target}")


def _acknowledge_rollback(work: Work, artifacts: frozenset[str]) -> None:
    short = ", ".join(sorted(artifact[:12] for artifact in artifacts))
    reason = f"{CHAMPION} no longer requests what was rolled back ({short}); it may be requested again"
    _journal(work, work.model, journal.ROLLBACK_ACKNOWLEDGED, None, reason)
    work.reached(ReconcilePoint.ROLLBACK_ACKNOWLEDGED)
    work.actions.append("the rollback is complete")


def _tag(work: Work, champion: Registered, active: Present) -> None:
    tags = {
        aliases.TRITON_VERSION: str(active.version),
        aliases.SERVING: f"active as {work.model} {active.version}",
    }
    aliases.untag(work.release.workspace, work.model, champion, aliases.REQUEST, aliases.REFUSED)
    aliases.tag(work.release.workspace, work.model, champion.version, tags)
    work.reached(ReconcilePoint.TAGGED)


def _journal(work: Work, model: str, action: str, artifact_id: str | None, reason: str) -> None:
    purpose = f"journal {action} of {model}"
    with sole_writer(work.release, purpose) as writer:
        active = writer.repository.active(model)
        writer.journal(writer.entry(action, model, before=active, about=None, artifact_id=artifact_id, reason=reason))


def _reason(alias: str, requested: Registered) -> str:
    request = requested.tags.get(aliases.REQUEST)
    return f"registry:{requested.version} is {alias}" + (f": {request}" if request else "")


def _verdict(version: Registered) -> Verdict | None:
    return _decoded(version.tags.get(aliases.SHADOW), Verdict)


def _undecided(verdict: Verdict) -> bool:
    return verdict.evidence.get("decision") == WATCH


def refusal_of(version: Registered) -> Refusal | None:
    """Return why a registered version was refused, None where it was not."""
    return _decoded(version.tags.get(aliases.REFUSED), Refusal)


def _decoded(text: str | None, kind: type[_Kind]) -> _Kind | None:
    """Return the content of a tag; None where it is something else, as a person may edit it."""
    try:
        return None if text is None else msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None
