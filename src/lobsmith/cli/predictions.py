"""`lobsmith predictions`: the prediction log."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from lobsmith import clock
from lobsmith.cli.options import json_option, model_option, overrides, print_json, results
from lobsmith.units import NS_PER_S, NS_PER_US
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.monitoring.accuracy import HorizonAccuracy, VersionAccuracy

_NS_PER_HOUR = 3600 * NS_PER_S
_MOST_HOURS = 876_000.0
"""A century, so that nanoseconds stay within 64 bits."""

hours_option = click.option(
    "--hours",
    type=click.FloatRange(min=0, max=_MOST_HOURS, min_open=True),
    help="Only predictions of the last hours.",
)


@click.group()
def predictions() -> None:
    """Describe or export the prediction log."""


@predictions.command()
@model_option
@hours_option
@json_option
@click.pass_obj
def describe(workspace: Workspace, model: str | None, hours: float | None, as_json: bool) -> None:
    """Show count, latency and accuracy of each version's predictions."""
    from lobsmith.monitoring.accuracy import accuracy_of
    from lobsmith.monitoring.log.raw_rows import count_raw_rows
    from lobsmith.monitoring.log.reader import PredictionLog, answers

    since_ns = _since(hours)
    with PredictionLog.of(workspace, _name(workspace, model)) as log:
        streams = log.streams(since_ns)
        accuracies = {
            (stream.model, stream.version): accuracy_of(answers(log, stream.model, stream.version, since_ns=since_ns))
            for stream in streams
        }
        state: dict[str, Any] = {
            "log": str(log.path),
            "sessions": log.sessions(),
            "versions": [
                {
                    "roles": {
                        stream.role: stream.rows for stream in streams if (stream.model, stream.version) == version
                    },
                    "score": accuracy,
                }
                for version, accuracy in accuracies.items()
            ],
            "raw_rows": count_raw_rows(log, since_ns),
            "drops": log.drops(since_ns),
        }
    if as_json:
        print_json(state)
        return
    results.print(f"{state['log']}: {len(state['sessions'])} sessions", soft_wrap=True)
    if not accuracies:
        results.print("no predictions" + (f" in the last {hours:g} hours" if hours else ""))
    else:
        results.print(_table(state["versions"]))
    results.print(f"{state['raw_rows']} rows in their own units, for drift checks")
    for place, count in state["drops"].items():
        results.print(f"dropped  {place}: {count} rows")


@predictions.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@model_option
@hours_option
@click.option("--raw", is_flag=True, help="The rows of drift checks in place of predictions.")
@json_option
@click.pass_obj
def export(workspace: Workspace, file: Path, model: str | None, hours: float | None, raw: bool, as_json: bool) -> None:
    """Write predictions with outcomes to FILE as Parquet, a row each."""
    from lobsmith.monitoring.log.export import export_parquet, export_raw_rows
    from lobsmith.monitoring.log.reader import PredictionLog

    with PredictionLog.of(workspace, _name(workspace, model)) as log:
        rows = (export_raw_rows if raw else export_parquet)(log, file, since_ns=_since(hours))
    if as_json:
        print_json({"file": str(file), "rows": rows, "bytes": file.stat().st_size})
    else:
        results.print(f"{file}: {rows} rows, {file.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


@predictions.command()
@click.argument("session")
@model_option
@json_option
@click.pass_obj
def close(workspace: Workspace, session: str, model: str | None, as_json: bool) -> None:
    """Close SESSION of a crashed client, so that its rows are not waited for."""
    from lobsmith.monitoring.log.sessions import close_session
    from lobsmith.params import load_params
    from lobsmith.process import user

    params = load_params(workspace.params, overrides((), model))
    close_session(workspace, params, params.model.name, session, user())
    if as_json:
        print_json({"session": session, "status": "closed"})
    else:
        results.print(f"{session} is closed", soft_wrap=True)


def _name(workspace: Workspace, model: str | None) -> str:
    from lobsmith.params import load_params

    return model or load_params(workspace.params).model.name


def _since(hours: float | None) -> int:
    from lobsmith.monitoring.log.reader import EVER

    if hours is not None and math.isnan(hours):
        raise click.BadParameter("nan is no number of hours", param_hint="--hours")
    return EVER if hours is None else clock.now_ns() - int(hours * _NS_PER_HOUR)


def _table(versions: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("model", "version", "roles", "answered", "p50, p99", "horizon", "labelled", "accuracy", "log-loss"):
        # Versions differ in their last digits.
        table.add_column(heading, no_wrap=heading == "version", overflow="fold")
    for version in versions:
        accuracy = version["score"]
        columns = (
            accuracy.model,
            str(accuracy.version),
            ", ".join(version["roles"]),
            f"{accuracy.answered} of {accuracy.rows}",
            _latency(accuracy),
        )
        for index, horizon in enumerate(accuracy.horizons):
            table.add_row(*(columns if index == 0 else [""] * len(columns)), *_cells(horizon))
    return table


def _latency(accuracy: "VersionAccuracy") -> str:
    if accuracy.latency_p50_ns is None or accuracy.latency_p99_ns is None:
        return "-"
    return f"{accuracy.latency_p50_ns / NS_PER_US:.0f}, {accuracy.latency_p99_ns / NS_PER_US:.0f} µs"


def _cells(horizon: "HorizonAccuracy") -> tuple[str, str, str, str]:
    if horizon.accuracy is None or horizon.log_loss is None:
        return f"{horizon.horizon_ms} ms", "0", "-", "-"
    losses = f"{horizon.log_loss:.4f} (base rate {horizon.base_log_loss:.4f})"
    return f"{horizon.horizon_ms} ms", str(horizon.rows), f"{horizon.accuracy:.2%}", losses
