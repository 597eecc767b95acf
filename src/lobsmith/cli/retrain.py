"""`lobsmith retrain`: the retrain flow."""

from pathlib import Path

import click
import msgspec

from lobsmith.cli.options import (
    capture_arguments,
    json_option,
    model_option,
    overrides,
    prefect,
    print_json,
    results,
    set_option,
)
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.command()
@capture_arguments
@click.option("--resume", metavar="RUN", help="Resume a run that was killed: the name of its folder in .lobsmith/runs.")
@click.option("--force", is_flag=True, help="Train also on a window and parameters that were trained before.")
@model_option
@set_option
@json_option
@click.pass_obj
def retrain(
    workspace: Workspace,
    captures: tuple[Path, ...],
    more: tuple[Path, ...],
    resume: str | None,
    force: bool,
    model: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train on the newest window, gate, and publish a candidate."""
    changes = overrides(settings, model)
    load_params(workspace.params, changes)  # reports a mistake before Prefect is started
    files = [str(path.resolve()) for path in (*captures, *more)]
    if resume and files:
        raise click.UsageError("--resume keeps the run's own data; name no files with it")
    with prefect(workspace, "lobsmith.pipelines.retrain"):
        from lobsmith.pipelines.retrain import retrain as flow

        result = flow(str(workspace.root), files or None, changes, resume, force)
    if as_json:
        print_json(result)
        return
    for name, value in msgspec.structs.asdict(result).items():
        results.print(f"{name:<14} {value}", soft_wrap=True)
