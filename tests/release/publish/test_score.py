import shutil
import signal

import numpy as np
import pytest
from msgspec import structs

from lobsmith.compress.runtime import session
from lobsmith.errors import DeadlineError, ReleaseError
from lobsmith.files import sha256_file
from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import IntegrityKind, verify
from lobsmith.release.checks.model_file import check_score_file
from lobsmith.release.checks.score_validation import check_score
from lobsmith.release.context import Release
from lobsmith.release.publish.score import catch_up
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.triton_config import config_text, configured_contract, listed_versions, read_config
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import deploy_candidate, promote, publish
from tests.release.procedures import PROCEDURES
from tests.release.scores import write_reference, write_score
from tests.release.stand_in import StandIn

PARAMS = toy.params(release__keep=2)


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy", scored=True)


def put(workspace, *, model="toy", server=None, scored=True, score_scale=3.0):
    artifact = toy.artifact(workspace.root / "run", scored=scored, score_scale=score_scale)
    return publish(Release(workspace, PARAMS, server), artifact, model=model, contract=toy.CONTRACT).version


def without_scores(workspace):
    """A server that cannot load a score that it does not serve yet."""
    known = Repository.of(workspace).listed("toy_drift")

    def refuse(model, version):
        if model == "toy_drift" and version not in known:
            raise DeadlineError("no answer")

    return StandIn(workspace, refuse)


def lines(workspace, model="toy_drift"):
    return [(entry.action, entry.version_to) for entry in journal.read(workspace.journal) if entry.model == model]


def mend(workspace):
    return repair(Release(workspace, PARAMS, StandIn(workspace)), verify(workspace))


def test_a_score_is_published_under_the_number_of_its_version(workspace, repository):
    server = StandIn(workspace)
    version = put(workspace, server=server)
    assert server.loaded["toy"] == server.loaded["toy_drift"] == repository.listed("toy")
    directory, beside = repository.directory("toy", version), repository.directory("toy_drift", version)
    assert {path.name for path in directory.iterdir()} >= {"reference.safetensors", "drift.onnx"}
    assert {path.name for path in beside.iterdir()} == {"model.onnx", "manifest.json", "manifest.sig"}
    assert (beside / "model.onnx").read_bytes() == (directory / "drift.onnx").read_bytes()
    manifest = repository.verify("toy_drift", version)
    assert manifest.artifact_id == repository.verify("toy", version).files["drift.onnx"]
    assert lines(workspace)[-1] == ("published", version)
    assert verify(workspace) == []


def test_its_configuration_is_bound_to_the_contract_of_its_model(repository):
    path = repository.config_path("toy_drift")
    assert configured_contract(path) == repository.contract("toy") == toy.CONTRACT
    config = read_config(path)
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("rows", [-1, toy.F])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [
        ("score", [1]),
        ("contributions", [toy.F]),
    ]


def test_a_version_without_a_score_is_valid(workspace, repository):
    version = put(workspace, scored=False)
    assert version not in repository.listed("toy_drift")
    assert version in repository.listed("toy")
    assert verify(workspace) == []


def test_a_candidate_keeps_its_score_to_itself_and_a_promotion_publishes_it(workspace, repository):
    candidate = put(workspace, model="toy_candidate")
    assert set(repository.models()) == {"toy", "toy_candidate", "toy_drift"}
    source = repository.directory("toy_candidate", candidate)
    manifest = promote(Release(workspace, PARAMS), source, model="toy")
    assert repository.active("toy_drift") == manifest.version
    again = promote(Release(workspace, PARAMS), repository.directory("toy", manifest.version), model="toy")
    assert repository.listed("toy_drift") == [manifest.version, again.version]
    back = deploy_candidate(Release(workspace, PARAMS), repository.directory("toy", again.version), model="toy")
    assert "drift.onnx" in back.files
    assert verify(workspace) == []


def test_a_score_goes_back_with_its_version(workspace, repository):
    old, new = repository.listed("toy")
    server = StandIn(workspace)
    rollback(Release(workspace, PARAMS, server), "toy")
    assert repository.listed("toy_drift") == repository.versions("toy_drift") == [old]
    assert {path.name.rsplit("-", 1)[0] for path in workspace.quarantine.iterdir()} == {
        f"toy-{new}",
        f"toy_drift-{new}",
    }
    assert verify(workspace) == []


def test_the_last_score_leaves_with_its_version(workspace, repository):
    old, _ = repository.listed("toy")
    put(workspace, scored=False)
    newest = put(workspace, scored=False)
    assert repository.models() == ["toy"]
    rollback(Release(workspace, PARAMS), "toy")
    assert repository.active("toy") < newest
    assert old not in repository.versions("toy")
    assert verify(workspace) == []


def test_a_score_that_is_not_served_takes_nothing_down_and_is_tried_again(workspace, repository):
    version = put(workspace, server=without_scores(workspace))
    assert repository.active("toy") == version
    assert version not in repository.listed("toy_drift")
    assert lines(workspace)[-1] == ("refused", version)
    [finding] = verify(workspace)
    assert (finding.kind, finding.model, finding.version, finding.safe) == (
        IntegrityKind.COMPANION,
        "toy",
        version,
        True,
    )

    # It was refused a moment ago: once a minute would fill journal and disk.
    known = len(journal.read(workspace.journal))
    assert catch_up(Release(workspace, PARAMS, StandIn(workspace)), "toy") == {version: "no answer"}
    assert len(journal.read(workspace.journal)) == known
    later = toy.params(release__keep=2, reconcile__retry_s=1e-9)
    assert catch_up(Release(workspace, later, without_scores(workspace)), "toy") == {version: "no answer"}
    assert catch_up(Release(workspace, PARAMS, StandIn(workspace)), "toy", retry=True) == {}
    assert version in repository.listed("toy_drift")
    assert verify(workspace) == []


def test_a_missing_score_is_published_by_repair_and_by_the_next_publication(workspace, repository):
    first = put(workspace, server=without_scores(workspace))
    assert mend(workspace) == []
    assert first in repository.listed("toy_drift")
    second = put(workspace, server=without_scores(workspace))
    third = put(workspace)
    assert repository.listed("toy_drift") == [second, third]


@pytest.mark.parametrize("which", [0, 1])
def test_a_corrupt_score_is_made_anew_and_its_model_goes_on(workspace, repository, which):
    listed = repository.listed("toy")
    (repository.directory("toy_drift", listed[which]) / "model.onnx").write_bytes(b"")
    assert repository.valid("toy") == (listed, {})
    findings = verify(workspace)
    assert [(finding.kind, finding.model, finding.version) for finding in findings] == [
        (IntegrityKind.CORRUPT, "toy_drift", listed[which])
    ]
    assert mend(workspace) == []
    assert verify(workspace) == []
    assert repository.valid("toy_drift") == (listed, {})


def test_a_score_of_another_version_is_found(workspace, repository):
    old, new = repository.listed("toy")
    directory = repository.directory("toy_drift", new)
    shutil.copy(repository.directory("toy_drift", old) / "model.onnx", directory / "model.onnx")
    changed = sha256_file(directory / "model.onnx")
    manifest = structs.replace(read_manifest(directory), files={"model.onnx": changed}, artifact_id=changed)
    toy.seal(directory, manifest)
    assert repository.integrity_error("toy_drift", new) is None
    [finding] = verify(workspace)
    assert f"does not belong to toy {new}" in finding.message
    assert mend(workspace) == []
    assert verify(workspace) == []


@pytest.mark.parametrize("content", [None, "nonsense {"])
def test_a_lost_configuration_is_written_anew_and_blocks_nothing(workspace, repository, content):
    path, before = repository.config_path("toy_drift"), repository.config_text("toy_drift")
    path.unlink()
    if content is not None:
        path.write_text(content)
    version = put(workspace)
    assert repository.active("toy") == version
    mend(workspace)
    mend(workspace)
    assert verify(workspace) == []
    assert repository.listed("toy_drift") == repository.listed("toy")
    path.write_text(before)
    assert configured_contract(path) == toy.CONTRACT


def test_a_model_of_that_name_is_left_alone(tmp_path):
    workspace = Workspace(tmp_path)
    repository = Repository.of(workspace)
    text = config_text("toy_drift", toy.CONTRACT, versions=[1], prime_rows=1, max_batch=1, warmup=0)
    repository.config_path("toy_drift").parent.mkdir(parents=True)
    repository.config_path("toy_drift").write_text(text)
    version = put(workspace)
    assert repository.listed("toy") == [version]
    assert repository.config_text("toy_drift") == text
    assert "not that of a score" in journal.read(workspace.journal)[-1].reason


def test_a_reference_without_a_score_is_refused(workspace):
    artifact = toy.artifact(workspace.root / "run", scored=True)
    (workspace.root / "run" / "reference.safetensors").unlink()
    for change in ({"reference_path": None}, {"score_path": None}):
        half = type(artifact)(**{**vars(artifact), **change})
        with pytest.raises(ReleaseError, match="belong together"):
            publish(Release(workspace, PARAMS), half, model="toy", contract=toy.CONTRACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swallow": True}, "a score below 1, no alarm"),
        ({"offset": float("nan")}, "the score of a finite block is not finite"),
        ({"mix": True}, "depends on the others of its batch"),
        ({"features": 4}, r"rows has shape \[any, any, 4\]"),
        ({"block": 128}, r"rows has shape \[any, 128, 3\]"),
        ({"name": "ticks"}, "its inputs are"),
    ],
)
def test_a_score_that_is_not_fit_is_refused(tmp_path, changes, message):
    write_reference(tmp_path / "reference.safetensors", features=toy.F)
    write_score(tmp_path / "drift.onnx", **{"features": toy.F, "scale": 0.1, **changes})
    with pytest.raises(ReleaseError, match=message):
        check_score(tmp_path, toy.CONTRACT)


@pytest.mark.parametrize("corrupt", ["reference.safetensors", "drift.onnx"])
def test_a_version_with_a_broken_score_or_reference_is_not_published(workspace, repository, corrupt):
    before = repository.listed("toy")
    artifact = toy.artifact(workspace.root / "run", scored=True)
    (workspace.root / "run" / corrupt).write_bytes(b"\x08\x00")
    with pytest.raises(ReleaseError, match=corrupt):
        publish(Release(workspace, PARAMS), artifact, model="toy", contract=toy.CONTRACT)
    assert repository.listed("toy") == repository.listed("toy_drift") == before


def test_what_is_served_scores_as_the_file_of_the_version_does(workspace, repository):
    block = np.random.default_rng(0).normal(size=(2, 64, toy.F)).astype(np.float32)
    for version, scale in zip(repository.listed("toy"), (1.0, 2.0), strict=True):
        path = repository.directory("toy_drift", version) / "model.onnx"
        check_score_file(path, toy.CONTRACT)
        [score] = session(path).run(["score"], {"rows": block})
        np.testing.assert_allclose(score[:, 0], scale * (block**2).mean(axis=1).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("step", PROCEDURES["publish"])
def test_a_killed_publisher_of_a_score_leaves_the_old_state_or_the_new(workspace, repository, zygote, step):
    version = put(workspace, server=without_scores(workspace))
    before = repository.listed("toy_drift")
    killed = zygote.run("publisher", str(workspace.root), step, "score")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    published = step in ("listed", "loaded", "recorded", "closed")
    assert repository.valid("toy_drift") == ([*before, version] if published else before, {})
    assert repository.valid("toy")[1] == {}
    # A crashed writer is no refusal of the score: it is tried again at once.
    server = StandIn(workspace)
    assert catch_up(Release(workspace, PARAMS, server), "toy") == {}
    put(workspace, server=server)
    assert verify(workspace) == []
    assert repository.listed("toy_drift") == repository.listed("toy")
    assert listed_versions(read_config(repository.config_path("toy_drift"))) == repository.listed("toy")
    assert lines(workspace).count(("published", version)) == 1
