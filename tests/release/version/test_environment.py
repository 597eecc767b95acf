import shutil
import subprocess

import pytest

from lobsmith.release.version.recipe import environment, git_commit


def test_records_what_the_bits_depend_on():
    recorded = environment(3)
    assert recorded.threads == 3
    assert recorded.instruction_set
    assert all(recorded.packages.values())


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "absent") is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_changed_checkout_is_dirty(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{head}-dirty"
