"""`lobsmith reconcile`, `shadow`, `monitor` and `drift`: the flows of a model in service, now."""

from typing import Any

import click

from lobsmith.cli.options import (
    json_option,
    model_option,
    overrides,
    prefect,
    print_json,
    results,
    set_option,
    source_option,
)
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.command()
@model_option
@set_option
@json_option
@click.pass_obj
def reconcile(workspace: Workspace, model: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Make the repository what MLflow's aliases ask for."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace):
        from pipelines.reconcile import reconcile as flow

        done = flow(str(workspace.root), changes)
    _show(done, done.words() or "as wanted", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def shadow(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Judge the candidate on live traffic so far: promote it, reject it, or keep watching."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace):
        from pipelines.shadow import shadow as flow

        seen = flow(str(workspace.root), changes, sources)
    _show(seen, f"{seen.decision or 'nothing to judge'}: {seen.reason}", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def monitor(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Judge the active version beside its fallback: keep it, or take it back."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace):
        from pipelines.monitor import monitor as flow

        seen = flow(str(workspace.root), changes, sources)
    _show(seen, f"{seen.decision or 'nothing to judge'}: {seen.reason}", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def drift(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Look for drift in live traffic: set the mode that clients keep to, report, and ask for a retrain."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace):
        from pipelines.monitor import drift as flow

        seen = flow(str(workspace.root), changes, sources)
    words = [f"{seen.mode or 'nothing to check at'}: {seen.reason}"]
    words += [f"{one.kind}: {one.finding}: {one.reason}" for check in seen.checks for one in check.verdicts]
    words += [line for line in (seen.retrain, seen.page) if line]
    _show(seen, "\n".join(words), as_json)


def _checked(workspace: Workspace, model: str | None, settings: tuple[str, ...]) -> dict[str, Any]:
    changes = overrides(settings, model)
    load_params(workspace.params, changes)  # a mistake in them is told before Prefect is started
    return changes


def _show(result: object, words: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        results.print(words, soft_wrap=True, markup=False)
