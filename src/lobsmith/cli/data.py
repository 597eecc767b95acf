"""`lobsmith data`: market data."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.table import Table

from lobsmith.cli.capture import capture
from lobsmith.cli.options import change_options, changes, json_option, overrides, print_json, results, set_option
from lobsmith.cli.times import format_duration, format_time
from lobsmith.cli.watch import watch
from lobsmith.params import load_params
from lobsmith.progress import console, stage
from lobsmith.project.project import params_file
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.market.session import Accounting

_FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")


@click.group()
def data() -> None:
    """Describe, ingest, simulate, capture and validate market data."""


data.add_command(capture)
data.add_command(watch)


@data.command()
@_FILES
@click.option(
    "--quarantine", type=click.Path(path_type=Path, dir_okay=False), help="List quarantined records here (CSV)."
)
@set_option
@json_option
@click.pass_obj
def describe(
    workspace: Workspace, files: tuple[Path, ...], quarantine: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Summarise FILEs: counts, faults, clock offset, segments. Files of one instrument are one stream."""
    from lobsmith.errors import DataError
    from lobsmith.market.readers import open_captures
    from lobsmith.market.venues.formats import group_by_instrument

    limits = load_params(params_file(workspace), overrides(settings)).data.screen
    groups, errors = group_by_instrument(files)
    sessions = []
    listing = quarantine.open("w", encoding="utf-8", newline="") if quarantine else None
    try:
        for name, paths in groups.items():
            try:
                with stage(f"read {', '.join(path.name for path in paths)}") as note:
                    feed = open_captures(paths, limits, listing)
                    events = 0
                    for part in feed:
                        events += len(part)
                        note(f"{events:,} events")
                    sessions.append(_description(feed.instrument, feed.accounting(), feed.checks(), events, paths))
            except DataError as error:
                errors[name] = error
    finally:
        if listing:
            listing.close()
    if not sessions:
        raise next(iter(errors.values()))
    failed = {name: str(error) for name, error in errors.items()}
    for name, reason in failed.items():
        console.print(f"[red]left out[/red] {name}: {reason}")
    if as_json:
        print_json(sessions[0] if len(groups) == 1 and not errors else {"sessions": sessions, "failed": failed})
    else:
        results.print(_table(sessions))
    if errors:
        raise click.exceptions.Exit(1)


def _description(
    instrument: Any, account: "Accounting", checks: dict[str, Any], events: int, paths: list[Path]
) -> dict[str, Any]:
    table: dict[str, Any] = {
        **msgspec.to_builtins(instrument),
        **msgspec.to_builtins(account),
        "events": events,
        "sources": [path.name for path in paths],
    }
    return table | ({"checks": checks} if checks else {})


def _table(sessions: list[dict[str, Any]]) -> Table:
    table = Table(show_header=len(sessions) > 1)
    table.add_column("")
    for session in sessions:
        table.add_column(f"{session['venue']}:{session['symbol']}", justify="right")
    for key in sessions[0]:
        heading, show = _SHOWN.get(key, (key.replace("_", " "), _cell))
        table.add_row(heading, *(show(session[key]) if key in session else "" for session in sessions))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_cell(number)}" for name, number in value.items()) or "none"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.9g}" if isinstance(value, float) else str(value)


_SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "set_aside": ("quarantined", _cell),
    "seconds": ("duration", format_duration),
    "clock_offset_ns": ("clock offset", lambda offset_ns: format_duration(offset_ns / NS_PER_S)),
    "first_ns": ("first", format_time),
    "last_ns": ("last", format_time),
}
"""Heading and text of the entries that are not plain counts."""


@data.command()
@_FILES
@click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False), help="The store's folder; .lobsmith/market by default."
)
@click.option("--replace", is_flag=True, help="Replace days that the store has with other content.")
@set_option
@json_option
@click.pass_obj
def ingest(
    workspace: Workspace,
    files: tuple[Path, ...],
    store: Path | None,
    replace: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Read captures into the store: Parquet by venue, symbol and UTC day."""
    from lobsmith.stages.ingest import ingest as run

    params = load_params(workspace.params, overrides(settings))
    root = store or workspace.market
    with stage("ingest market data") as note:
        ingested = run(params.data, files, root, replace=replace)
        note(", ".join(ingested.done))
    for name, error in ingested.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    if as_json:
        print_json(ingested)
    else:
        for name, entry in ingested.done.items():
            account, instrument = entry.accounting, entry.instrument
            lost = ", ".join(f"{count:,} {reason}" for reason, count in account.quarantined.items()) or "none"
            results.print(
                f"{name}  {account.records:,} records: {account.kept:,} kept, quarantined: {lost}", soft_wrap=True
            )
            results.print(f"  {root / instrument.venue / instrument.symbol}: {', '.join(entry.days)}", soft_wrap=True)
            results.print(f"  fingerprint {entry.fingerprint}", soft_wrap=True)
    if ingested.failed:
        raise click.exceptions.Exit(1)


@data.command()
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--seconds", type=click.IntRange(min=1), default=600, show_default=True)
@click.option("--crash-at", type=float, help="Second at which a flash crash begins.")
@change_options
def simulate(
    output: Path, seed: int, seconds: int, crash_at: float | None, change_at: float | None, factors: tuple[str, ...]
) -> None:
    """Write a simulated session as a raw capture to OUTPUT, gzip if it ends with .gz."""
    from lobsmith.market.simulator import Dynamics
    from lobsmith.market.simulator import simulate as run
    from lobsmith.market.simulator.raw import write_raw

    dynamics = Dynamics() if crash_at is None else Dynamics(crash_at_s=crash_at)
    with stage("simulate") as note:
        session = run(seed, seconds, dynamics, changes(change_at, factors, dynamics))
        write_raw(session, output)
        note(f"{session.accounting.records:,} messages")


@data.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where contract.json and the pages go; .lobsmith/validation by default.",
)
@set_option
@json_option
@click.pass_obj
def validate(
    workspace: Workspace, files: tuple[Path, ...], directory: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Check FILEs, or the store, against the data contract; exit 1 if an instrument breaks it."""
    from lobsmith.errors import DataContractError
    from lobsmith.stages.ingest import ingest as read
    from lobsmith.stages.validate import EVENTS_DOCS, load_validated
    from lobsmith.stages.validate import validate as run

    params = load_params(workspace.params, overrides(settings))
    folder = directory or workspace.home / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".market-", dir=folder) as temporary:
        market = Path(temporary) if files else workspace.market
        if files:
            with stage("read"):
                failed = read(params.data, files, market).failed
            for name, error in failed.items():
                console.print(f"[red]left out[/red] {name}: {error}")
        broken: DataContractError | None = None
        with stage("validate") as note:
            try:
                run(params, market, folder)
            except DataContractError as error:
                broken = error  # raised after all verdicts are shown
            note(str(folder / EVENTS_DOCS / "index.html"))
    validated = load_validated(folder)
    if as_json:
        print_json(validated)
    else:
        for name, verdicts in validated.verdicts.items():
            for verdict in verdicts:
                results.print(f"{name}  {verdict}", soft_wrap=True)
    if broken is not None:
        raise broken
    if validated.left_out:
        raise DataContractError("; ".join(validated.left_out.values()))
