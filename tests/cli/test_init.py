"""`lobsmith init`, and commands in a folder that is no project."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from lobsmith.cli.main import ANYWHERE, cli
from lobsmith.params import load_params
from tests.small import params_file

OWN = ("params.yaml", "prefect.yaml", "dvc.yaml")


def lobsmith(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def leaves(command: click.Command, name: str = "") -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    below = [leaves(part, f"{name} {key}".lstrip()) for key, part in command.commands.items()]
    return {key: leaf for commands in below for key, leaf in commands.items()}


COMMANDS = leaves(cli)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new desk"


def test_a_new_project_has_the_files_of_the_repository(folder: Path) -> None:
    with chdir(folder.parent):
        result = lobsmith("init", folder.name)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == ["next:", "  cd 'new desk'", "  lobsmith demo", "  lobsmith up --detach"]
    repository = params_file().parent
    for name in (*OWN, ".dvc/.gitignore", ".dvcignore"):
        assert (folder / name).read_text() == (repository / name).read_text()
        assert not (folder / name).is_symlink()
    load_params(folder / "params.yaml")
    assert {".lobsmith/", "model_repository/"} <= set((folder / ".gitignore").read_text().splitlines())


def test_commands_of_its_readme_are_there(folder: Path) -> None:
    lobsmith("init", folder)
    named = re.findall(r"^lobsmith ([a-z ]*[a-z])", (folder / "README.md").read_text(), re.MULTILINE)
    assert len(named) > 10
    assert [line for line in named if not any(f"{line} ".startswith(f"{name} ") for name in COMMANDS)] == []


@pytest.mark.parametrize("present", OWN)
def test_files_of_a_project_are_never_overwritten(folder: Path, present: str) -> None:
    folder.mkdir()
    (folder / present).write_text("mine")
    result = lobsmith("init", folder)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {folder} has {present} already")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {present: "mine"}


def test_other_files_of_the_folder_stay(folder: Path) -> None:
    folder.mkdir()
    mine = {"README.md": "mine", "notes.txt": "mine", ".gitignore": "*.log\n.venv/"}
    for name, text in mine.items():
        (folder / name).write_text(text)
    result = lobsmith("init", folder, "--json")
    assert result.exit_code == 0, result.output
    assert {name: (folder / name).read_text() for name in ("README.md", "notes.txt")} == {
        "README.md": "mine",
        "notes.txt": "mine",
    }
    assert (folder / ".gitignore").read_text() == "*.log\n.venv/\n.lobsmith/\nmodel_repository/\n"
    assert "README.md" not in result.stdout


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "desk"):
        result = lobsmith("init", place)
        assert result.exit_code == 1
        [line] = result.stderr.splitlines()
        assert line.startswith(f"Error: {place}: cannot be made a project: ")


def arguments_of(command: click.Command) -> list[str]:
    """Return a value for each argument and option that a command needs."""
    values: list[str] = []
    for parameter in command.params:
        if not parameter.required:
            continue
        choice = isinstance(parameter.type, click.Choice)
        values += [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
        values.append(parameter.type.choices[0] if choice else "1")
    return values


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(ANYWHERE)))
def test_a_command_in_no_project_is_one_line_with_the_way_out(tmp_path: Path, name: str) -> None:
    with chdir(tmp_path):
        result = lobsmith("--root", tmp_path, *name.split(), *arguments_of(COMMANDS[name]))
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path} is no project")
    assert f"`lobsmith init {tmp_path}`" in line
    assert list(tmp_path.iterdir()) == []


def test_commands_that_need_no_project_go_on(tmp_path: Path) -> None:
    assert set(ANYWHERE) <= set(COMMANDS)
    root = ("--root", tmp_path / "nowhere")
    for arguments in (("--version",), ("status", "--help")):
        assert lobsmith(*root, *arguments).exit_code == 0
    session = tmp_path / "session.gz"
    assert lobsmith(*root, "data", "simulate", session, "--seconds", "60").exit_code == 0
    for command in ("describe", "watch"):
        result = lobsmith(*root, "data", command, session)
        assert result.exit_code == 0, result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.integration
@pytest.mark.parametrize("in_git", [False, True])
def test_dvc_knows_the_stages(folder: Path, in_git: bool) -> None:
    if in_git:
        git = shutil.which("git")
        if git is None:
            pytest.skip("git is not installed")
        subprocess.run([git, "init", "-q", folder], check=True)
    lobsmith("init", folder)
    dvc = [Path(sys.executable).parent / "dvc", "repro", "--dry", "ingest"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(dvc, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, "lobsmith stage ingest" in done.stdout) == (0, True), done.stdout + done.stderr
