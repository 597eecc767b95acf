"""Reconciling with a real MLflow on SQLite; with a real Triton: tests/integration/test_promotion.py."""

import json
import shutil

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.errors import GateError, LeaseError, LeaseLostError, ServingError
from lobsmith.release.context import Release
from lobsmith.release.reconcile.actions import ReconcilePoint
from lobsmith.release.reconcile.reconcile import reconcile
from lobsmith.release.reconcile.requests import register_challenger
from lobsmith.release.registry.aliases import (
    ARTIFACT_ID,
    CHALLENGER,
    CHAMPION,
    REFUSED,
    REQUEST,
    SERVING,
    SHADOW,
    TRITON_VERSION,
    AliasTargets,
    alias_targets,
    delete_alias,
    registered,
    release_of,
    request,
    tag,
)
from lobsmith.release.registry.runs import RunRef
from lobsmith.release.repository import journal
from lobsmith.release.repository.rollback import rollback
from tests.release import toy
from tests.release.registrations import DEPLOYMENT, PARAMS, candidate, point_alias, register, workspace_with_mlflow
from tests.release.stand_in import StandIn
from tests.small import params_file

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("validation_in_process")]


@pytest.fixture
def workspace(tmp_path):
    return workspace_with_mlflow(tmp_path)


def reconcile_fully(workspace, server=None, **settings):
    """Reconcile until nothing is left to do."""
    outcome = reconcile(Release(workspace, PARAMS, server, actor="reconcile"), "toy", **settings)
    again = reconcile(Release(workspace, PARAMS, server, actor="reconcile"), "toy")
    assert (again.actions, again.promoted, again.unreachable) == ((), None, None)
    assert (again.active, again.candidate, again.refused) == (outcome.active, outcome.candidate, outcome.refused)
    return outcome


def artifact_of(repository, model="toy"):
    version = repository.active(model)
    return None if version is None else repository.verify(model, version).artifact_id


def promoted(workspace, scale, server=None):
    """A registered version that is the champion and serves."""
    version = register(workspace, candidate(workspace, scale))
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace, server)
    return version


def actions(workspace, model="toy"):
    return [entry.action for entry in journal.read(workspace.journal) if entry.model == model]


def test_an_alias_set_on_mlflows_page_is_a_promotion(workspace, repository, server):
    manifest = candidate(workspace, 0.3)
    version = register(workspace, manifest)
    point_alias(workspace, CHAMPION, version)
    outcome = reconcile_fully(workspace, server)
    assert outcome.promoted == outcome.active == repository.active("toy")
    assert artifact_of(repository) == manifest.artifact_id
    assert server.loaded["toy"] == [outcome.active]
    version = registered(workspace, "toy", version.version)
    assert version.tags[TRITON_VERSION] == str(outcome.active)
    assert version.tags[SERVING] == f"active as toy {outcome.active}"
    # No challenger was requested.
    assert (outcome.candidate, repository.versions(DEPLOYMENT)) == (None, [])
    assert actions(workspace) == [journal.PROMOTED]


def test_requester_and_reason_are_in_the_journal(workspace):
    version = register(workspace, candidate(workspace, 0.3))
    request(workspace, "toy", CHAMPION, version.version, "anna: it looks better")
    reconcile_fully(workspace)
    [entry] = [entry for entry in journal.read(workspace.journal) if entry.action == journal.PROMOTED]
    assert entry.reason == f"registry:{version.version} is champion: anna: it looks better"
    assert REQUEST not in registered(workspace, "toy", version.version).tags


def test_what_the_repository_no_longer_has_comes_from_mlflow(workspace, repository, server):
    first = promoted(workspace, 0.3, server)
    for scale in (0.4, 0.5):
        promoted(workspace, scale, server)
    shutil.rmtree(repository.directory("toy", repository.versions("toy")[0]))
    repository.list_versions("toy", repository.versions("toy"))
    point_alias(workspace, CHAMPION, first)
    outcome = reconcile_fully(workspace, server)
    assert artifact_of(repository) == first.artifact_id
    assert outcome.promoted == repository.active("toy")
    assert not list(workspace.home.glob("release-*"))


def test_a_challenger_is_deployed_and_without_one_the_candidate_is_undeployed(workspace, repository, server):
    promoted(workspace, 0.3, server)
    challenger = register(workspace, candidate(workspace, 0.4))
    point_alias(workspace, CHALLENGER, challenger)
    first = reconcile_fully(workspace, server)
    assert first.actions == ()
    another = register(workspace, candidate(workspace, 0.5))
    assert artifact_of(repository, DEPLOYMENT) == another.artifact_id
    reconcile_fully(workspace, server)
    assert artifact_of(repository, DEPLOYMENT) == challenger.artifact_id, (
        "the alias says what is wanted, not the deployment"
    )
    point_alias(workspace, CHALLENGER, another)
    reconcile_fully(workspace, server)
    assert artifact_of(repository, DEPLOYMENT) == another.artifact_id
    verdict = '{"gate": "shadow", "passed": false, "value": 0.1, "threshold": 20.0}'
    tag(workspace, "toy", another.version, {SHADOW: verdict})
    point_alias(workspace, CHALLENGER, None)
    reconcile_fully(workspace, server)
    assert repository.versions(DEPLOYMENT) == []
    last = journal.read(workspace.journal)[-1]
    assert (last.action, last.model, last.verdicts[0].gate) == (journal.REJECTED, DEPLOYMENT, "shadow")


def test_a_candidate_without_an_alias_yet_is_not_retired(workspace, repository):
    """Another process reconciles between its publication and its alias."""
    promoted(workspace, 0.3)
    bare = register(workspace, None)
    hasty = toy.params(reconcile__wait_s=0)

    def meanwhile(step: str) -> None:
        if step == "recorded":
            with pytest.raises(LeaseError, match="register a challenger of toy"):
                reconcile(Release(workspace, hasty), "toy")

    artifact = toy.artifact(workspace.root / "run", scale=0.4)
    run = RunRef(bare.run_id, "", bare.version)
    manifest = register_challenger(
        Release(workspace, PARAMS, note=meanwhile), artifact, model="toy", contract=toy.CONTRACT, run=run
    )
    reconcile_fully(workspace)
    assert repository.active(DEPLOYMENT) == manifest.version
    challenger = alias_targets(workspace, "toy").challenger
    assert challenger.tags[SERVING] == f"candidate {DEPLOYMENT} {manifest.version}"
    with release_of(workspace, "toy", challenger) as (_, kept):
        assert kept == manifest


def test_a_refused_candidate_says_so_in_the_registry(workspace, repository):
    bare = register(workspace, None)
    artifact = toy.artifact(workspace.root / "run", verdicts=(toy.REFUSED,))
    run = RunRef(bare.run_id, "", bare.version)
    with pytest.raises(GateError):
        register_challenger(Release(workspace, PARAMS), artifact, model="toy", contract=toy.CONTRACT, run=run)
    assert registered(workspace, "toy", bare.version).tags[SERVING].startswith("refused: toy_candidate: skill refused")
    assert (repository.models(), alias_targets(workspace, "toy")) == ([], AliasTargets())


def test_a_promoted_challenger_is_none_any_more(workspace, repository, server):
    promoted(workspace, 0.3, server)
    version = register(workspace, candidate(workspace, 0.4))
    point_alias(workspace, CHALLENGER, version)
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace, server)
    assert artifact_of(repository) == version.artifact_id
    assert alias_targets(workspace, "toy").challenger is None
    assert repository.versions(DEPLOYMENT) == []


def test_a_passed_shadow_verdict_goes_along(workspace, repository):
    version = register(workspace, candidate(workspace, 0.4))
    verdict = '{"gate": "shadow", "passed": true, "value": 30.0, "threshold": 20.0}'
    tag(workspace, "toy", version.version, {SHADOW: verdict})
    point_alias(workspace, CHAMPION, version)
    outcome = reconcile_fully(workspace)
    assert [verdict.gate for verdict in repository.verify("toy", outcome.active).verdicts] == ["parity", "shadow"]


def test_an_overruled_shadow_verdict_is_in_the_journal(workspace, repository):
    version = register(workspace, candidate(workspace, 0.4))
    verdict = '{"gate": "shadow", "passed": false, "value": 0.5, "threshold": 20.0}'
    tag(workspace, "toy", version.version, {SHADOW: verdict})
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace)
    [entry] = [entry for entry in journal.read(workspace.journal) if entry.action == journal.PROMOTED]
    assert "; against the verdict shadow" in entry.reason


def test_after_a_rollback_the_alias_goes_back_and_a_new_request_counts(workspace, repository, server):
    good, bad = promoted(workspace, 0.3, server), promoted(workspace, 0.4, server)
    rollback(Release(workspace, PARAMS, server), "toy", reason="it is worse")
    assert alias_targets(workspace, "toy").champion.version == bad.version
    outcome = reconcile_fully(workspace, server)
    assert (alias_targets(workspace, "toy").champion.version, outcome.promoted) == (good.version, None)
    assert artifact_of(repository) == good.artifact_id
    assert registered(workspace, "toy", bad.version).tags[SERVING] == "rolled back"
    assert actions(workspace)[-2:] == [journal.ROLLED_BACK, journal.ROLLBACK_ACKNOWLEDGED]
    point_alias(workspace, CHAMPION, bad)
    again = reconcile_fully(workspace, server)
    assert artifact_of(repository) == bad.artifact_id
    assert again.promoted == again.active


def test_an_alias_moved_by_another_client_completes_the_rollback_too(workspace, repository):
    promoted(workspace, 0.3)
    bad = promoted(workspace, 0.4)
    third = register(workspace, candidate(workspace, 0.5))
    rollback(Release(workspace, PARAMS), "toy")
    point_alias(workspace, CHAMPION, third)
    reconcile_fully(workspace)
    assert artifact_of(repository) == third.artifact_id
    assert journal.ROLLBACK_ACKNOWLEDGED in actions(workspace)
    point_alias(workspace, CHAMPION, bad)
    reconcile_fully(workspace)
    assert artifact_of(repository) == bad.artifact_id


def test_a_rollback_that_was_begun_is_not_undone(workspace, repository):
    """Its writer was killed once the policy was written, and has not journaled it yet."""
    promoted(workspace, 0.3)
    promoted(workspace, 0.4)

    class Killed(BaseException):
        pass

    def crash(step: str) -> None:
        if step == "listed":
            raise Killed

    with pytest.raises(Killed):
        rollback(Release(workspace, PARAMS, note=crash), "toy")
    good = artifact_of(repository)
    outcome = reconcile_fully(workspace)
    assert artifact_of(repository) == good
    assert outcome.promoted is None
    assert journal.REFUSED not in actions(workspace), "it was not even tried"


def test_a_rollback_between_decision_and_promotion_is_not_undone(workspace, repository):
    """The served copy is corrupt, so what was rolled back was about to be published again."""
    good, bad = promoted(workspace, 0.3), promoted(workspace, 0.4)
    corrupt(repository, repository.active("toy"))
    candidate(workspace, 0.4)

    def meanwhile(step: str) -> None:
        if step == ReconcilePoint.FOUND:
            rollback(Release(workspace, PARAMS), "toy")

    with pytest.raises(LeaseLostError, match="rolled back when it was about to be promoted"):
        reconcile(Release(workspace, PARAMS, note=meanwhile), "toy")
    assert artifact_of(repository) == good.artifact_id
    assert REFUSED not in registered(workspace, "toy", bad.version).tags
    reconcile_fully(workspace)
    assert artifact_of(repository) == good.artifact_id
    assert alias_targets(workspace, "toy").champion.version == good.version


def test_rolled_back_to_what_is_not_registered_leaves_no_champion(workspace, repository):
    with_no_registration = candidate(workspace, 0.3)
    first = register(workspace, with_no_registration)
    point_alias(workspace, CHAMPION, first)
    reconcile_fully(workspace)
    promoted(workspace, 0.4)
    tag(workspace, "toy", first.version, {ARTIFACT_ID: "5" * 64})
    rollback(Release(workspace, PARAMS), "toy")
    reconcile_fully(workspace)
    assert alias_targets(workspace, "toy").champion is None
    assert artifact_of(repository) == with_no_registration.artifact_id


@pytest.mark.parametrize("case", ["nothing kept", "altered", "other contract", "no artifact at all"])
def test_an_impossible_request_is_refused_once_and_serving_goes_on(workspace, repository, server, case):
    good = promoted(workspace, 0.3, server)
    active = repository.active("toy")
    manifest = candidate(workspace, 0.4)
    version = register(workspace, manifest, keep=case != "nothing kept", tagged=case != "no artifact at all")
    match case:
        case "altered":
            for path in workspace.mlflow_artifacts.rglob("golden.safetensors"):
                if version.run_id in str(path):
                    path.write_bytes(path.read_bytes()[:-1])
        case "other contract":
            version = good
            text = repository.config_path("toy").read_text()
            repository.config_path("toy").write_text(text.replace("5" * 64, "6" * 64))
        case "no artifact at all":
            version = register(workspace, None)
    candidate(workspace, 0.5)  # the candidate deployment is another by now
    point_alias(workspace, CHAMPION, version)
    if case == "other contract":
        corrupt(repository, active)
    first = reconcile_fully(workspace, server)
    assert first.refused["champion"].startswith(f"registry:{version.version}: ")
    assert repository.active("toy") == active
    assert server.loaded["toy"] == [active]
    lines = [
        entry for entry in journal.read(workspace.journal) if (entry.model, entry.action) == ("toy", journal.REFUSED)
    ]
    assert len(lines) == 1
    assert REFUSED in registered(workspace, "toy", version.version).tags
    reconcile(Release(workspace, PARAMS, server), "toy", retry=True)
    point_alias(workspace, CHAMPION, good)
    if case != "other contract":
        assert reconcile_fully(workspace, server).refused == {}


def corrupt(repository, version):
    """Alter the served file, so that the champion has to be published again."""
    path = repository.directory("toy", version) / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_a_corrupt_champion_is_published_again_from_a_valid_copy(workspace, repository, server):
    version = promoted(workspace, 0.3, server)
    corrupted = repository.active("toy")
    corrupt(repository, corrupted)
    outcome = reconcile_fully(workspace, server)
    assert outcome.promoted == outcome.active != corrupted
    assert artifact_of(repository) == version.artifact_id


def test_what_the_server_refuses_is_tried_again_when_asked(workspace, repository):
    refusing = [True]

    def refuse(model, version):
        if refusing[0]:
            raise ServingError(f"{model}/{version}: warm-up failed")

    server = StandIn(workspace, refuse)
    version = register(workspace, candidate(workspace, 0.3))
    point_alias(workspace, CHAMPION, version)
    outcome = reconcile_fully(workspace, server)
    assert "warm-up failed" in outcome.refused["champion"]
    refusing[0] = False
    assert reconcile_fully(workspace, server).promoted is None
    assert reconcile_fully(workspace, server, retry=True).promoted == repository.active("toy")
    assert REFUSED not in registered(workspace, "toy", version.version).tags


def test_a_score_that_is_not_to_be_had_refuses_no_promotion_and_is_made_up_for(workspace, repository):
    refusing = [True]

    def refuse(model, version):
        if model == "toy_drift" and refusing[0]:
            raise ServingError(f"{model}/{version}: warm-up failed")

    server = StandIn(workspace, refuse)
    version = register(workspace, candidate(workspace, 0.3, scored=True))
    point_alias(workspace, CHAMPION, version)
    outcome = reconcile_fully(workspace, server)
    assert (outcome.promoted, outcome.refused, outcome.champion) == (repository.active("toy"), {}, version.version)
    assert "warm-up failed" in outcome.unscored[outcome.active]
    assert "without its score" in outcome.summary()
    refusing[0] = False
    assert reconcile_fully(workspace, server).unscored == outcome.unscored
    assert reconcile_fully(workspace, server, retry=True).unscored == {}
    assert server.loaded["toy_drift"] == repository.listed("toy_drift") == repository.listed("toy")

    shutil.copy(params_file(), workspace.params)
    shown = CliRunner().invoke(cli, ["--root", str(workspace.root), "models", "list", "--model", "toy", "--json"])
    assert shown.exit_code == 0, shown.output
    assert [entry["companions"] for entry in json.loads(shown.stdout)["versions"]] == [["toy_drift"]]


def test_a_score_comes_from_mlflow_with_its_version(workspace, repository):
    version = register(workspace, candidate(workspace, 0.3, scored=True))
    shutil.rmtree(repository.root / DEPLOYMENT)
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace)
    assert repository.listed("toy_drift") == repository.listed("toy") != []


def test_a_version_registered_by_hand_says_what_it_holds(workspace, repository):
    manifest = candidate(workspace, 0.3)
    version = register(workspace, manifest, tagged=False)
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace)
    assert artifact_of(repository) == manifest.artifact_id
    assert registered(workspace, "toy", version.version).artifact_id == manifest.artifact_id


def test_without_any_registered_model_nothing_happens(workspace, repository):
    assert reconcile_fully(workspace).actions == ()
    manifest = candidate(workspace, 0.3)
    assert reconcile_fully(workspace).actions == (f"undeployed {DEPLOYMENT} {manifest.version}",)


def test_without_a_champion_what_serves_goes_on(workspace, repository, server):
    promoted(workspace, 0.3, server)
    delete_alias(workspace, "toy", CHAMPION)
    active = repository.active("toy")
    assert reconcile_fully(workspace, server).active == active
