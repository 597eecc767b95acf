"""Every command that is about a model takes `--model`, the same option everywhere."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lobsmith.cli.demo import SHORT, refuse_production
from lobsmith.cli.main import cli
from lobsmith.cli.options import overrides
from lobsmith.errors import ReleaseError
from lobsmith.params import load_params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.small import params_file

ABOUT_NO_MODEL = (
    *("bench ", "data ", "doctor", "down", "init", "logs", "report evaluation", "repository verify", "serve", "stage"),
)
"""Groups and commands about market data, networks, the machine, or all models at once."""


def commands(group: click.Group = cli, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()])
def test_a_command_about_a_model_takes_it_by_name(name: str, command: click.Command) -> None:
    options = [option for option in command.params if "--model" in option.opts]
    if name.startswith(ABOUT_NO_MODEL):
        assert options == []
        assert command.callback is not None
        source = inspect.getsource(inspect.getmodule(inspect.unwrap(command.callback)))
        assert "model.name" not in source
        return
    [option] = options
    assert (option.help, option.name) == ("The production model; model.name of params.yaml by default.", "model")


def test_the_option_wins_over_a_parameter() -> None:
    assert overrides(("model.name=one", "train.epochs=2"), "two") == {"model.name": "two", "train.epochs": 2}
    assert overrides(("model.name=one",)) == {"model.name": "one"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return tmp_path


def put(root: Path, model: str, run: str) -> None:
    workspace = Workspace(root)
    folder = root / f"made-{model}-{run}"
    folder.mkdir()
    artifact = replace(toy.artifact(folder, scale=0.3 + len(run) / 1000), run=run)
    publish(Release(workspace, toy.params()), artifact, model=model, contract=toy.CONTRACT)


@pytest.mark.parametrize("model", ["lob", candidate_model("lob")])
def test_a_demonstration_takes_the_place_of_demonstrations_only(root: Path, model: str) -> None:
    workspace = Workspace(root)
    refuse_production(workspace, "lob")
    put(root, model, "20261121T092509-d901fa-demo")
    refuse_production(workspace, "lob")
    put(root, model, "20261121T092510-d901fb")
    with pytest.raises(ReleaseError, match=rf"{model} \d+ is in service.* --root DIR demo .* --model NAME"):
        refuse_production(workspace, "lob")
    refuse_production(workspace, "other")
    result = CliRunner().invoke(cli, ["--root", str(root), "demo"])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {model} ")


def test_schedules_go_on_with_the_contract_of_a_demonstration() -> None:
    path = params_file()
    assert wire_contract(load_params(path, SHORT)) == wire_contract(load_params(path))


def test_status_shows_the_state_of_one_model_or_of_all(root: Path) -> None:
    put(root, "lob", "run")
    put(root, "other", "run")

    def status(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["--root", str(root), "status", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    state = json.loads(status("--json"))
    assert set(state["models"]) == {"lob", "other"}
    idle = {"name": "idle", "detail": "no client is connected", "colour": "yellow"}
    assert [model["state"] for model in state["models"].values()] == [idle] * 2
    assert state["alerts"] == []
    assert set(json.loads(status("--model", "lob", "--json"))["models"]) == {"lob"}
    assert "idle: no client is connected" in status("--model", "lob")
    assert "none of nothing yet" in status("--model", "nothing")
