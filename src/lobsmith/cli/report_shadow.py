"""`lobsmith report shadow`: two versions on the same rows of live traffic."""

from pathlib import Path

import click

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option, source_option
from lobsmith.errors import DataError
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.command("shadow")
@click.option("--model", help="The production model, instead of model.name.")
@click.option("--fallback", is_flag=True, help="The active version beside its fallback, instead of the candidate.")
@click.option("--instrument", help="venue:symbol, where the log has several; else that of the newest session.")
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
    """Judge the candidate beside the active version on what both have answered so far, as a page and as JSON.

    Nothing is promoted or rejected: that is for the shadow flow, which asks the same question.
    """
    from lobsmith.files import write_atomic
    from lobsmith.gates.rollback import judge_active
    from lobsmith.gates.shadow import judge_shadow
    from lobsmith.monitoring.log_reader import PredictionLog, compared
    from lobsmith.monitoring.shadow_page import render_shadow
    from lobsmith.release.config import candidate_model
    from lobsmith.release.repository import Repository

    params = load_params(workspace.params, overrides(settings))
    name = model or params.model.name
    repository = Repository.of(workspace)
    listed = repository.listed(name)
    if fallback:
        pair = [(name, version) for version in listed[-2:]]
    else:
        pair = [(name, version) for version in listed[-1:]]
        pair += [(candidate_model(name), version) for version in repository.listed(candidate_model(name))[-1:]]
    if len(pair) < 2:
        missing = "no fallback" if fallback else "no candidate beside an active version"
        raise DataError(f"{name}: there is {missing} to compare; see lobsmith status")
    with PredictionLog.of(workspace, name) as log:
        sessions = [one for one in log.sessions() if one["source"] in sources]
        chosen = instrument or next((one["instrument"] for one in sessions), None)
        names = [one["session"] for one in sessions if one["instrument"] == chosen]
        both = compared(log, pair[0], pair[1], sessions=names)
    if fallback:
        verdict = judge_active(both, params.rollback, params.paired)
        margin = params.rollback.margin
    else:
        verdict = judge_shadow(both, params.shadow, params.paired)
        margin = 0.0
    path = (directory or workspace.home / "reports") / f"{verdict.judged}-{pair[1][0]}-{pair[1][1]}.html"
    write_atomic(path, render_shadow(verdict, both, params.paired, margin=margin).encode())
    if as_json:
        print_json({"verdict": verdict, "page": str(path)})
        return
    results.print(f"{verdict.second} beside {verdict.first}: {verdict.decision}", soft_wrap=True)
    results.print(verdict.reason, soft_wrap=True)
    results.print(f"page {path}", soft_wrap=True)
