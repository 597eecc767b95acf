"""`lobsmith models reproduce`: a published version built again."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from lobsmith.cli.options import capture_arguments, json_option, model_option, overrides, print_json, results
from lobsmith.errors import ReleaseError
from lobsmith.params import load_params
from lobsmith.progress import stage
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.release.reproduce import Reproduced

_HASH = 16


@click.command()
@click.argument("version", required=False)
@model_option
@capture_arguments
@click.option("--keep", is_flag=True, help="Keep the temporary folder.")
@json_option
@click.pass_obj
def reproduce(
    workspace: Workspace,
    version: str | None,
    model: str | None,
    captures: tuple[Path, ...],
    more: tuple[Path, ...],
    keep: bool,
    as_json: bool,
) -> None:
    """Build VERSION, by default the active one, again from its manifest; exit 1 if it differs.

    The data are those of its run; if their folder is gone, pass --capture.
    """
    from lobsmith.release.reproduce import DIFFERENT
    from lobsmith.release.reproduce import reproduce as rebuild

    if version is not None and not version.isdecimal():
        if not captures:
            raise click.BadParameter(f"{version} is not a version number", param_hint="VERSION")
        # Click takes the first file for the version.
        more, version = (Path(version), *more), None
    if more and not captures:
        raise click.UsageError("one VERSION; files come after --capture")
    directory = _directory(workspace, load_params(workspace.params, overrides((), model)).model.name, version)
    with stage(f"reproduce {directory.parent.name} {directory.name}") as note:
        reproduced = rebuild(workspace, directory, captures=[*captures, *more], keep=keep, on_progress=note)
        note(reproduced.verdict)
    if as_json:
        print_json(reproduced)
    else:
        _show(reproduced)
    if reproduced.verdict == DIFFERENT:
        raise click.exceptions.Exit(1)


def _directory(workspace: Workspace, model: str, version: str | None) -> Path:
    from lobsmith.release.repository.repository import Repository

    repository = Repository.of(workspace)
    number = repository.active(model) if version is None else int(version)
    if number is None:
        raise ReleaseError(f"{model}: no version is published; make one with lobsmith retrain")
    return repository.directory(model, number)


def _show(reproduced: "Reproduced") -> None:
    table = Table(title=f"{reproduced.model} {reproduced.version}, built again from {reproduced.data}")
    for heading in ("", "published", "here", "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    for package in reproduced.environment:
        table.add_row(package.name, package.published or "-", package.here or "-", "")
    for file in reproduced.files:
        hashes = [(digest or "-")[:_HASH] for digest in (file.published, file.here)]
        table.add_row(file.name, *hashes, "none" if file.published == file.here else "other bits")
    difference = f"{reproduced.golden_difference:.3g}"
    table.add_row("golden vectors", f"within {reproduced.golden_tolerance:g}", "", difference)
    for metric in reproduced.metrics:
        table.add_row(metric.name, f"{metric.published:.6f}", f"{metric.reproduced:.6f}", f"{metric.difference:.3g}")
    results.print(table)
    if count := len(reproduced.not_compared):
        results.print(f"{count} metrics of baselines are not compared: they are networks of their own")
    results.print(f"{reproduced.verdict}: {reproduced.reason}", soft_wrap=True)
    if reproduced.directory is not None:
        results.print(f"kept in {reproduced.directory}", soft_wrap=True)
