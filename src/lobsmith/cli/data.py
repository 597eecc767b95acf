"""`lobsmith data`: market data in, described, and kept."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.table import Table

from lobsmith.cli.capture import capture
from lobsmith.cli.options import change_options, changes, json_option, overrides, print_json, results, set_option
from lobsmith.cli.watch import watch
from lobsmith.params import load_params
from lobsmith.progress import console, stage
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.market.session import Accounting

_FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")


@click.group()
def data() -> None:
    """Read, describe, simulate, record and check market data."""


data.add_command(capture)
data.add_command(watch)


@data.command()
@_FILES
@click.option(
    "--quarantine", type=click.Path(path_type=Path, dir_okay=False), help="List what is set aside here (CSV)."
)
@set_option
@json_option
@click.pass_obj
def describe(
    workspace: Workspace, files: tuple[Path, ...], quarantine: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Say what files hold: counts by kind, faults, clock offset, segments. Files of one instrument are one stream."""
    from lobsmith.errors import DataError
    from lobsmith.market.readers import open_captures
    from lobsmith.market.venues.formats import group_by_instrument

    limits = load_params(workspace.params, overrides(settings)).data.screen
    groups, errors = group_by_instrument(files)
    found = []
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
                    found.append(_description(feed.instrument, feed.accounting(), feed.checks(), events, paths))
            except DataError as error:
                errors[name] = error
    finally:
        if listing:
            listing.close()
    if not found:
        raise next(iter(errors.values()))
    failed = {name: str(error) for name, error in errors.items()}
    for name, why in failed.items():
        console.print(f"[red]left out[/red] {name}: {why}")
    if as_json:
        print_json(found[0] if len(groups) == 1 and not errors else {"sessions": found, "failed": failed})
    else:
        results.print(_table(found))
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


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(show_header=len(found) > 1)
    table.add_column("")
    for one in found:
        table.add_column(f"{one['venue']}:{one['symbol']}", justify="right")
    for key in found[0]:
        table.add_row(key.replace("_", " "), *(_cell(one.get(key)) for one in found))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_cell(number)}" for name, number in value.items()) or "none"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.9g}" if isinstance(value, float) else str(value)


@data.command()
@_FILES
@click.option(
    "--store", type=click.Path(path_type=Path, file_okay=False), help="The store's folder; .lobsmith/market by default."
)
@click.option("--replace", is_flag=True, help="Replace days that the store holds with other content.")
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
    """Read recorded files of one or several instruments into the store: Parquet by venue, symbol and UTC day."""
    from lobsmith.stages.ingest import ingest as run

    params = load_params(workspace.params, overrides(settings))
    root = store or workspace.market
    with stage("ingest market data") as note:
        done = run(params.data, files, root, replace=replace)
        note(", ".join(done.done))
    for name, error in done.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    if as_json:
        print_json(done)
    else:
        for name, one in done.done.items():
            a = one.accounting
            lost = ", ".join(f"{count:,} {reason}" for reason, count in a.set_aside.items()) or "none"
            results.print(f"{name}  {a.records:,} records: {a.kept:,} kept, set aside: {lost}", soft_wrap=True)
            results.print(
                f"  {root / one.instrument.venue / one.instrument.symbol}: {', '.join(one.days)}", soft_wrap=True
            )
            results.print(f"  fingerprint {one.fingerprint}", soft_wrap=True)
    if done.failed:
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
    """Write a simulated session as a raw capture: OUTPUT, gzip where it ends with .gz."""
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
    """Hold FILEs, or what the store holds, against the data contract; exit 1 where an instrument breaks it."""
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
                broken = error  # the verdicts of all instruments were written; they are shown first
            note(str(folder / EVENTS_DOCS / "index.html"))
    done = load_validated(folder)
    if as_json:
        print_json(done)
    else:
        for name, verdicts in done.verdicts.items():
            for verdict in verdicts:
                results.print(f"{name}  {verdict}", soft_wrap=True)
    if broken is not None:
        raise broken
    if done.left_out:
        raise DataContractError("; ".join(done.left_out.values()))
