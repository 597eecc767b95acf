"""`lobsmith models reproduce`: a published version, made again from its manifest."""

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
@click.option("--keep", is_flag=True, help="Leave the temporary folder with what was made.")
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
    """Make VERSION, by default the active one, again from its manifest and compare: exit status 1 if it differs.

    The data are those of the version's run; where its folder is gone, --capture names the recorded files.
    """
    from lobsmith.release.reproduce import DIFFERENT
    from lobsmith.release.reproduce import reproduce as make_again

    if version is not None and not version.isdecimal():
        if not captures:
            raise click.BadParameter(f"{version} is not a version number", param_hint="VERSION")
        # Without a version the first of several files stands in its place.
        more, version = (Path(version), *more), None
    if more and not captures:
        raise click.UsageError("one VERSION; files come after --capture")
    directory = _directory(workspace, load_params(workspace.params, overrides((), model)).model.name, version)
    with stage(f"reproduce {directory.parent.name} {directory.name}") as note:
        found = make_again(workspace, directory, captures=[*captures, *more], keep=keep, on_progress=note)
        note(found.verdict)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.verdict == DIFFERENT:
        raise click.exceptions.Exit(1)


def _directory(workspace: Workspace, model: str, version: str | None) -> Path:
    from lobsmith.release.repository.repository import Repository

    repository = Repository.of(workspace)
    number = repository.active(model) if version is None else int(version)
    if number is None:
        raise ReleaseError(f"{model}: no version is published; make one with lobsmith retrain")
    return repository.directory(model, number)


def _show(found: "Reproduced") -> None:
    table = Table(title=f"{found.model} {found.version}, made again from {found.data}")
    for heading in ("", "published", "here", "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    for one in found.environment:
        table.add_row(one.name, one.published or "-", one.here or "-", "")
    for one in found.files:
        hashes = [(text or "-")[:_HASH] for text in (one.published, one.here)]
        table.add_row(one.name, *hashes, "none" if one.published == one.here else "other bits")
    table.add_row("golden vectors", f"within {found.golden_tolerance:g}", "", f"{found.golden_difference:.3g}")
    for metric in found.metrics:
        table.add_row(metric.name, f"{metric.published:.6f}", f"{metric.reproduced:.6f}", f"{metric.difference:.3g}")
    results.print(table)
    if found.not_compared:
        results.print(f"{len(found.not_compared)} metrics of rivals are not compared: they are networks of their own")
    results.print(f"{found.verdict}: {found.reason}", soft_wrap=True)
    if found.directory is not None:
        results.print(f"kept in {found.directory}", soft_wrap=True)
