import shutil

import pytest

from lobsmith.errors import DataError, ReleaseError, VersionGoneError
from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.incidents import journal_integrity_errors
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.workspace import Workspace
from tests.release import toy


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy")


def test_an_empty_place_holds_nothing(tmp_path):
    repository = Repository.of(Workspace(tmp_path / "absent"))
    assert (repository.models(), repository.versions("toy"), repository.listed("toy")) == ([], [], [])
    assert (repository.active("toy"), repository.contract("toy")) == (None, None)


def test_foreign_entries_are_no_models_and_no_versions(repository):
    versions = repository.versions("toy")
    for name in ("01", "0", "-1", "1.5", "tmp", "٣", "9" * 19, "1 "):
        (repository.root / "toy" / name).mkdir()
    (repository.root / "toy" / "7").write_text("a file")
    (repository.root / "toy" / "8").symlink_to(repository.root / "toy" / str(versions[0]))
    for name in ("staging", ".hidden", "two words", "9lives"):
        (repository.root / name).mkdir()
    (repository.root / "two words" / "config.pbtxt").write_text("")
    assert repository.models() == ["toy"]
    assert repository.versions("toy") == versions


@pytest.mark.parametrize("model", ["", "..", "../toy", "toy/..", "/etc", "toy\n", "a" * 65, "tóy", ".toy"])
def test_a_name_cannot_leave_the_repository(repository, model):
    for read in (repository.versions, repository.listed, repository.contract, repository.config_text):
        with pytest.raises(ReleaseError, match="not a model name"):
            read(model)
    with pytest.raises(ReleaseError, match="not a model name"):
        repository.directory(model, 1)


@pytest.mark.parametrize("version", [0, -1, 10**18, "01", "../1", True])
def test_a_version_is_a_whole_number(repository, version):
    with pytest.raises(ReleaseError, match="is not a version"):
        repository.directory("toy", version)


def test_rewriting_the_list_changes_nothing_else(repository):
    old, new = repository.versions("toy")
    assert repository.active("toy") == new
    before = repository.config_text("toy")
    repository.list_versions("toy", [old])
    assert (repository.listed("toy"), repository.active("toy")) == ([old], old)
    assert repository.contract("toy") == toy.CONTRACT
    repository.list_versions("toy", [new, old])
    assert repository.config_text("toy") == before


def test_only_versions_on_disk_can_be_listed(repository):
    with pytest.raises(ReleaseError, match="no such version"):
        repository.list_versions("toy", [5])
    with pytest.raises(ReleaseError, match="must name a version"):
        repository.list_versions("toy", [])


def test_a_reader_of_a_version_that_is_rolled_back_reads_the_next(workspace, repository):
    old, new = repository.versions("toy")
    versions = []

    def read(manifest):
        versions.append(manifest.version)
        if len(versions) == 1:
            rollback(Release(workspace, toy.params()), "toy", reason="accuracy")
        return (repository.directory("toy", manifest.version) / "model.onnx").read_bytes()

    assert repository.with_active("toy", read)
    assert versions == [new, old]


def test_a_damaged_version_is_no_version_that_is_gone(repository):
    def read(manifest):
        raise DataError("model.onnx: changed")

    with pytest.raises(DataError, match="changed"):
        repository.with_active("toy", read)
    with pytest.raises(VersionGoneError, match="toy 7 was rolled back"), repository.reading("toy", 7):
        read(None)


def test_a_listed_version_whose_folder_is_lost_is_an_error_of_its_own(repository):
    shutil.rmtree(repository.directory("toy", repository.active("toy")))
    with pytest.raises(ReleaseError) as caught:
        repository.with_active("toy", lambda manifest: manifest)
    assert not isinstance(caught.value, VersionGoneError)


def test_where_nothing_serves_nothing_is_read(tmp_path):
    assert Repository.of(Workspace(tmp_path)).with_active("toy", lambda manifest: manifest) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAULTS = {
    "a changed model": (lambda d: flip(d / "model.onnx"), r"model.onnx: changed"),
    "changed vectors": (lambda d: flip(d / "golden.safetensors"), r"golden.safetensors: changed"),
    "a truncated model": (lambda d: (d / "model.onnx").write_bytes(b""), r"model.onnx: changed"),
    "a missing model": (lambda d: (d / "model.onnx").unlink(), r"model.onnx: missing"),
    "side weights": (lambda d: (d / "weights.bin").write_bytes(b"1"), r"weights.bin: not in the manifest"),
    "a folder": (lambda d: (d / "model.onnx.data").mkdir(), r"model.onnx.data: not in the manifest"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), r"manifest.json: No such file"),
    "a torn manifest": (
        lambda d: (d / "manifest.json").write_text('{"model": '),
        r"manifest.json: changed after it was signed",
    ),
    "a link": (
        lambda d: ((d / "model.onnx").rename(d.parent / "elsewhere"), (d / "model.onnx").symlink_to("../elsewhere")),
        r"model.onnx: not a plain file",
    ),
    "another number": (lambda d: d.rename(d.parent / "7"), r"No such file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_corrupt_version_is_named_and_the_others_are_valid(repository, fault):
    old, new = repository.versions("toy")
    damage, message = FAULTS[fault]
    damage(repository.directory("toy", new))
    with pytest.raises(ReleaseError, match=message):
        repository.verify("toy", new)
    valid, errors = repository.valid("toy")
    assert valid == [old]
    assert errors.keys() == {new}


def test_a_version_under_another_number_is_refused(repository):
    repository.directory("toy", repository.versions("toy")[0]).rename(repository.root / "toy" / "7")
    with pytest.raises(ReleaseError, match="holds toy"):
        repository.verify("toy", 7)


def test_a_valid_version_gives_its_manifest(repository):
    version = repository.active("toy")
    manifest = repository.verify("toy", version)
    assert (manifest.model, manifest.version, manifest.contract) == ("toy", version, toy.CONTRACT)


def test_an_integrity_error_is_journaled_once(workspace):
    repository = Repository.of(workspace)
    old, new = repository.versions("toy")
    flip(repository.directory("toy", new) / "model.onnx")
    _, errors = repository.valid("toy")
    assert journal_integrity_errors(workspace, "toy", errors, actor="the server") == [new]
    assert journal_integrity_errors(workspace, "toy", errors) == []
    entry = journal.read(workspace.journal)[-1]
    assert (entry.action, entry.version_from, entry.version_to, entry.actor) == ("faulty", new, new, "the server")
    assert "model.onnx: changed" in entry.reason
    assert repository.fallback("toy") == old
