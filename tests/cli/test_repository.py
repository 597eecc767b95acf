"""`lobsmith repository` as its users see it."""

import json

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.release.publish import publish
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.small import params_file


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.params.write_text(params_file().read_text())
    artifact = toy.artifact(tmp_path / "run")
    for _ in range(2):
        publish(workspace, toy.params(), artifact, model="toy", contract=toy.CONTRACT)
    return workspace


def run(workspace, *arguments):
    return CliRunner().invoke(cli, ["--root", str(workspace.root), "repository", "verify", *arguments])


def test_verify_finds_and_repair_mends(workspace):
    assert run(workspace).output == "nothing is wrong\n"
    repository = Repository.of(workspace)
    first, second = repository.listed("toy")
    (repository.directory("toy", second) / "model.onnx").write_bytes(b"")
    (workspace.repository / "toy" / "01").mkdir()
    found = run(workspace)
    assert found.exit_code == 1
    assert "2 found, 2 left" in found.output
    mended = run(workspace, "--repair", "--json")
    assert mended.exit_code == 0
    report = json.loads(mended.stdout)
    assert {one["kind"] for one in report["found"]} == {"unsound", "foreign"}
    assert (report["left"], report["failures"]) == ([], {})
    assert repository.listed("toy") == repository.versions("toy") == [first]


def test_what_needs_a_person_is_left_with_the_way_out(workspace):
    for version in Repository.of(workspace).listed("toy"):
        (Repository.of(workspace).directory("toy", version) / "model.onnx").unlink()
    mended = run(workspace, "--repair")
    assert mended.exit_code == 1
    assert "2 found, 2 left" in mended.output
    assert "restore this one from a backup" in " ".join(run(workspace).output.split())
