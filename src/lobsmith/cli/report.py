"""`lobsmith report`: pages and JSON to review."""

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
@click.option(
    "--test", "tested", multiple=True, type=click.Path(path_type=Path), help="Test on this file; may be repeated."
)
@click.option("--rivals", default="", help="Baselines to compare with, by comma; default: evaluation.rivals.")
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
    """Train on captured FILEs and test on rows held out of them, beside baselines.

    Without FILEs, show the newest evaluation of a retrain or dvc repro. With --test, train on all rows of FILEs and
    test on all rows of the test files.
    """
    params = load_params(workspace.params, overrides(settings))
    evaluations: list[Evaluation]
    if files:
        from lobsmith.stages.protocols import across_days, with_baselines, within_sessions

        params = with_baselines(
            params,
            tuple(filter(None, rivals.split(","))) or params.evaluation.rivals,
            tuple(_numbers(seeds)) or params.evaluation.seeds,
        )
        folder = (directory or workspace.reports) / ("across" if tested else "within")
        with stage("evaluate") as note:
            if tested:
                evaluations = across_days(files, tested, params, folder, on_train=note)
            else:
                evaluations = within_sessions(files, params, folder, on_train=note)
            note(str(folder))
    else:
        if tested:
            raise click.UsageError("--test needs FILEs to train on")
        evaluations = [_newest(workspace)]
    if as_json:
        print_json({"evaluations": evaluations})
        return
    for result in evaluations:
        _show(result)


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number]
    except ValueError as error:
        raise click.BadParameter(f"{text}: write whole numbers with commas", param_hint="--seeds") from error


def _newest(workspace: Workspace) -> "Evaluation":
    import msgspec

    from lobsmith.evaluation.results import EVALUATION, Evaluation

    paths = [*workspace.runs.glob(f"*/{EVALUATION}"), *workspace.home.glob(f"stages/{EVALUATION}")]
    paths.sort(key=lambda path: path.stat().st_mtime_ns)
    if not paths:
        raise DataError(
            f"{workspace.home}: nothing has been evaluated yet; run lobsmith retrain or dvc repro, or name files"
        )
    try:
        return msgspec.json.decode(paths[-1].read_bytes(), type=Evaluation)
    except msgspec.MsgspecError as error:
        raise DataError(f"{paths[-1]}: not an evaluation of this release: {error}; run lobsmith retrain") from error


def _show(result: "Evaluation") -> None:
    title = f"{result.instrument}, {result.network}, {result.protocol}: {result.rows['test']:,} held-out rows"
    table = Table(title=title)
    for heading in ("horizon", "predictor", "log-loss", "model less this", "macro-F1", "MCC"):
        table.add_column(heading, justify="left" if heading == "predictor" else "right")
    differences = {(pair.against, pair.horizon_ms): pair.difference for pair in result.comparisons}
    for metrics in result.horizon_metrics:
        difference = differences.get((metrics.predictor, metrics.horizon_ms))
        table.add_row(
            f"{metrics.horizon_ms} ms",
            metrics.predictor,
            f"{metrics.log_loss.value:.4f}",
            f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]" if difference else "",
            f"{metrics.macro_f1.value:.3f}",
            f"{metrics.mcc.value:.3f}",
        )
    results.print(table)
    for verdict in result.verdicts:
        results.print(str(verdict), soft_wrap=True)
