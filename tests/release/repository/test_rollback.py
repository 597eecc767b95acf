import shutil
import threading

import pytest
from msgspec import structs

from lobsmith.errors import DeadlineError, LeaseLostError, ReleaseError
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.repository import intent, journal
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.manifest import check_files
from tests.release import plans, toy
from tests.release.in_process import publish
from tests.release.procedures import PROCEDURES
from tests.release.stand_in import StandIn

PARAMS = toy.params()
OTHER = structs.replace(toy.SIM, symbol="OTHER")


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy", "toy")


def damage(repository, version):
    (repository.directory("toy", version) / "model.onnx").write_bytes(b"")


def quarantined(workspace):
    return sorted(path.name.rsplit("-", 1)[0] for path in workspace.quarantine.iterdir())


def test_the_version_before_answers_and_the_bad_one_is_quarantined(workspace, repository, server):
    first, second, third = repository.listed("toy")
    steps = []
    release = Release(workspace, PARAMS, server, "the monitor", steps.append)
    outcome = rollback(release, "toy", reason="accuracy", verdicts=(toy.REFUSED,))
    assert (outcome.version_from, outcome.version_to, outcome.quarantined) == (third, second, (third,))
    assert tuple(steps) == PROCEDURES["rollback"]
    assert repository.listed("toy") == repository.versions("toy") == server.loaded["toy"] == [first, second]
    assert quarantined(workspace) == [f"toy-{third}"]
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.version_from, entry.version_to) == ("rolled back", third, second)
    assert (entry.actor, entry.reason, entry.verdicts) == ("the monitor", "accuracy", (toy.REFUSED,))


def test_a_named_version_takes_back_all_above_it(workspace, repository, server):
    first, second, third = repository.listed("toy")
    outcome = rollback(Release(workspace, PARAMS, server), "toy", to=first)
    assert outcome.quarantined == (second, third)
    assert repository.versions("toy") == [first]
    assert quarantined(workspace) == [f"toy-{second}", f"toy-{third}"]


def test_a_fallback_that_does_not_hold_is_passed_over(workspace, repository, server):
    first, second, third = repository.listed("toy")
    damage(repository, second)
    with pytest.raises(ReleaseError, match="model.onnx: changed"):
        rollback(Release(workspace, PARAMS, server), "toy", to=second)
    assert repository.listed("toy") == [first, second, third]
    assert rollback(Release(workspace, PARAMS, server), "toy").version_to == first


def test_without_a_version_to_go_back_to_nothing_changes(workspace, repository, server):
    first, second, third = repository.listed("toy")
    for version in (first, second):
        damage(repository, version)
    with pytest.raises(ReleaseError, match=rf"no good version below {third} to go back to: .*model.onnx: changed"):
        rollback(Release(workspace, PARAMS, server), "toy")
    with pytest.raises(ReleaseError, match="toy/7: not listed"):
        rollback(Release(workspace, PARAMS, server), "toy", to=7)
    with pytest.raises(ReleaseError, match="nothing to roll back"):
        rollback(Release(workspace, PARAMS, server), "other")
    assert (repository.listed("toy"), server.calls) == ([first, second, third], [])


def test_a_version_of_another_market_is_gone_back_to_only_by_its_number(workspace, repository, server, tmp_path):
    first, *_, newest = repository.listed("toy")
    release = Release(workspace, PARAMS, server)
    for number, instruments in enumerate([(OTHER,), (toy.SIM, OTHER), (OTHER,)]):
        artifact = toy.artifact(tmp_path / f"run-{number}", scale=0.5 + number, instruments=instruments)
        publish(release, artifact, model="toy", contract=toy.CONTRACT)
        active = repository.active("toy")
        match number:
            case 0:
                assert repository.fallback("toy") is None
                why = rf"{newest}: it was trained on simulator:SIM, not simulator:OTHER; lobsmith models rollback "
                with pytest.raises(ReleaseError, match=why):
                    rollback(release, "toy")
                alone = active
            case 1:
                # A version trained on both: either instrument has a fallback.
                assert repository.fallback("toy") == repository.fallback("toy", "simulator:OTHER") == alone
                assert repository.fallback("toy", "simulator:SIM") == newest
                both = active
            case 2:
                assert repository.fallback("toy") == both
                assert repository.fallback("toy", "simulator:SIM") == both
    assert rollback(release, "toy", to=alone).quarantined == (both, active)
    assert rollback(release, "toy", to=newest).version_to == newest
    assert repository.fallback("toy") in (first, newest, *repository.listed("toy"))


def test_the_same_call_again_does_nothing_more(workspace, repository, server):
    _, second, third = repository.listed("toy")
    rollback(Release(workspace, PARAMS, server), "toy", bad=third)
    entries = journal.read(workspace.journal)
    for settings in ({"bad": third}, {"to": second}):
        outcome = rollback(Release(workspace, PARAMS, server), "toy", **settings)
        assert (outcome.version_from, outcome.version_to, outcome.quarantined) == (None, second, ())
    assert journal.read(workspace.journal) == entries


def test_a_server_that_fails_is_asked_again_by_the_next_call(workspace, repository):
    _, second, third = repository.listed("toy")

    def refuse(model, version):
        raise DeadlineError("no answer")

    with pytest.raises(DeadlineError):
        rollback(Release(workspace, PARAMS, StandIn(workspace, refuse)), "toy")
    assert repository.active("toy") == second
    assert "does not serve it yet: no answer" in journal.read(workspace.journal)[-1].reason
    server = StandIn(workspace)
    assert rollback(Release(workspace, PARAMS, server), "toy").version_to == second
    assert server.calls == [("toy", second)]
    assert quarantined(workspace) == [f"toy-{third}"]
    assert [entry.action for entry in journal.read(workspace.journal)].count("rolled back") == 1


def test_a_publication_under_way_is_broken_off(workspace, repository, server):
    listed = repository.listed("toy")
    staged, rolled_back, caught = threading.Event(), threading.Event(), []

    def pause(step):
        if step == "proven":
            staged.set()
            assert rolled_back.wait(60)

    def put():
        artifact = toy.artifact(workspace.root / "run")
        try:
            publish(Release(workspace, PARAMS, note=pause), artifact, model="toy", contract=toy.CONTRACT)
        except LeaseLostError as error:
            caught.append(str(error))

    thread = threading.Thread(target=put)
    thread.start()
    assert staged.wait(60)
    rollback(Release(workspace, PARAMS, server), "toy")
    rolled_back.set()
    thread.join()
    assert "the lease to publish toy was taken over by" in caught[0]
    assert repository.versions("toy") == repository.listed("toy") == listed[:2]
    actions = [entry.action for entry in journal.read(workspace.journal)]
    assert actions[-2:] == ["refused", "rolled back"]


def test_plans_go_back_along(workspace, repository, server):
    for version in repository.listed("toy")[1:]:
        of = repository.verify("toy", version)
        shutil.rmtree(workspace.root / "engine", ignore_errors=True)
        plans.build(workspace.root / "engine", of)
        publish_engine(Release(workspace, PARAMS), workspace.root / "engine", of, validate=check_files)
    _, second, third = repository.listed("toy")
    rollback(Release(workspace, PARAMS, server), "toy")
    assert repository.versions("toy_trt") == repository.listed("toy_trt") == [second]
    rollback(Release(workspace, PARAMS, server), "toy")
    assert repository.models() == ["toy"]
    assert quarantined(workspace) == [f"toy-{second}", f"toy-{third}", f"toy_trt-{second}", f"toy_trt-{third}"]


def test_an_older_version_whose_folder_is_gone_does_not_stand_in_the_way(workspace, repository, server):
    first, second, _ = repository.listed("toy")
    shutil.rmtree(repository.directory("toy", first))
    assert rollback(Release(workspace, PARAMS, server), "toy").version_to == second
    assert repository.listed("toy") == repository.versions("toy") == [second]
    assert intent.pending(workspace) is None


def test_a_bad_version_is_taken_back_though_an_older_rollback_was_not_ended(workspace, repository):
    first, second, third = repository.listed("toy")

    def refuse(model, version):
        raise DeadlineError("no answer")

    with pytest.raises(DeadlineError):
        rollback(Release(workspace, PARAMS, StandIn(workspace, refuse)), "toy", bad=third)
    outcome = rollback(Release(workspace, PARAMS, StandIn(workspace)), "toy", bad=second)
    assert (outcome.version_from, outcome.version_to) == (second, first)
    assert quarantined(workspace) == [f"toy-{second}", f"toy-{third}"]


def test_what_a_lost_journal_does_not_know_is_known_as_taken_back(workspace, repository, server):
    bad = repository.active("toy")
    artifact_id = repository.verify("toy", bad).artifact_id
    lines = workspace.journal.read_bytes().splitlines(keepends=True)
    workspace.journal.write_bytes(b"".join(line for line in lines if str(bad).encode() not in line))
    rollback(Release(workspace, PARAMS, server), "toy")
    entries = [entry for entry in journal.read(workspace.journal) if entry.version_to == bad]
    assert [(entry.action, entry.artifact_id) for entry in entries] == [("published", artifact_id)]
    assert journal.version_status(journal.read(workspace.journal), "toy")[bad] == journal.ROLLED_BACK


@pytest.mark.parametrize("corrupt", ["journal", "set_aside"])
def test_an_incomplete_rollback_raises(workspace, repository, server, corrupt):
    first, second, third = repository.listed("toy")
    good = workspace.journal.read_bytes()
    if corrupt == "journal":
        workspace.journal.write_bytes(b"torn\n" + good)
    else:
        workspace.quarantine.write_text("a file")
    with pytest.raises(ReleaseError, match=f"went back to {second}, but"):
        rollback(Release(workspace, PARAMS, server), "toy")
    assert repository.listed("toy") == server.loaded["toy"] == [first, second]
    if corrupt == "journal":
        workspace.journal.write_bytes(good)
    else:
        workspace.quarantine.unlink()
    assert rollback(Release(workspace, PARAMS, server), "toy").quarantined == (third,)
    assert verify(workspace) == []
