"""The plan, in a world in which anything may happen between two actions."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.release.reconcile.plan import (
    AcknowledgeRollback,
    DeployCandidate,
    DropChallenger,
    Present,
    Promote,
    PromoteChallenger,
    RevertAlias,
    Situation,
    Tag,
    UndeployCandidate,
    next_action,
    taken_back,
)
from lobsmith.release.registry.aliases import ARTIFACT_ID, TRITON_VERSION, AliasTargets, Registered
from lobsmith.release.repository import journal

ARTIFACTS = "abcd"
MOST_ACTIONS = 6


def version(number: int, artifact: str, **tags: str) -> Registered:
    return Registered(number, "run", {ARTIFACT_ID: artifact, **tags})


@dataclass
class World:
    """A registry and a repository as a person at the keyboard sees them; registered version n holds artifact n."""

    tags: dict[int, str] = field(default_factory=dict)
    champion: int | None = None
    challenger: int | None = None
    active: Present | None = None
    candidate: Present | None = None
    back: set[str] = field(default_factory=set)
    refused: set[tuple[str, int]] = field(default_factory=set)
    clock: int = 0
    promoted: list[str] = field(default_factory=list)

    def registered(self, number: int | None) -> Registered | None:
        if number is None:
            return None
        tags = {TRITON_VERSION: self.tags[number]} if number in self.tags else {}
        return version(number, ARTIFACTS[number], **tags)

    def situation(self) -> Situation:
        return Situation(
            self.active,
            self.candidate,
            AliasTargets(self.registered(self.champion), self.registered(self.challenger)),
            frozenset(self.back),
            frozenset(self.refused),
        )

    def present(self, artifact: str) -> Present:
        self.clock += 1
        return Present(self.clock, artifact)

    def roll_back(self, artifact: str) -> None:
        if self.active is not None and self.active.artifact_id != artifact:
            self.back.add(self.active.artifact_id)
            self.active = self.present(artifact)

    def act(self) -> bool:
        """Take the next action; return whether there was one."""
        match next_action(self.situation()):
            case Promote(champion):
                self.active = self.present(champion.artifact_id)
                self.promoted.append(champion.artifact_id)
            case PromoteChallenger(challenger):
                self.champion = challenger.version
            case DeployCandidate(challenger):
                self.candidate = self.present(challenger.artifact_id)
            case UndeployCandidate():
                self.candidate = None
            case RevertAlias(_, active):
                self.champion = None if active is None else ARTIFACTS.index(active.artifact_id)
            case AcknowledgeRollback():
                self.back.clear()
            case DropChallenger():
                self.challenger = None
            case Tag(champion, active):
                self.tags[champion.version] = str(active.version)
            case None:
                return False
        return True

    def reconcile(self, kill_after: int | None = None) -> None:
        for step in range(MOST_ACTIONS + 1):
            if step == kill_after or not self.act():
                return
        raise AssertionError(f"it does not come to an end: {self.situation()}")


numbers = st.sampled_from(range(len(ARTIFACTS)))
events = st.lists(
    st.one_of(
        st.tuples(st.just("champion"), st.none() | numbers),
        st.tuples(st.just("challenger"), st.none() | numbers),
        st.tuples(st.just("roll back"), numbers),
        st.tuples(st.just("refuse"), st.tuples(st.sampled_from(["champion", "challenger"]), numbers)),
        st.tuples(st.just("reconcile"), st.none() | st.integers(0, MOST_ACTIONS)),
    ),
    max_size=30,
)


@settings(max_examples=500)
@given(events)
def test_any_events_converge_to_the_aliases(happened) -> None:
    world = World()
    for what, detail in happened:
        if what == "roll back":
            world.roll_back(ARTIFACTS[detail])
        elif what == "refuse":
            world.refused.add(detail)
        elif what == "reconcile":
            bad, serving = set(world.back), world.active
            requested = world.champion
            requested_again = requested is None or ARTIFACTS[requested] not in bad
            promotions = len(world.promoted)
            world.reconcile(detail)
            assert requested_again or len(world.promoted) == promotions, "what was rolled back came again by itself"
            assert serving is None or world.active is not None
        else:
            setattr(world, what, detail)
    world.reconcile()
    after = world.situation()
    world.reconcile()
    assert world.situation() == after
    champion, challenger = after.targets.champion, after.targets.challenger
    if champion is not None and ("champion", champion.version) not in after.refused:
        assert after.active is not None
        assert after.active.artifact_id == champion.artifact_id
        assert champion.tags[TRITON_VERSION] == str(after.active.version)
    if challenger is None:
        assert after.candidate is None
    elif ("challenger", challenger.version) not in after.refused:
        assert after.candidate is not None
        assert after.candidate.artifact_id == challenger.artifact_id
    assert not after.taken_back


A, B = Present(1, "a"), Present(2, "b")
WANTS_A, WANTS_B = AliasTargets(version(1, "a", triton_version="1")), AliasTargets(version(2, "b", triton_version="2"))


def test_a_rolled_back_artifact_comes_again_only_when_it_is_asked_for_again() -> None:
    rolled_back = Situation(active=A, targets=WANTS_B, taken_back=frozenset("b"))
    assert next_action(rolled_back) == RevertAlias(WANTS_B.champion, A)
    moved = replace(rolled_back, targets=WANTS_A)
    assert next_action(moved) == AcknowledgeRollback(frozenset("b"))
    acknowledged = replace(moved, taken_back=frozenset())
    assert next_action(acknowledged) is None
    assert next_action(replace(acknowledged, targets=WANTS_B)) == Promote(WANTS_B.champion)


def test_two_rollbacks_in_a_row_leave_neither_to_come_again() -> None:
    for unwanted in "bc":
        situation = Situation(active=A, targets=AliasTargets(version(3, unwanted)), taken_back=frozenset("bc"))
        assert isinstance(next_action(situation), RevertAlias)


def test_without_aliases_serving_goes_on_and_the_candidate_is_undeployed() -> None:
    assert next_action(Situation(active=A)) is None
    assert next_action(Situation(active=A, candidate=B)) == UndeployCandidate(B)


def test_the_first_challenger_has_nothing_to_be_compared_with() -> None:
    targets = AliasTargets(challenger=version(1, "a"))
    assert next_action(Situation(candidate=A, targets=targets)) == PromoteChallenger(targets.challenger)
    assert next_action(Situation(active=B, candidate=A, targets=targets)) is None


def test_a_refused_challenger_leaves_the_candidate_alone() -> None:
    targets = AliasTargets(challenger=version(2, "b"))
    situation = Situation(active=A, candidate=Present(3, "c"), targets=targets)
    assert next_action(situation) == DeployCandidate(targets.challenger)
    assert next_action(replace(situation, refused=frozenset({("challenger", 2)}))) is None


def line(action: str, before: int | None, about: int | None, artifact: str | None = None, model: str = "lob"):
    return journal.Entry(
        time_ns=1, action=action, model=model, version_from=before, version_to=about, artifact_id=artifact, actor="me"
    )


def test_the_journal_says_what_was_taken_back() -> None:
    lines = [
        line(journal.PUBLISHED, None, 1, "a"),
        line(journal.PROMOTED, 1, 2, "b"),
        line(journal.PROMOTED, 2, 3, "c"),
        line(journal.REFUSED, 3, 4, "d"),
        line(journal.PROMOTED, 1, 3, "z", "other"),
    ]
    assert taken_back(lines, "lob") == set()
    assert taken_back([*lines, line(journal.ROLLED_BACK, 3, 2)], "lob") == {"c"}
    assert taken_back([*lines, line(journal.ROLLED_BACK, 3, 1)], "lob") == {"b", "c"}
    lines += [line(journal.ROLLED_BACK, 3, 2), line(journal.ROLLED_BACK, 2, 1)]
    assert taken_back(lines, "lob") == {"b", "c"}
    assert taken_back(lines, "other") == set()
    lines += [line(journal.ROLLBACK_ACKNOWLEDGED, None, None)]
    assert taken_back(lines, "lob") == set()
    assert taken_back([*lines, line(journal.PROMOTED, 1, 5, "c")], "lob") == set()
    assert taken_back([*lines, line(journal.PROMOTED, 1, 5, "c"), line(journal.ROLLED_BACK, 5, 1)], "lob") == {"c"}


def test_the_artifact_that_was_gone_back_to_is_not_taken_back() -> None:
    lines = [line(journal.PROMOTED, 1, 2, "a"), line(journal.PROMOTED, 2, 3, "a"), line(journal.ROLLED_BACK, 3, 2)]
    assert taken_back(lines, "lob") == set()
