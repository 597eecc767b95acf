"""`lobsmith reconcile`, `shadow`, `monitor`, `drift`: run a flow."""

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
    """Make the model repository follow MLflow's aliases."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace, "lobsmith.pipelines.reconcile"):
        from lobsmith.pipelines.reconcile import reconcile as flow

        outcome = flow(str(workspace.root), changes)
    _show(outcome, outcome.summary() or "nothing to do", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def shadow(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Evaluate the candidate on live rows: promote it, reject it, or wait."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace, "lobsmith.pipelines.shadow"):
        from lobsmith.pipelines.shadow import shadow as flow

        outcome = flow(str(workspace.root), changes, sources)
    _show(outcome, f"{outcome.decision or 'nothing to evaluate'}: {outcome.reason}", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def monitor(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Evaluate the active version beside its fallback: keep it, or roll it back."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace, "lobsmith.pipelines.monitor"):
        from lobsmith.pipelines.monitor import monitor as flow

        outcome = flow(str(workspace.root), changes, sources)
    _show(outcome, f"{outcome.decision or 'nothing to evaluate'}: {outcome.reason}", as_json)


@click.command()
@model_option
@source_option
@set_option
@json_option
@click.pass_obj
def drift(
    workspace: Workspace, model: str | None, sources: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Run a drift check on live rows: set the clients' mode, report, and request a retrain."""
    changes = _checked(workspace, model, settings)
    with prefect(workspace, "lobsmith.pipelines.monitor"):
        from lobsmith.pipelines.monitor import drift as flow

        outcome = flow(str(workspace.root), changes, sources)
    verdicts = [verdict for check in outcome.checks for verdict in check.verdicts]
    lines = [f"{outcome.mode or 'nothing to check'}: {outcome.reason}"]
    lines += [f"{verdict.kind}: {verdict.finding}: {verdict.reason}" for verdict in verdicts]
    lines += [line for line in (outcome.retrain, outcome.page) if line]
    _show(outcome, "\n".join(lines), as_json)


def _checked(workspace: Workspace, model: str | None, settings: tuple[str, ...]) -> dict[str, Any]:
    changes = overrides(settings, model)
    load_params(workspace.params, changes)  # reports a mistake before Prefect is started
    return changes


def _show(outcome: object, text: str, as_json: bool) -> None:
    if as_json:
        print_json(outcome)
    else:
        results.print(text, soft_wrap=True, markup=False)
