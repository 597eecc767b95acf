"""`lobsmith report shadow`: two versions on the same live rows."""

from functools import partial
from pathlib import Path
from typing import TypedDict

import click
from msgspec.structs import replace

from lobsmith import clock
from lobsmith.cli.options import json_option, model_option, overrides, print_json, results, set_option, source_option
from lobsmith.errors import DataError
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


class _Selection(TypedDict):
    since_ns: int
    sources: tuple[str, ...]
    instrument: str | None


@click.command("shadow")
@model_option
@click.option("--fallback", is_flag=True, help="The active version beside its fallback, instead of the candidate.")
@click.option("--instrument", help="venue:symbol; else the instrument with the decisive traffic.")
@source_option
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Default: .lobsmith/reports.")
@set_option
@json_option
@click.pass_obj
def report_shadow(
    workspace: Workspace,
    model: str | None,
    fallback: bool,
    instrument: str | None,
    sources: tuple[str, ...],
    directory: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare candidate and active version on the rows that both answered, as a page and JSON.

    Nothing is promoted, rejected or rolled back; the flows do that.
    """
    from lobsmith.monitoring.live_evaluation import evaluate_active, evaluate_candidate
    from lobsmith.monitoring.shadow_page import write_shadow
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.manifest import read_manifest
    from lobsmith.release.version.names import candidate_model

    params = load_params(workspace.params, overrides(settings, model))
    # Rows that both answered, those of an A/B test included.
    params = replace(params, shadow=replace(params.shadow, share=0.0))
    name = params.model.name
    repository, deployment = Repository.of(workspace), candidate_model(name)
    fallback_of = partial(repository.fallback, name)
    active = repository.active(name)
    other = (fallback_of(instrument) if instrument else fallback_of()) if fallback else repository.active(deployment)
    if active is None or other is None:
        missing = "no fallback" if fallback else "no candidate beside an active version"
        raise DataError(f"{name}: there is {missing} to compare; see lobsmith status")
    evaluated = (name, active) if fallback else (deployment, other)
    manifest = read_manifest(repository.directory(*evaluated))
    selection: _Selection = {"since_ns": manifest.created_ns, "sources": sources, "instrument": instrument}
    if fallback:
        evaluation = evaluate_active(
            workspace,
            params,
            name,
            active=active,
            fallback=fallback_of,
            now_ns=clock.now_ns(),
            was_trained_on=manifest.was_trained_on,
            **selection,
        )
    else:
        evaluation = evaluate_candidate(workspace, params, name, active=active, candidate=other, **selection)
    if evaluation is None or evaluation.compared is None:
        of = "" if instrument is None else f" of {instrument}"
        raise DataError(
            f"{name}: no row{of} from {' or '.join(sources)} sessions was answered by both yet; --source counts others"
        )
    verdict = evaluation.verdict
    margin = params.rollback.margin if fallback else 0.0
    folder = directory or workspace.reports
    path = write_shadow(folder, evaluated, verdict, evaluation.compared, params.paired, margin=margin)
    if as_json:
        print_json({"instrument": evaluation.instrument, "verdict": verdict, "page": str(path)})
        return
    pair = f"{verdict.second} beside {verdict.first}, {evaluation.instrument}"
    results.print(f"{pair}: {verdict.decision}", soft_wrap=True)
    results.print(verdict.reason, soft_wrap=True)
    for alarm in verdict.alarms:
        results.print(f"alarm  {alarm}", soft_wrap=True)
    results.print(f"page {path}", soft_wrap=True)
