"""`lobsmith replay`: captures through the trading client."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lobsmith.cli.options import (
    change_options,
    changes,
    json_option,
    model_option,
    other_instrument_option,
    overrides,
    print_json,
    results,
    set_option,
)
from lobsmith.errors import DataError, ServingError
from lobsmith.params import load_params
from lobsmith.progress import console
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.trading.recorder.recorder import RecorderSummary
    from lobsmith.trading.replay import ActionSummary, ReplayResult

TRANSPORTS = ("grpc", "http", "inprocess")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--simulate", "seconds", type=click.IntRange(min=1), help="Replay this many simulated seconds instead.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulator.")
@change_options
@click.option("--transport", type=click.Choice(TRANSPORTS), default="grpc", show_default=True)
@click.option("--url", help="HOST:PORT of a server; the workspace's own by default.")
@model_option
@click.option("--record/--no-record", default=True, show_default=True, help="Log predictions, with shadow replicas.")
@click.option("--guard/--no-guard", default=True, show_default=True, help="Count the actionable rows.")
@click.option("--modes", help="URL of another machine's modes, http://HOST:PORT/modes; the workspace's by default.")
@click.option("--ab", is_flag=True, help="A/B test: the candidate answers shadow.share of the time, by blocks.")
@other_instrument_option
@click.option("--rows", type=click.IntRange(min=1), help="Replay this many rows at most.")
@set_option
@json_option
@click.pass_obj
def replay(
    workspace: Workspace,
    files: tuple[Path, ...],
    seconds: int | None,
    seed: int,
    change_at: float | None,
    factors: tuple[str, ...],
    transport: str,
    url: str | None,
    model: str | None,
    record: bool,
    guard: bool,
    modes: str | None,
    ab: bool,
    allow_other_instrument: bool,
    rows: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay captured FILES, in order as one stream, and print accuracy and latency.

    Answers of the model, its candidate and its fallback go into the prediction log.
    """
    from msgspec.structs import replace

    from lobsmith.features.captured import read_dataset
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.simulator import Dynamics, simulate
    from lobsmith.monitoring.log.writer import Source
    from lobsmith.trading.replay import replay as replay_rows
    from lobsmith.trading.session import open_stream

    params = load_params(workspace.params, overrides(settings, model))
    if bool(files) == (seconds is not None):
        raise DataError("nothing to replay, or two things: name captured FILES, or pass --simulate SECONDS")
    drift = changes(change_at, factors, Dynamics())
    if files and drift:
        raise click.UsageError("--change is of the simulated market; pass --simulate SECONDS in place of FILES")
    dataset = (
        read_dataset(files, params) if files else build_dataset(simulate(seed, seconds or 0, changes=drift), params)
    )
    columns = (TextColumn(f"replay over {transport}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, transient=True) as progress,
        open_stream(
            dataset.instrument,
            root=workspace,
            params=params,
            transport=transport,
            url=url,
            guard=guard,
            modes=modes,
            ab=ab,
            record=Source.REPLAY if record else None,
            backpressure=True,
            allow_other_instrument=allow_other_instrument,
        ) as stream,
    ):
        task = progress.add_task("replay", total=None)
        measured = replay_rows(
            stream,
            dataset,
            limit=rows,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    measured = replace(measured, recorded=stream.recorded)
    if as_json:
        print_json(measured)
    else:
        results.print(_summary_line(transport, measured), soft_wrap=True)
        results.print(_table(measured))
        if measured.not_trained is not None:
            results.print(f"[red]not trained on[/red] {measured.not_trained}; no row is actionable", soft_wrap=True)
        if measured.reasons:
            results.print(f"without an answer: {measured.reasons}")
        if measured.recorded is not None:
            results.print(recorded_line(measured.recorded), soft_wrap=True)
        if measured.actions is not None:
            results.print(actions_line(measured.actions), soft_wrap=True)
    if measured.answered == 0:
        raise ServingError(f"no row was answered: {measured.reasons or 'the data has no complete row'}")


def recorded_line(recorded: "RecorderSummary") -> str:
    """Return counts of logged and shadow rows."""
    line = (
        f"logged {recorded.logged:,} of {recorded.rows:,} rows as {recorded.session}; shadow rows to the candidate "
        f"{recorded.candidate:,}, to the fallback {recorded.fallback:,}"
    )
    dropped = recorded.dropped + recorded.candidate_dropped + recorded.fallback_dropped
    if dropped:
        line += f"; dropped {recorded.dropped:,} / {recorded.candidate_dropped:,} / {recorded.fallback_dropped:,}"
    if recorded.restarts or recorded.faults:
        line += f"; {recorded.restarts} restarts, {recorded.faults} faults, see {recorded.log}"
    return line


def actions_line(actions: "ActionSummary") -> str:
    """Return counts of actionable rows, modes and reasons."""
    modes = ", ".join(f"{mode} {rows:,}" for mode, rows in actions.modes.items())
    line = f"actionable: {actions.acted:,} rows, {actions.in_full:,} of them at every horizon; {modes}"
    if actions.abstained:
        line += "; not actionable: " + ", ".join(f"{code} {rows:,}" for code, rows in actions.abstained.items())
    return line if actions.last is None else f"{line} (last: {actions.last})"


def _summary_line(transport: str, result: "ReplayResult") -> str:
    versions = ", ".join(map(str, result.versions)) or "-"
    latencies = [f"{name} {result.latency_us[name]:,.0f} µs" for name in ("p50", "p99") if name in result.latency_us]
    answered = f"{result.answered:,} of {result.rows:,} rows answered over {transport}"
    return "; ".join([answered, f"version {versions}", *latencies])


def _table(result: "ReplayResult") -> Table:
    table = Table()
    for heading in ("horizon", "rows", "accuracy", "base rate", "log-loss", "base rate"):
        table.add_column(heading, justify="right")
    for metrics in result.quality:
        pairs = (metrics.accuracy, metrics.base_accuracy, metrics.log_loss, metrics.base_log_loss)
        table.add_row(f"{metrics.horizon_ms:,} ms", f"{metrics.rows:,}", *(f"{figure:.3f}" for figure in pairs))
    return table
