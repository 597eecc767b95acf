import signal
import subprocess
import sys

import pytest

from lobsmith.release import journal
from lobsmith.release.publish import publish
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace
from tests.release import toy

STEPS = ("staged", "proven", "moved", "listed", "loading", "loaded", "recorded")


def put(workspace):
    artifact = toy.artifact(workspace.root / "run")
    return publish(workspace, toy.params(), artifact, model="toy", contract=toy.CONTRACT).version


def killed_after(root, step):
    done = subprocess.run([sys.executable, "-m", "tests.release.publisher", str(root), step], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_the_first_version_is_whole_or_absent(tmp_path, step):
    workspace = Workspace(tmp_path)
    repository = Repository.of(workspace)
    killed_after(tmp_path, step)
    published = step not in ("staged", "proven")
    assert repository.models() == (["toy"] if published else [])
    assert repository.sound("toy") == (repository.versions("toy"), {})
    check_next(workspace, repository, repository.listed("toy"))


@pytest.mark.parametrize("step", STEPS)
def test_the_next_version_is_listed_or_not(tmp_path, step):
    workspace = Workspace(tmp_path)
    repository = Repository.of(workspace)
    first = put(workspace)
    killed_after(tmp_path, step)
    listed, faulty = repository.sound("toy")
    assert faulty == {}
    assert first in listed
    assert len(listed) == (1 if step in ("staged", "proven", "moved") else 2)
    check_next(workspace, repository, listed)


def check_next(workspace, repository, listed):
    """Publish once more: what was listed stays so, every version on disk is listed, and the journal knows of each."""
    last = put(workspace)
    assert repository.listed("toy") == [*listed, last]
    assert repository.versions("toy") == [*listed, last]
    assert repository.sound("toy")[1] == {}
    assert list(workspace.staging.iterdir()) == []
    published = [one for one in journal.read(workspace.journal) if one.action == "published"]
    assert [one.version_to for one in published] == [*listed, last]
    assert [one.version_from for one in published] == [None, *listed]
