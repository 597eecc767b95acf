"""The reconcile plan: the next action that makes the repository follow the registry, a pure function of the situation.

MLflow keeps no history of aliases. By the journal, an alias at a rolled-back artifact is the old request, and is
reverted, until it has been seen elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, TRITON_VERSION, AliasTargets, Registered
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry


class Present(NamedTuple):
    """A listed version and its artifact."""

    version: int
    artifact_id: str


@dataclass(frozen=True)
class Situation:
    """The state of the repository, and the wanted one.

    Attributes:
        active: the active production version.
        candidate: the active version of the candidate deployment.
        targets: those of the aliases.
        taken_back: artifacts that were rolled back while the alias requested them, by the journal.
        refused: requests refused lately, as alias and registered version.
    """

    active: Present | None = None
    candidate: Present | None = None
    targets: AliasTargets = field(default_factory=AliasTargets)
    taken_back: frozenset[str] = frozenset()
    refused: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True)
class Promote:
    """Publish the champion's artifact as the newest production version."""

    champion: Registered


@dataclass(frozen=True)
class PromoteChallenger:
    """Make the challenger the champion: nothing serves to compare it with, and its gates have passed."""

    challenger: Registered


@dataclass(frozen=True)
class DeployCandidate:
    """Publish the challenger's artifact as the candidate deployment."""

    challenger: Registered


@dataclass(frozen=True)
class UndeployCandidate:
    """Remove a candidate deployment that no alias requests."""

    candidate: Present


@dataclass(frozen=True)
class RevertAlias:
    """Move the alias from a rolled-back artifact to the one that serves; completes the rollback."""

    champion: Registered
    active: Present | None


@dataclass(frozen=True)
class AcknowledgeRollback:
    """Journal that the alias has left what was rolled back, which may then be requested again."""

    taken_back: frozenset[str]


@dataclass(frozen=True)
class DropChallenger:
    """Delete the alias of a challenger that is in production: nothing is left to compare."""

    challenger: Registered


@dataclass(frozen=True)
class Tag:
    """Tag the champion with the version number that it serves as."""

    champion: Registered
    active: Present


Action = (
    Promote
    | PromoteChallenger
    | DeployCandidate
    | UndeployCandidate
    | RevertAlias
    | AcknowledgeRollback
    | DropChallenger
    | Tag
)


def next_action(situation: Situation) -> Action | None:
    """Return the next action, None where nothing is to be done or can be.

    After an action another is next, so repetition ends, and any process can continue after a crash.
    """
    champion, challenger = situation.targets.champion, situation.targets.challenger
    if situation.taken_back:
        if (
            champion is not None
            and champion.artifact_id in situation.taken_back
            and not _holds(situation.active, champion)
        ):
            return RevertAlias(champion, situation.active)
        return AcknowledgeRollback(situation.taken_back)
    if champion is not None:
        if not _holds(situation.active, champion):
            if (CHAMPION, champion.version) not in situation.refused:
                return Promote(champion)
        elif situation.active is not None and champion.tags.get(TRITON_VERSION) != str(situation.active.version):
            return Tag(champion, situation.active)
    elif challenger is not None and situation.active is None:
        return PromoteChallenger(challenger)
    if challenger is None:
        return None if situation.candidate is None else UndeployCandidate(situation.candidate)
    if _holds(situation.active, challenger):
        return DropChallenger(challenger)
    if not _holds(situation.candidate, challenger) and (CHALLENGER, challenger.version) not in situation.refused:
        return DeployCandidate(challenger)
    return None


def taken_back(entries: Iterable[Entry], model: str) -> frozenset[str]:
    """Return the artifacts of a model rolled back since the alias last moved away from one."""
    artifacts: dict[int, str] = {}
    rolled_back: set[str] = set()
    for entry in entries:
        if entry.model != model:
            continue
        if entry.action in journal.ACTIVATING and entry.version_to is not None and entry.artifact_id is not None:
            artifacts[entry.version_to] = entry.artifact_id
        elif entry.action == journal.ROLLED_BACK:
            back, bad = entry.version_to or 0, entry.version_from or 0
            rolled_back |= {artifacts.pop(version) for version in list(artifacts) if back < version <= bad}
            # Promoting an older artifact again is a new number for what was gone back to.
            rolled_back.discard(artifacts.get(back, ""))
        elif entry.action == journal.ROLLBACK_ACKNOWLEDGED:
            rolled_back.clear()
    return frozenset(rolled_back)


def _holds(present: Present | None, requested: Registered) -> bool:
    return present is not None and present.artifact_id == requested.artifact_id
