"""`lobsmith repository` as its users see it."""

import json

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.release.audit.incidents import journal_foreign
from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish
from tests.small import params_file


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.params.write_text(params_file().read_text())
    artifact = toy.artifact(tmp_path / "run")
    for _ in range(2):
        publish(Release(workspace, toy.params()), artifact, model="toy", contract=toy.CONTRACT)
    return workspace


def run(workspace, *arguments):
    return CliRunner().invoke(cli, ["--root", str(workspace.root), "repository", "verify", *arguments])


def test_verify_finds_and_repair_repairs(workspace):
    assert run(workspace).output == "nothing is wrong\n"
    repository = Repository.of(workspace)
    first, second = repository.listed("toy")
    (repository.directory("toy", second) / "model.onnx").write_bytes(b"")
    (workspace.repository / "toy" / "01").mkdir()
    result = run(workspace)
    assert result.exit_code == 1
    assert "2 found, 2 left" in result.output
    repaired = run(workspace, "--repair", "--json")
    assert repaired.exit_code == 0
    report = json.loads(repaired.stdout)
    assert {incident["kind"] for incident in report["found"]} == {"unsound", "foreign"}
    assert (report["left"], report["failures"]) == ([], {})
    assert repository.listed("toy") == repository.versions("toy") == [first]


def test_what_needs_a_person_is_left_with_the_way_out(workspace):
    for version in Repository.of(workspace).listed("toy"):
        (Repository.of(workspace).directory("toy", version) / "model.onnx").unlink()
    repaired = run(workspace, "--repair")
    assert repaired.exit_code == 1
    assert "2 found, 2 left" in repaired.output
    assert "restore this one from a backup" in " ".join(run(workspace).output.split())


def test_what_is_foreign_is_in_the_status_and_once_in_the_journal(workspace):
    (workspace.repository / "toy" / "01").mkdir()
    (workspace.repository / "stray").mkdir()
    arguments = ["--root", str(workspace.root), "status"]
    state = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    incidents = {(incident["kind"], incident["place"].rpartition("/")[2]) for incident in state["findings"]}
    assert incidents == {("foreign", "01"), ("foreign", "stray")}
    shown = CliRunner().invoke(cli, arguments).output
    assert "stray: not a model; Triton takes every folder here for one" in shown
    assert len(journal_foreign(workspace)) == 2
    assert journal_foreign(workspace) == []
    entries = [entry for entry in journal.read(workspace.journal) if entry.action == journal.INTEGRITY_ERROR]
    assert [entry.model for entry in entries] == ["*", "toy"]
    past = CliRunner().invoke(cli, [*arguments, "--at", "2100-01-01", "--json"])
    assert list(json.loads(past.stdout)["models"]) == ["toy"]


def test_a_reason_with_brackets_is_shown_as_it_was_written(workspace):
    rollback(Release(workspace, toy.params()), "toy", reason="see [/ticket 5]")
    shown = CliRunner().invoke(cli, ["--root", str(workspace.root), "status"])
    assert "see [/ticket 5]" in shown.output


def test_status_shows_what_it_can_beside_a_corrupt_journal(workspace):
    active = Repository.of(workspace).active("toy")
    workspace.journal.write_bytes(b"torn\n" + workspace.journal.read_bytes())
    shown = CliRunner().invoke(cli, ["--root", str(workspace.root), "status", "--json"])
    state = json.loads(shown.stdout)
    assert state["models"]["toy"]["active"] == active
    assert [str(workspace.journal) in error for error in state["errors"]] == [True]
