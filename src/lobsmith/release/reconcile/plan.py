"""The reconcile plan: the next step that brings the repository closer to what the registry wants, decided from facts.

MLflow keeps no history of aliases, so a wish cannot be told from one that was fulfilled and taken back. The journal
says which artifacts were rolled back: as long as the alias has not been seen elsewhere since, it still is the old wish,
and it is the alias that has to move.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, TRITON_VERSION, Registered, Wanted
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry


class Present(NamedTuple):
    """A version that the repository lists, and the artifact it holds."""

    version: int
    artifact_id: str


@dataclass(frozen=True)
class Situation:
    """What is so, and what is wanted.

    Attributes:
        active: the active production version.
        slot: the active version of the candidate slot.
        wanted: what the aliases point at.
        taken_back: artifacts that were rolled back while the alias asked for them, as far as the journal knows.
        refused: wishes that were refused lately, as alias and registered version.
    """

    active: Present | None = None
    candidate: Present | None = None
    wanted: Wanted = field(default_factory=Wanted)
    taken_back: frozenset[str] = frozenset()
    refused: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True)
class Promote:
    """Publish the champion's artifact as the newest production version."""

    champion: Registered


@dataclass(frozen=True)
class PromoteChallenger:
    """Make the challenger the champion: nothing serves that it could be compared with, and its gates have passed."""

    challenger: Registered


@dataclass(frozen=True)
class DeployCandidate:
    """Publish the challenger's artifact in the candidate slot."""

    challenger: Registered


@dataclass(frozen=True)
class UndeployCandidate:
    """Empty the candidate slot: no alias asks for what is in it."""

    candidate: Present


@dataclass(frozen=True)
class RevertAlias:
    """Move the alias from an artifact that was rolled back to the one that serves; this completes the rollback."""

    champion: Registered
    active: Present | None


@dataclass(frozen=True)
class AcknowledgeRollback:
    """Note that the alias no longer asks for what was rolled back: from now on it may be asked for again."""

    taken_back: frozenset[str]


@dataclass(frozen=True)
class DropChallenger:
    """Take the alias from an artifact that is in production: there is nothing left to compare."""

    challenger: Registered


@dataclass(frozen=True)
class Tag:
    """Note on the champion under which number it serves."""

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


def next_action(now: Situation) -> Action | None:
    """Return what is to be done first, None where everything is as it is wanted or cannot be.

    A step that was done leads to a situation in which it is not the next one; so repeating this ends, and any process
    can go on where another one was killed.
    """
    champion, challenger = now.wanted.champion, now.wanted.challenger
    if now.taken_back:
        if champion is not None and champion.artifact_id in now.taken_back and not _holds(now.active, champion):
            return RevertAlias(champion, now.active)
        return AcknowledgeRollback(now.taken_back)
    if champion is not None:
        if not _holds(now.active, champion):
            if (CHAMPION, champion.version) not in now.refused:
                return Promote(champion)
        elif now.active is not None and champion.tags.get(TRITON_VERSION) != str(now.active.version):
            return Tag(champion, now.active)
    elif challenger is not None and now.active is None:
        return PromoteChallenger(challenger)
    if challenger is None:
        return None if now.candidate is None else UndeployCandidate(now.candidate)
    if _holds(now.active, challenger):
        return DropChallenger(challenger)
    if not _holds(now.candidate, challenger) and (CHALLENGER, challenger.version) not in now.refused:
        return DeployCandidate(challenger)
    return None


def taken_back(entries: Iterable[Entry], model: str) -> frozenset[str]:
    """Return the artifacts of a model that were rolled back since the alias was last seen to have moved away."""
    artifacts: dict[int, str] = {}
    found: set[str] = set()
    for entry in entries:
        if entry.model != model:
            continue
        if entry.action in journal.ACTIVATING and entry.version_to is not None and entry.artifact_id is not None:
            artifacts[entry.version_to] = entry.artifact_id
        elif entry.action == journal.ROLLED_BACK:
            back, bad = entry.version_to or 0, entry.version_from or 0
            found |= {artifacts.pop(version) for version in list(artifacts) if back < version <= bad}
            # Promoting an older artifact again is a new number for what was gone back to.
            found.discard(artifacts.get(back, ""))
        elif entry.action == journal.SETTLED:
            found.clear()
    return frozenset(found)


def _holds(present: Present | None, requested: Registered) -> bool:
    return present is not None and present.artifact_id == requested.artifact_id
