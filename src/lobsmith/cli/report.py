"""`lobsmith report`: reports to review, as pages and JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option
from lobsmith.cli.report_drift import report_drift
from lobsmith.cli.report_shadow import report_shadow
from lobsmith.errors import DataError
from lobsmith.params import load_params
from lobsmith.progress import stage
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.evaluation.results import Evaluation


@click.group()
def report() -> None:
    """Reports to review, as pages and JSON."""


report.add_command(report_drift)
report.add_command(report_shadow)


@report.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--test", "tested", multiple=True, type=click.Path(path_type=Path), help="Test on this file instead.")
@click.option("--rivals", default="", help="Networks to hold against, by comma; default: evaluation.rivals.")
@click.option("--seeds", default="", help="Further seeds of the model's network, by comma.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Default: .lobsmith/reports.")
@set_option
@json_option
@click.pass_obj
def evaluation(
    workspace: Workspace,
    files: tuple[Path, ...],
    tested: tuple[Path, ...],
    rivals: str,
    seeds: str,
    directory: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train on recorded FILEs and test on rows held out of them, beside rivals.

    Without FILEs, show what the newest retrain or dvc repro has found.

    With --test, which may be repeated, all rows of FILEs train and all rows of the test files are held out.
    """
    params = load_params(workspace.params, overrides(settings))
    found: list[Evaluation]
    if files:
        from lobsmith.stages.protocols import across_days, with_rivals, within_sessions

        params = with_rivals(
            params,
            tuple(filter(None, rivals.split(","))) or params.evaluation.rivals,
            tuple(_numbers(seeds)) or params.evaluation.seeds,
        )
        place = (directory or workspace.home / "reports") / ("across" if tested else "within")
        with stage("evaluate") as note:
            if tested:
                found = across_days(files, tested, params, place, on_train=note)
            else:
                found = within_sessions(files, params, place, on_train=note)
            note(str(place))
    else:
        if tested:
            raise click.UsageError("--test needs FILEs to train on")
        found = [_last(workspace)]
    if as_json:
        print_json({"evaluations": found})
        return
    for one in found:
        _show(one)


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",") if one]
    except ValueError as error:
        raise click.BadParameter(f"{text}: write whole numbers with commas", param_hint="--seeds") from error


def _last(workspace: Workspace) -> "Evaluation":
    import msgspec

    from lobsmith.evaluation.results import EVALUATION, Evaluation

    found = [*workspace.runs.glob(f"*/{EVALUATION}"), *workspace.home.glob(f"stages/{EVALUATION}")]
    paths = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    if not paths:
        raise DataError(
            f"{workspace.home}: nothing has been evaluated yet; run lobsmith retrain or dvc repro, or name files"
        )
    try:
        return msgspec.json.decode(paths[-1].read_bytes(), type=Evaluation)
    except msgspec.MsgspecError as error:
        raise DataError(f"{paths[-1]}: not an evaluation of this release: {error}; run lobsmith retrain") from error


def _show(one: "Evaluation") -> None:
    table = Table(title=f"{one.instrument}, {one.network}, {one.protocol}: {one.rows['test']:,} held-out rows")
    for heading in ("horizon", "predictor", "log-loss", "model less this", "macro-F1", "MCC"):
        table.add_column(heading, justify="left" if heading == "predictor" else "right")
    differences = {(two.against, two.horizon_ms): two.difference for two in one.comparisons}
    for score in one.scores:
        difference = differences.get((score.predictor, score.horizon_ms))
        table.add_row(
            f"{score.horizon_ms} ms",
            score.predictor,
            f"{score.log_loss.value:.4f}",
            f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]" if difference else "",
            f"{score.macro_f1.value:.3f}",
            f"{score.mcc.value:.3f}",
        )
    results.print(table)
    for verdict in one.verdicts:
        results.print(str(verdict), soft_wrap=True)
