import dataclasses
import errno
import os
import threading
from pathlib import Path

import pytest
from msgspec import structs

from lobsmith.errors import ContractError, DeadlineError, GateError, LeaseError, ReleaseError
from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish import onnx as publishing
from lobsmith.release.publish import publication
from lobsmith.release.publish.onnx import mint_version, validate_in_child
from lobsmith.release.repository import journal
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.triton_config import listed_versions, read_config
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish
from tests.release.procedures import PROCEDURES
from tests.release.stand_in import StandIn

NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def artifact(tmp_path):
    return toy.artifact(tmp_path / "run")


def put(workspace, artifact, *, params=None, server=None, actor=None, note=None, **settings):
    settings = {"model": "toy", "contract": toy.CONTRACT} | settings
    return publish(Release(workspace, params or toy.params(), server, actor, note), artifact, **settings)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("last", "version"),
    [
        (None, 20231114221320),
        (20231114221319, 20231114221320),
        (20231114221320, 20231114221321),
        (20231114235959, 20231114235960),
        (20991231235959, 20991231235960),
    ],
)
def test_versions_are_utc_times_and_only_rise(last, version):
    assert mint_version(NOW_NS, last) == version


def test_publishes_a_version(workspace, repository, artifact):
    steps, server = [], StandIn(workspace)
    settings = {"server": server, "note": steps.append, "actor": "a flow", "validate": validate_in_child}
    manifest = put(workspace, artifact, **settings)
    assert steps == list(PROCEDURES["publish"])
    assert server.loaded == {"toy": [manifest.version]}
    assert repository.verify("toy", manifest.version) == manifest
    assert repository.active("toy") == manifest.version
    assert (
        repository.directory("toy", manifest.version) / "model.onnx"
    ).read_bytes() == artifact.model_path.read_bytes()
    assert list(workspace.staging.iterdir()) == []
    assert manifest.environment.packages.keys() >= {"torch", "onnx", "onnxruntime", "numpy", "numba", "lobsmith"}
    [entry] = journal.read(workspace.journal)
    assert (entry.action, entry.version_from, entry.version_to) == ("published", None, manifest.version)
    assert (entry.actor, entry.artifact_id, entry.verdicts) == ("a flow", manifest.artifact_id, artifact.verdicts)


def test_a_server_never_sees_a_model_half_made(workspace, repository, artifact):
    states = []

    def note_state(step):
        states.append((step, repository.models(), repository.active("toy") is not None))

    put(workspace, artifact, note=note_state)
    assert states[:3] == [(step, [], False) for step in ("intended", "staged", "proven")]
    assert states[3] == ("moved", ["toy"], True)


def test_lists_the_newest_and_primes_for_the_slowest(workspace, repository, tmp_path):
    versions = []
    for rows in (40, 30, 20, 10):
        artifact = toy.artifact(tmp_path / f"run{rows}", rows=rows)
        versions.append(put(workspace, artifact, params=toy.params(release__keep=3)).version)
    assert versions == sorted(set(versions))
    assert repository.listed("toy") == versions[1:]
    assert repository.versions("toy") == versions[1:]
    assert read_config(repository.config_path("toy")).parameters["prime_rows"].string_value == "32"


def test_the_candidate_deployment_holds_the_newest(workspace, repository, artifact):
    for _ in range(2):
        last = put(workspace, artifact, model="toy_candidate")
    assert repository.listed("toy_candidate") == repository.versions("toy_candidate") == [last.version]
    actions = [entry.action for entry in journal.read(workspace.journal)]
    assert actions == ["published", "published", "retired"]


def test_what_was_taken_off_the_list_or_damaged_stays_off(workspace, repository, artifact):
    first, second, third = (put(workspace, artifact).version for _ in range(3))
    repository.list_versions("toy", [first, second])
    (repository.directory("toy", first) / "model.onnx").write_bytes(b"")
    fourth = put(workspace, artifact).version
    assert fourth > third
    assert repository.listed("toy") == [second, fourth]
    assert repository.versions("toy") == [second, third, fourth]
    assert [path.name.split("-")[1] for path in workspace.quarantine.iterdir()] == [str(first)]


def test_a_refused_gate_publishes_nothing(workspace, repository, tmp_path):
    artifact = toy.artifact(tmp_path / "run", verdicts=(toy.PASSED, toy.REFUSED))
    with pytest.raises(GateError, match=r"skill refused: 1\.2"):
        put(workspace, artifact)
    assert repository.models() == []
    [entry] = journal.read(workspace.journal)
    assert entry.action == "refused"
    assert "skill refused" in entry.reason


def test_a_change_of_the_contract_needs_a_new_name(workspace, repository, artifact):
    put(workspace, artifact)
    before = tree(workspace.repository)
    changed = structs.replace(toy.CONTRACT, definitions_sha256="6" * 64)
    with pytest.raises(ContractError, match=r"definitions_sha256 5+ to 6+\); choose a new model.name"):
        put(workspace, artifact, contract=changed)
    assert tree(workspace.repository) == before
    put(workspace, artifact, contract=changed, model="toy_2")
    assert repository.models() == ["toy", "toy_2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"external": True}, "side file"),
        ({"names": {"state": "memory"}}, "its inputs"),
        ({"features": 4}, "features has shape"),
        ({"offset": float("nan")}, "not finite"),
        ({"scale": 0.0}, "same for every row"),
        ({"scale": 0.4}, "differ from the golden vectors"),
    ],
)
def test_a_bad_model_file_publishes_nothing(workspace, artifact, changes, message):
    first = put(workspace, artifact)
    before = tree(workspace.repository)
    toy.write_model(artifact.model_path, **changes)
    if changes == {"scale": 0.0}:
        artifact = dataclasses.replace(artifact, golden=toy.golden(artifact.model_path))
    with pytest.raises(ReleaseError, match=message):
        put(workspace, artifact)
    assert tree(workspace.repository) == before
    assert list(workspace.staging.iterdir()) == []
    refused = journal.read(workspace.journal)[-1]
    assert (refused.action, refused.version_from) == ("refused", first.version)


@pytest.mark.parametrize("size", [0, 300])
def test_an_empty_or_truncated_file_publishes_nothing(workspace, repository, artifact, size):
    artifact.model_path.write_bytes(artifact.model_path.read_bytes()[:size])
    with pytest.raises(ReleaseError, match=r"model.onnx: (empty|truncated)"):
        put(workspace, artifact)
    assert repository.models() == []


def test_a_missing_file_publishes_nothing(workspace, repository, artifact):
    artifact.model_path.unlink()
    with pytest.raises(ReleaseError, match=r"model.onnx: No such file"):
        put(workspace, artifact)
    assert repository.models() == []


def test_a_failed_load_of_the_first_version_leaves_no_model(workspace, repository, artifact):
    def load(model, version):
        raise DeadlineError("the server does not answer")

    with pytest.raises(DeadlineError):
        put(workspace, artifact, server=StandIn(workspace, load))
    assert list(workspace.repository.iterdir()) == []
    assert len(list((workspace.home / "set_aside").iterdir())) == 1
    assert [entry.action for entry in journal.read(workspace.journal)] == ["refused"]
    assert put(workspace, artifact).version > journal.read(workspace.journal)[0].version_to


def test_a_failed_load_takes_the_server_back_to_the_old_version(workspace, repository, artifact):
    first = put(workspace, artifact)
    before = tree(workspace.repository)
    calls = []

    def load(model, version):
        calls.append((version, listed_versions(read_config(repository.config_path(model)))))
        if version != first.version:
            raise RuntimeError("warm-up failed")

    with pytest.raises(RuntimeError, match="warm-up failed"):
        put(workspace, artifact, server=StandIn(workspace, load))
    (new, listed_then), (again, listed_after) = calls
    assert listed_then == [first.version, new]
    assert (again, listed_after) == (first.version, [first.version])
    assert tree(workspace.repository) == before
    assert journal.read(workspace.journal)[-1].action == "refused"


def test_a_server_that_is_gone_is_named_in_the_journal(workspace, artifact):
    first = put(workspace, artifact)

    def load(model, version):
        raise DeadlineError(f"no answer for {version}")

    with pytest.raises(DeadlineError) as caught:
        put(workspace, artifact, server=StandIn(workspace, load))
    reason = journal.read(workspace.journal)[-1].reason
    assert reason.startswith(str(caught.value))
    assert f"the server did not go back to toy {first.version}" in reason


@pytest.mark.parametrize("name", ["golden.safetensors", "config.pbtxt"])
def test_a_full_disk_publishes_nothing(workspace, artifact, monkeypatch, name):
    put(workspace, artifact)
    before = tree(workspace.repository)
    write = publishing.write_atomic

    def full(path, content, **settings):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content, **settings)

    for module in (publishing, publication):
        monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(ReleaseError, match=rf"{name}: No space left on device; could not publish toy"):
        put(workspace, artifact)
    assert tree(workspace.repository) == before
    assert list(workspace.staging.iterdir()) == []


def test_two_filesystems_are_refused(workspace, artifact, tmp_path, monkeypatch):
    # Only their device numbers are read; nothing is written there.
    others = [place for place in (Path("/dev/shm"), Path(__file__).parent) if place.is_dir()]  # noqa: S108
    other = next((place for place in others if place.stat().st_dev != tmp_path.stat().st_dev), None)
    if other is None:
        pytest.skip("there is no second filesystem here")
    monkeypatch.setattr(Workspace, "staging", property(lambda self: other))
    monkeypatch.setattr(publication, "clear_up", lambda *_: None)
    with pytest.raises(ReleaseError, match="lie on two filesystems"):
        put(workspace, artifact)


def test_a_configuration_that_is_not_ours_is_left_alone(workspace, artifact):
    folder = workspace.repository / "toy"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "toy"\nbackend: "python"\n')
    before = tree(workspace.repository)
    with pytest.raises(ReleaseError, match="not a configuration that lobsmith wrote"):
        put(workspace, artifact)
    assert tree(workspace.repository) == before


@pytest.mark.parametrize("model", ["../toy", "", "a b"])
def test_a_name_that_leads_elsewhere_is_refused(workspace, artifact, model):
    with pytest.raises(ReleaseError, match="not a model name"):
        put(workspace, artifact, model=model)


def test_publishers_take_turns(workspace, repository, artifact):
    threads = [threading.Thread(target=put, args=(workspace, artifact)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = repository.versions("toy")
    assert len(versions) == 3
    assert repository.listed("toy") == versions
    entries = journal.read(workspace.journal)
    assert [(entry.version_from, entry.version_to) for entry in entries] == list(
        zip([None, *versions], versions, strict=False)
    )


def test_a_publisher_does_not_wait_for_ever(workspace):
    with (
        sole_writer(Release(workspace, toy.params()), "publish toy"),
        pytest.raises(LeaseError, match=r"publish.lease: .* \(publish toy\) has held the lease"),
        sole_writer(Release(workspace, toy.params()), "publish toy", wait_s=0.1),
    ):
        pass


def test_a_lost_configuration_costs_no_version(workspace, repository, artifact):
    """Published all the same, the new version would be the only one listed, and the older ones retired."""
    for _ in range(2):
        put(workspace, artifact)
    listed = repository.listed("toy")
    repository.config_path("toy").unlink()
    with pytest.raises(ReleaseError, match=r"config.pbtxt: missing.*verify --repair"):
        put(workspace, artifact)
    assert repository.versions("toy") == listed
    assert repair(Release(workspace, toy.params()), verify(workspace)) == []
    assert repository.listed("toy") == listed


def test_a_number_that_no_version_can_have_is_not_minted():
    with pytest.raises(ReleaseError, match="no version number is left"):
        mint_version(1_700_000_000_000_000_000, 10**18 - 1)
