import shutil

import pytest
from msgspec import structs

from lobsmith.errors import ContractError, DeadlineError, GateError, ReleaseError
from lobsmith.release.context import Release
from lobsmith.release.publish.promote import promotion_plan
from lobsmith.release.repository import journal
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.version.manifest import Origin
from tests.release import toy
from tests.release.in_process import promote, publish
from tests.release.procedures import PROCEDURES
from tests.release.stand_in import StandIn


@pytest.fixture(scope="module")
def template(published):
    return published("toy_candidate")


@pytest.fixture
def candidate(repository):
    return repository.directory("toy_candidate", repository.active("toy_candidate"))


def put(workspace, source, *, model="toy", server=None, actor=None, note=None, **settings):
    release = Release(workspace, toy.params(release__keep=2), server, actor, note)
    return promote(release, source, model=model, **settings)


def test_a_candidate_is_served_under_the_production_name(workspace, repository, candidate, server):
    shadow = toy.PASSED.__class__(gate="shadow", passed=True, value=0.1, threshold=0.0)
    settings = {"actor": "a flow", "reason": "better in shadow", "verdicts": (shadow,), "server": server}
    manifest = put(workspace, candidate, **settings)
    original = repository.verify("toy_candidate", int(candidate.name))
    assert repository.verify("toy", manifest.version) == manifest
    assert manifest.artifact_id == original.artifact_id
    assert manifest.files == original.files
    assert manifest.promoted_from == Origin(model="toy_candidate", version=original.version)
    assert manifest.verdicts == (toy.PASSED, shadow)
    assert server.loaded["toy"] == [manifest.version]
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.version_from, entry.version_to) == ("promoted", None, manifest.version)
    assert (entry.actor, entry.reason, entry.verdicts[-1]) == ("a flow", "better in shadow", shadow)


def test_an_older_artifact_is_promoted_again_under_a_new_number(workspace, repository, candidate):
    first = put(workspace, candidate)
    publish(
        Release(workspace, toy.params()),
        toy.artifact(workspace.root / "b", scale=0.4),
        model="toy",
        contract=toy.CONTRACT,
    )
    third = put(workspace, repository.directory("toy", first.version))
    assert third.version > first.version
    assert third.artifact_id == first.artifact_id
    assert repository.active("toy") == third.version


def test_a_copy_from_elsewhere_needs_a_trusted_signature(workspace, repository, candidate, tmp_path):
    copy = shutil.copytree(candidate, tmp_path / "downloaded")
    shutil.rmtree(candidate.parent)
    assert put(workspace, copy).promoted_from.model == "toy_candidate"
    (copy / "manifest.sig").unlink()
    with pytest.raises(ReleaseError, match="not signed"):
        put(workspace, copy)


def test_what_falls_out_is_unloaded_and_deleted_but_the_fallback_stays(workspace, repository, candidate, server):
    steps, versions = [], []
    for _ in range(3):
        steps.clear()
        versions.append(put(workspace, candidate, server=server, note=steps.append).version)
    assert tuple(steps) == PROCEDURES["promote"]
    assert repository.versions("toy") == repository.listed("toy") == server.loaded["toy"] == versions[1:]
    assert repository.fallback("toy") == versions[1]
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.version_from, entry.version_to) == ("retired", versions[2], versions[0])


def test_a_corrupt_version_is_not_counted_and_is_quarantined(workspace, repository, candidate, server):
    first, second = (put(workspace, candidate, server=server).version for _ in range(2))
    (repository.directory("toy", second) / "model.onnx").write_bytes(b"")
    third = put(workspace, candidate, server=server).version
    assert repository.listed("toy") == repository.versions("toy") == [first, third]
    assert [path.name.rsplit("-", 1)[0] for path in workspace.quarantine.iterdir()] == [f"toy-{second}"]
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.version_to) == ("set aside", second)
    assert "model.onnx: changed" in entry.reason


def test_a_server_that_does_not_let_go_keeps_the_files_until_the_next_promotion(workspace, repository, candidate):
    class Holding(StandIn):
        def withdraw(self, model, versions):
            raise DeadlineError(f"{model} {versions} is still loaded")

    server = Holding(workspace)
    versions = [put(workspace, candidate, server=server).version for _ in range(3)]
    assert repository.listed("toy") == versions[1:]
    assert repository.versions("toy") == versions
    last = put(workspace, candidate, server=StandIn(workspace))
    assert repository.versions("toy") == [versions[2], last.version]


@pytest.mark.parametrize("model", ["toy_candidate", "toy_trt", "../toy"])
def test_only_production_names_can_be_promoted_to(workspace, candidate, model):
    with pytest.raises(ReleaseError, match="belongs to|not a model name"):
        put(workspace, candidate, model=model)


def test_a_refusal_promotes_nothing(workspace, repository, candidate):
    with pytest.raises(GateError, match="skill refused"):
        put(workspace, candidate, verdicts=(toy.REFUSED,))
    assert repository.models() == ["toy_candidate"]
    assert journal.read(workspace.journal)[-1].action == "refused"


def test_another_contract_is_refused(workspace, repository, candidate, tmp_path):
    changed = structs.replace(toy.CONTRACT, definitions_sha256="6" * 64)
    publish(Release(workspace, toy.params()), toy.artifact(tmp_path / "run"), model="toy", contract=changed)
    with pytest.raises(ContractError, match="choose a new model.name"):
        put(workspace, candidate)
    plan = promotion_plan(Release(workspace, toy.params()), candidate, model="toy")
    assert "choose a new model.name" in plan.refusals[0]
    assert list(plan.listed) == repository.listed("toy")


def test_a_plan_says_what_the_promotion_then_does(workspace, repository, candidate):
    params = toy.params(release__keep=2)
    old = [put(workspace, candidate).version for _ in range(2)]
    before = journal.read(workspace.journal)
    plan = promotion_plan(Release(workspace, params), candidate, model="toy")
    assert (repository.versions("toy"), journal.read(workspace.journal)) == (old, before)
    manifest = put(workspace, candidate)
    assert plan.refusals == ()
    assert plan.active == old[1]
    assert plan.version <= manifest.version
    assert (plan.artifact_id, plan.promoted_from) == (manifest.artifact_id, manifest.promoted_from)
    assert plan.listed == (old[1], plan.version)
    assert (plan.fallback, plan.retired) == (old[1], (old[0],))
    assert repository.versions("toy") == [old[1], manifest.version]


def test_a_candidate_is_undeployed(workspace, repository, candidate, server):
    server.loaded["toy_candidate"] = [int(candidate.name)]
    release = Release(workspace, toy.params(), server, actor="a flow")
    gone = undeploy_candidate(release, "toy", reason="worse in shadow", verdicts=(toy.REFUSED,))
    assert gone == int(candidate.name)
    assert (repository.models(), server.loaded["toy_candidate"]) == ([], [])
    assert not candidate.parent.exists()
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.reason, entry.verdicts) == ("rejected", "worse in shadow", (toy.REFUSED,))
    assert undeploy_candidate(release, "toy") is None
    assert list(workspace.staging.iterdir()) == []
