"""`lobsmith data watch`: flash crashes and accumulation patterns."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option
from lobsmith.params import Params, load_params
from lobsmith.progress import console, stage
from lobsmith.project.project import params_file
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_SHOWN = 10


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@set_option
@json_option
@click.pass_obj
def watch(workspace: Workspace, files: tuple[Path, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Find flash crashes and accumulation patterns in FILEs. Files of one instrument are one stream."""
    from lobsmith.market.venues.formats import group_by_instrument

    params = load_params(params_file(workspace), overrides(settings))
    groups, errors = group_by_instrument(files)
    if not groups:
        raise next(iter(errors.values()))
    for name, error in errors.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    instruments = [_watched(paths, params) for paths in groups.values()]
    if as_json:
        print_json({"instruments": instruments})
    else:
        for instrument in instruments:
            _show(**instrument)
    if errors:
        raise click.exceptions.Exit(1)


def _watched(paths: list[Path], params: Params) -> dict[str, Any]:
    from lobsmith.market.readers import open_captures
    from lobsmith.surveillance.accumulation import AccumulationMonitor
    from lobsmith.surveillance.crash import CrashDetector

    with stage(f"watch {', '.join(path.name for path in paths)}") as note:
        feed = open_captures(paths, params.data.screen)
        detectors = None
        alerts, windows = [], []
        for events in feed:
            if detectors is None:  # the instrument comes with the first batch
                settings = params.surveillance
                detectors = (
                    CrashDetector(feed.instrument, settings.crash),
                    AccumulationMonitor(feed.instrument, settings.accumulation),
                )
            alerts += detectors[0].push(events)
            windows += detectors[1].push(events)
        windows += detectors[1].finish() if detectors else []
        note(f"{len(alerts)} alerts, {len(windows)} windows")
    return {"instrument": str(feed.instrument), "crashes": alerts, "accumulation": windows}


def _show(instrument: str, crashes: list[Any], accumulation: list[Any]) -> None:
    for alert in crashes:
        results.print(f"[red]flash crash[/red] {instrument} {_clock(alert.time_ns)}: {alert}", soft_wrap=True)
    riskiest = sorted(accumulation, key=lambda window: -window.risk)[:_SHOWN]
    table = Table(title=f"{instrument}: {len(crashes)} flash crashes; the windows of highest risk")
    for heading in ("window", "risk", "net volume", "lambda, bps", "t", "largest run", "cancel to trade"):
        table.add_column(heading, justify="right")
    for window in riskiest:
        table.add_row(
            _clock(window.start_ns),
            f"{window.risk:.2f}",
            f"{window.net_volume:,.3f}",
            f"{window.kyle_lambda:.4f}",
            f"{window.t_value:.1f}",
            f"{window.market_share:.0%}",
            f"{window.cancel_to_trade:,.1f}",
        )
    results.print(table)


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")
