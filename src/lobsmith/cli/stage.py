"""`lobsmith stage NAME`: one stage, as `dvc.yaml` runs it."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from lobsmith.cli.options import capture_arguments, json_option, overrides, print_json, results, set_option
from lobsmith.params import load_params
from lobsmith.progress import stage as show
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.gates.compression import Compressed

STAGES = ("ingest", "validate", "features", "reference", "train", "compress", "evaluate")
"""Modules of `lobsmith.stages` in the order of `dvc.yaml`."""


@click.command()
@click.argument("name", type=click.Choice(STAGES))
@capture_arguments
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".lobsmith/stages"),
    show_default=True,
    help="Folder of the stages' files.",
)
@set_option
@json_option
@click.pass_obj
def stage(
    workspace: Workspace,
    name: str,
    captures: tuple[Path, ...],
    more: tuple[Path, ...],
    directory: Path,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run one stage from files to files."""
    params = load_params(workspace.params, overrides(settings))
    directory.mkdir(parents=True, exist_ok=True)
    with show(name) as note:
        outcome: str = import_module(f"lobsmith.stages.{name}").run(params, directory, [*captures, *more], note)
        note(outcome)
    if name == "compress":
        _show_candidates(directory, as_json=as_json)
    elif as_json:
        print_json({"stage": name, "outcome": outcome})


def _show_candidates(directory: Path, *, as_json: bool) -> None:
    from lobsmith.stages.compress import load_summary

    summary = load_summary(directory)
    if as_json:
        print_json(summary)
        return
    results.print(losses_table(summary))
    results.print(times_table(summary))
    for row in summary.candidates:
        if row.refused:
            results.print(f"{row.name} refused: {row.refused}", soft_wrap=True)


def losses_table(summary: "Compressed") -> Table:
    """Return the candidates' losses on held-out rows."""
    title = "What candidates lose on held-out rows (upper ends of 95 % of test and validation rows)"
    table = _table(title, "log-loss", "at most", "at most, validation", "MCC", "directions as FP32", "parity")
    for row in summary.candidates:
        if row.test is None or row.validation is None:
            table.add_row(row.name)
            continue
        table.add_row(
            row.name,
            f"{row.test.delta_log_loss.value:+.2%}",
            f"{row.test.delta_log_loss.high:+.2%}",
            f"{row.validation.delta_log_loss.high:+.2%}",
            f"{row.test.delta_mcc.value:+.3f}",
            f"{row.test.agreement.value:.2%}",
            f"{row.parity:.1e}",
        )
    return table


def times_table(summary: "Compressed") -> Table:
    """Return the candidates' latency, size and outcome."""
    from lobsmith.compress.timing import USES

    title = f"For use in {summary.use}: microseconds of a call; times as fast as FP32 in the same run"
    table = _table(title, "p50 µs", "p99 µs", *(f"{use} ×" for use in USES), "kB", "MB in use", "outcome")
    compiled = [row.name for row in summary.candidates for timing in row.timings if timing.runtime == "compiled"]
    table.caption = f"single rows by the compiled step: {', '.join(compiled)}" if compiled else None
    for row in summary.candidates:
        if not row.timings:
            table.add_row(row.name, *[""] * (len(USES) + 4), row.outcome)
            continue
        table.add_row(
            row.name,
            f"{row.p50_us:.1f}",
            f"{row.p99_us:.1f}",
            *(f"{timing.speedup:.2f}" for timing in row.timings),
            f"{(row.bytes or 0) / 1e3:.0f}",
            f"{(row.memory_bytes or 0) / 1e6:.1f}",
            row.outcome,
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("candidate", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
