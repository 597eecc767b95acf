"""`lobsmith status`: the table at 80 columns, and the past."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.cli.options import results
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.small import params_file


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("status"))
    workspace.params.write_text(params_file().read_text())
    for model, scale in (("lob", 0.3), ("lob", 0.4), (candidate_model("lob"), 0.5)):
        folder = workspace.root / f"made-{scale}"
        folder.mkdir()
        artifact = replace(toy.artifact(folder, scale=scale), run=f"run-{scale}")
        publish(Release(workspace, toy.params()), artifact, model=model, contract=toy.CONTRACT)
    return workspace


def status(workspace: Workspace, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["--root", str(workspace.root), "status", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_versions_are_whole_at_80_columns_and_companions_are_folded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "width", 80)
    repository = Repository.of(workspace)
    old, new = repository.listed("lob")
    (candidate,) = repository.listed("lob_candidate")
    lines = status(workspace).splitlines()
    table = [line for line in lines if line.startswith("│")]
    assert [[cell.strip() for cell in line.split("│")][1:5] for line in table] == [
        ["lob", str(new), "no", "active"],
        ["", str(old), "no", "fallback"],
    ]
    assert max(map(len, table)) <= 80
    assert f"beside   lob_candidate {candidate}; --all lists their versions" in lines
    unfolded = status(workspace, "--all")
    assert [line.split("│")[1].strip() for line in unfolded.splitlines() if line.startswith("│")] == [
        "lob",
        "",
        "lob_candidate",
    ]
    assert "beside" not in unfolded
    assert set(json.loads(status(workspace, "--json"))["models"]) == {"lob", "lob_candidate"}


def test_before_the_first_record_nothing_is_known(workspace: Workspace, tmp_path: Path) -> None:
    known = json.loads(status(workspace, "--at", "2020-01-01", "--json"))
    assert known["models"] == {"lob": None, "lob_candidate": None}
    line = status(workspace, "--at", "2020-01-01T12:00")
    assert line == f"nothing is known at 2020-01-01T12:00:00+00:00: the journal begins at {known['known_since']}\n"
    assert "served nothing" not in line
    assert status(workspace, "--at", "2020-01-01", "--model", "lob").startswith("nothing is known of lob at 2020")
    assert "nothing was published here yet" in status(workspace, "--at", "2100-01-01", "--model", "other")
    assert "lob_candidate" in status(workspace, "--at", "2100-01-01")
    empty = Workspace(tmp_path)
    empty.params.write_text(params_file().read_text())
    assert status(empty, "--at", "2100-01-01") == "nothing is known: nothing was published here yet\n"
