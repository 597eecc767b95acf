"""Faults of publishing, caused for real: a full disk, a partial copy, two publishers at once, foreign folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lobsmith.errors import ReleaseError
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import promote, publish

PARAMS = toy.params(release__keep=2)
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a filesystem cannot be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def put(workspace, artifact):
    return publish(Release(workspace, PARAMS), artifact, model="toy", contract=toy.CONTRACT).version


def state(workspace):
    """Return every file below the repository with its content and time."""
    files = [path for path in workspace.repository.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def names(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def fill(place: Path, free: int) -> None:
    """Fill a filesystem up to so many bytes."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, shutil.disk_usage(place).free - free)
    os.close(descriptor)


def test_f6_a_disk_that_fills_up_at_any_point_publishes_all_or_nothing(small_disk, tmp_path):
    workspace = Workspace(small_disk)
    repository = Repository.of(workspace)
    artifact = toy.artifact(tmp_path / "run")
    first = put(workspace, artifact)
    before, files = state(workspace), names(small_disk)
    failures = []
    for pages in range(40):
        fill(small_disk, pages * PAGE)
        try:
            second = put(workspace, artifact)
        except ReleaseError as error:
            failures.append(str(error))
        else:
            break
        (small_disk / "ballast").unlink()
        assert state(workspace) == before
        assert names(small_disk) == files
    else:
        raise AssertionError("160 KiB are enough for a version of 20")
    assert len(failures) > 3
    assert all("No space left on device" in failure or "is the disk full?" in failure for failure in failures), failures
    (small_disk / "ballast").unlink()
    assert repository.listed("toy") == repository.versions("toy") == [first, second]
    assert verify(workspace) == []


def test_f6_a_full_disk_does_not_stand_in_the_way_of_a_rollback(small_disk, tmp_path):
    workspace = Workspace(small_disk)
    repository = Repository.of(workspace)
    first, second = (put(workspace, toy.artifact(tmp_path / str(scale), scale=scale)) for scale in (0.3, 0.4))
    fill(small_disk, 0)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(b"1" * PAGE)
    done = rollback(Release(workspace, PARAMS), "toy", reason="it is worse")
    assert (done.version_from, done.version_to, repository.listed("toy")) == (second, first, [first])
    assert [entry.reason for entry in journal.read(workspace.journal) if entry.action == journal.ROLLED_BACK] == [
        "it is worse"
    ]
    assert verify(workspace) == []


@pytest.mark.parametrize("how", ["missing", "truncated", "no signature"])
def test_f5_a_partial_copy_is_not_promoted(tmp_path, how):
    workspace = Workspace(tmp_path)
    version = put(workspace, toy.artifact(tmp_path / "run"))
    source = shutil.copytree(Repository.of(workspace).directory("toy", version), tmp_path / "copy")
    match how:
        case "missing":
            (source / "golden.safetensors").unlink()
        case "truncated":
            content = (source / "model.onnx").read_bytes()
            (source / "model.onnx").write_bytes(content[:-100])
        case "no signature":
            (source / "manifest.sig").unlink()
    before = state(workspace)
    with pytest.raises(ReleaseError, match="missing|changed after publication|not signed"):
        promote(Release(workspace, PARAMS), source, model="toy")
    assert state(workspace) == before


def test_f8_two_publishers_at_once_take_turns(tmp_path):
    workspace = Workspace(tmp_path)
    put(workspace, toy.artifact(tmp_path / "run"))
    command = [sys.executable, "-m", "tests.release.publisher", str(tmp_path), "never", "publish"]
    publishers = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in publishers] == [0, 0, 0]
    entries = journal.read(workspace.journal)
    published = [entry.version_to for entry in entries if (entry.action, entry.model) == ("published", "toy")]
    assert published == sorted(set(published))
    assert [entry.version_from for entry in entries if (entry.action, entry.model) == ("published", "toy")] == [
        None,
        *published[:-1],
    ]
    assert Repository.of(workspace).listed("toy") == published[-2:]
    assert verify(workspace) == []


def test_f15_f16_what_stays_is_neither_deleted_nor_touched(tmp_path):
    workspace = Workspace(tmp_path)
    repository = Repository.of(workspace)
    artifact = toy.artifact(tmp_path / "run")
    versions = []
    for _ in range(4):
        active = repository.active("toy")
        before = state(workspace)
        versions.append(put(workspace, artifact))
        assert repository.listed("toy") == repository.versions("toy") == versions[-2:]
        assert repository.fallback("toy") == active
        after = state(workspace)
        kept = [path for path in after if str(active) in path.parts]
        assert kept or active is None
        assert all(after[path] == before[path] for path in kept)
    before = state(workspace)
    assert rollback(Release(workspace, PARAMS), "toy").version_to == versions[-2]
    assert all(content == before[path] for path, content in state(workspace).items() if path.name != "config.pbtxt")


def test_f17_foreign_folders_are_no_versions_and_survive_a_publication(tmp_path):
    workspace = Workspace(tmp_path)
    repository = Repository.of(workspace)
    artifact = toy.artifact(tmp_path / "run")
    first = put(workspace, artifact)
    for name in ("01", "tmp", "20990101000000.part"):
        (workspace.repository / "toy" / name).mkdir()
        (workspace.repository / "toy" / name / "model.onnx").write_bytes(b"somebody's")
    second = put(workspace, artifact)
    assert repository.listed("toy") == repository.versions("toy") == [first, second]
    assert {Path(incident.place).name for incident in verify(workspace)} == {"01", "tmp", "20990101000000.part"}
    assert {incident.kind for incident in verify(workspace)} == {"foreign"}
