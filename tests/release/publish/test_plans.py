import json
import shutil
import signal

import pytest
from msgspec import structs

from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.errors import DeadlineError, ReleaseError
from lobsmith.files import sha256_file
from lobsmith.release.context import Release
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.repository import journal
from lobsmith.release.version.manifest import check_files, read_manifest
from lobsmith.release.version.triton_config import listed_versions, read_config
from lobsmith.trading.transport.inprocess import InProcessTransport
from tests.release import plans, toy
from tests.release.in_process import publish
from tests.release.procedures import PROCEDURES
from tests.release.stand_in import StandIn


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy")


def put(workspace, **overrides):
    artifact = toy.artifact(workspace.root / "run")
    return publish(Release(workspace, toy.params(**overrides)), artifact, model="toy", contract=toy.CONTRACT)


def manifest_of(repository, version=None):
    return repository.verify("toy", version or repository.active("toy"))


def put_plans(workspace, of, *, server=None, note=None, params=None, **changes):
    folder = workspace.root / "engine"
    shutil.rmtree(folder, ignore_errors=True)
    plans.build(folder, of, **changes)
    return publish_engine(
        Release(workspace, params or toy.params(), server, note=note), folder, of, validate=check_files
    )


def refuse_to_load(model, version):
    raise DeadlineError("no answer")


def policy(repository, model="toy_trt"):
    """What the policy names, whatever the ONNX model lists."""
    return listed_versions(read_config(repository.config_path(model)))


def test_plans_are_published_under_the_number_of_their_network(workspace, repository):
    of, steps, server = manifest_of(repository), [], StandIn(workspace)
    manifest = put_plans(workspace, of, server=server, note=steps.append)
    assert steps == list(PROCEDURES["publish"])
    assert server.loaded == {"toy_trt": [of.version]}
    assert repository.verify("toy_trt", of.version) == manifest
    assert repository.listed("toy_trt") == [of.version]
    assert (manifest.version, manifest.artifact_id, manifest.contract) == (of.version, of.artifact_id, of.contract)
    assert (manifest.engine.plans, manifest.gpu_architecture) == ({"8.9": "model_sm89.plan"}, "sm89")
    assert manifest.files.keys() == {"model_sm89.plan", "engine.json", "golden.safetensors"}
    assert repository.contract("toy_trt") == toy.CONTRACT
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.model, entry.version_from, entry.version_to) == (
        "published",
        "toy_trt",
        None,
        of.version,
    )


def test_a_manifest_of_before_there_were_plans_is_read(repository):
    directory = repository.directory("toy", repository.active("toy"))
    path = directory / "manifest.json"
    table = json.loads(path.read_bytes())
    assert table.pop("engine", "absent") is None
    path.write_text(json.dumps(table))
    assert read_manifest(directory).engine is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": "tensorrt_rtx"}, "plans of tensorrt_rtx only show that the graph builds and are never published"),
        ({"source_sha256": "0" * 64}, "fp32 plans of another network"),
        ({"sha256": {"model_sm89.plan": "0" * 64}}, "model_sm89.plan: changed after it was built"),
        ({"sha256": {}}, "does not name one plan with its hash"),
        ({"plans": {}, "sha256": {}}, "does not name one plan with its hash"),
        ({"plans": {"8.9": "../p"}, "sha256": {"../p": "0" * 64}}, "not a plain file"),
        ({"profiles": (plans.STEP,)}, "no profile takes one stream of 2 rows"),
    ],
)
def test_plans_that_are_not_fit_are_refused(workspace, repository, changes, message):
    with pytest.raises(ReleaseError, match=message):
        put_plans(workspace, manifest_of(repository), **changes)
    assert repository.models() == ["toy"]
    assert list(workspace.staging.iterdir()) == []
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.model) == ("refused", "toy_trt")


def test_plans_of_a_file_derived_from_the_network_are_taken(workspace, repository):
    manifest = put_plans(workspace, manifest_of(repository), precision="fp16", source_sha256="a" * 64)
    assert (manifest.precision, manifest.engine.source_sha256) == ("fp16", "a" * 64)


def test_a_changed_plan_is_found(workspace, repository):
    of = manifest_of(repository)
    put_plans(workspace, of)
    (repository.directory("toy_trt", of.version) / "model_sm89.plan").write_bytes(b"")
    assert "model_sm89.plan: changed" in repository.valid("toy_trt")[1][of.version]


def test_a_manifest_that_goes_along_with_a_changed_plan_is_found(workspace, repository):
    of = manifest_of(repository)
    manifest = put_plans(workspace, of)
    directory = repository.directory("toy_trt", of.version)
    (directory / "model_sm89.plan").write_bytes(b"another")
    changed = sha256_file(directory / "model_sm89.plan")
    toy.seal(directory, structs.replace(manifest, files={**manifest.files, "model_sm89.plan": changed}))
    assert "model_sm89.plan is not the plan that was built" in repository.valid("toy_trt")[1][of.version]


def test_plans_are_not_published_twice_nor_for_a_version_that_is_not_listed(workspace, repository):
    old, new = repository.listed("toy")
    put_plans(workspace, manifest_of(repository, new))
    with pytest.raises(ReleaseError, match="plans of this version are published"):
        put_plans(workspace, manifest_of(repository, new))
    repository.list_versions("toy", [new])
    with pytest.raises(ReleaseError, match="not listed"):
        put_plans(workspace, manifest_of(repository, old))


def test_an_onnx_model_of_that_name_is_left_alone(workspace, repository):
    before = repository.config_text("toy").replace('name: "toy"', 'name: "toy_trt"')
    repository.config_path("toy_trt").parent.mkdir()
    repository.config_path("toy_trt").write_text(before)
    with pytest.raises(ReleaseError, match="of the backend onnxruntime"):
        put_plans(workspace, manifest_of(repository))
    assert repository.config_text("toy_trt") == before


def test_a_failed_validation_publishes_nothing(workspace, repository):
    of, folder = manifest_of(repository), workspace.root / "engine"
    plans.build(folder, of)

    def refuse(directory, trust):
        raise ReleaseError(f"{directory}: differs")

    with pytest.raises(ReleaseError, match="differs"):
        publish_engine(Release(workspace, toy.params()), folder, of, validate=refuse)
    assert repository.models() == ["toy"]


def test_without_a_fitting_gpu_nothing_is_published(workspace, repository):
    of, folder = manifest_of(repository), workspace.root / "engine"
    plans.build(folder, of, capabilities=("1.0",))
    assert this_gpu() is None or this_gpu().capability != "1.0"
    with pytest.raises(ReleaseError, match=r"a plan can only be validated on a GPU of capability 1\.0"):
        publish_engine(Release(workspace, toy.params()), folder, of)
    assert repository.models() == ["toy"]


def test_a_failed_load_is_taken_back_and_may_be_tried_again(workspace, repository):
    old, new = repository.listed("toy")

    def load(model, version):
        if version == new:
            refuse_to_load(model, version)

    with pytest.raises(DeadlineError):
        put_plans(workspace, manifest_of(repository, new), server=StandIn(workspace, load))
    assert repository.models() == ["toy"]
    put_plans(workspace, manifest_of(repository, old), server=StandIn(workspace, load))
    with pytest.raises(DeadlineError):
        put_plans(workspace, manifest_of(repository, new), server=StandIn(workspace, load))
    assert (repository.listed("toy_trt"), repository.versions("toy_trt")) == ([old], [old])
    put_plans(workspace, manifest_of(repository, new))
    assert repository.listed("toy_trt") == [old, new]


@pytest.mark.parametrize("changes", [{"capabilities": ("8.6", "8.9")}, {"profiles": (plans.CHUNK,)}])
def test_plans_of_another_layout_take_the_listing_over(workspace, repository, changes):
    old, new = repository.listed("toy")
    put_plans(workspace, manifest_of(repository, old))
    manifest = put_plans(workspace, manifest_of(repository, new), **changes)
    assert repository.listed("toy_trt") == [new]
    config = read_config(repository.config_path("toy_trt"))
    assert dict(config.cc_model_filenames) == manifest.engine.plans
    assert len(config.instance_group[0].profile) == len(manifest.engine.profiles)


def test_plans_follow_a_rollback(workspace, repository):
    old, new = repository.listed("toy")
    for version in (old, new):
        put_plans(workspace, manifest_of(repository, version))
    repository.list_versions("toy", [old])
    assert (repository.listed("toy_trt"), policy(repository)) == ([old], [old])


def test_plans_of_unlisted_versions_are_quarantined_with_the_next_publication(workspace, repository):
    old, new = repository.listed("toy")
    put_plans(workspace, manifest_of(repository, new))
    repository.list_versions("toy", [old])
    assert repository.listed("toy_trt") == []
    put(workspace)
    assert repository.models() == ["toy"]
    assert [path.name.rsplit("-", 1)[0] for path in workspace.quarantine.iterdir()] == [f"toy_trt-{new}"]


def test_plans_follow_what_publishing_keeps(workspace, repository):
    for version in repository.listed("toy"):
        put_plans(workspace, manifest_of(repository, version))
    _, kept = repository.listed("toy")
    put(workspace, release__keep=2)
    assert policy(repository) == repository.listed("toy_trt") == [kept]


@pytest.mark.parametrize("step", ["staged", "proven", "moved", "listed", "loaded", "recorded"])
def test_a_killed_publisher_of_plans_leaves_the_old_state_or_the_new(workspace, repository, zygote, step):
    old, new = repository.listed("toy")
    put_plans(workspace, manifest_of(repository, old))
    # A number that the journal holds from a refusal must not make a later leftover count as a version.
    with pytest.raises(DeadlineError):
        put_plans(workspace, manifest_of(repository, new), server=StandIn(workspace, refuse_to_load))
    killed = zygote.run("publisher", str(workspace.root), step, "plans")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    published = step in ("listed", "loaded", "recorded")
    assert repository.valid("toy_trt") == ([old, new] if published else [old], {})
    if not published:
        put_plans(workspace, manifest_of(repository, new))
    latest = put(workspace)
    put_plans(workspace, latest)
    assert repository.valid("toy_trt") == ([old, new, latest.version], {})
    lines = [
        entry.version_to
        for entry in journal.read(workspace.journal)
        if entry.model == "toy_trt" and entry.action == "published"
    ]
    assert lines == [old, new, latest.version]


def test_the_engine_in_this_process_leaves_plans_alone(workspace, repository):
    put_plans(workspace, manifest_of(repository))
    transport = InProcessTransport(repository)
    assert transport.versions("toy_trt") == []
    assert transport.versions("toy") == repository.listed("toy")


def test_plans_that_cannot_be_read_do_not_hinder_the_model(workspace, repository):
    old, new = repository.listed("toy")
    put_plans(workspace, manifest_of(repository))
    repository.config_path("toy_trt").write_text("nonsense {")
    repository.list_versions("toy", [old])
    assert put(workspace).version > new
    assert len(repository.listed("toy")) == 2
