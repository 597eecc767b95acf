"""`lobsmith report drift`: what the newest look for drift found."""

import signal
import webbrowser
from typing import TYPE_CHECKING

import click
from rich.table import Table

from lobsmith.cli.options import json_option, model_option, overrides, print_json, results, set_option
from lobsmith.cli.times import parse_time
from lobsmith.errors import DataError
from lobsmith.params import load_params
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.monitoring.drift.content import Content


@click.command("drift")
@model_option
@click.option("--instrument", help="venue:symbol; else the one that was looked at last.")
@click.option(
    "--at", help="The look that was the newest at this time, as 2026-03-01T14:03 (UTC where it says no zone)."
)
@click.option("--open", "opened", is_flag=True, help="Show the page, and Evidently's own pages until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of Evidently's pages; else one that is free.")
@set_option
@json_option
@click.pass_obj
def report_drift(
    workspace: Workspace,
    model: str | None,
    instrument: str | None,
    at: str | None,
    opened: bool,
    port: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what the newest look for drift found, and where its reports lie."""
    from lobsmith.monitoring.drift import history
    from lobsmith.monitoring.drift.report import read_content

    if opened and as_json:
        raise click.UsageError("--open prints addresses and waits; leave --json out")
    name = load_params(workspace.params, overrides(settings, model)).model.name
    lines = [one for one in history.read(workspace, name) if instrument in (None, one.instrument)]
    line = history.newest(lines, None if at is None else int(parse_time(at).timestamp() * NS_PER_S))
    if line is None:
        when = " until then" if lines else " yet"
        raise DataError(f"{name}: nobody has looked for drift{when}; run lobsmith drift")
    content = read_content(workspace, name, line)
    folder = history.reports(workspace, name) / line.folder
    page, drawn = folder / history.PAGE, folder / history.EVIDENTLY_PAGE
    if as_json:
        evidently = str(drawn) if drawn.exists() else None
        print_json({"look": content.check, "page": str(page), "evidently": evidently})
        return
    _show(content)
    results.print(f"page {page}", soft_wrap=True, markup=False)
    if drawn.exists():
        results.print(f"Evidently's report {drawn}", soft_wrap=True, markup=False)
    if opened:
        _open(workspace, content, page.as_uri(), port)


def _show(content: "Content") -> None:
    from lobsmith.evaluation.report.words import figure, moment, number
    from lobsmith.monitoring.drift.page import headline

    check = content.check
    results.print(headline(check), soft_wrap=True, markup=False)
    table = Table(title=f"{check.model} {check.version}, {check.instrument}, {moment(check.looked_ns)}")
    for heading in ("drift", "found", "statistic", "p-value", "past", "moved most", "why"):
        table.add_column(heading, overflow="fold")
    for one in check.verdicts:
        moved = ", ".join(two.name for two in one.moved[:3])
        figures = (number(one.value), figure(one.p_value), str(one.past))
        table.add_row(one.kind.value, one.finding.value, *figures, moved, one.reason)
    results.print(table, markup=False)


def _open(workspace: Workspace, content: "Content", page: str, port: int | None) -> None:
    """Show the page and Evidently's; without a report of Evidently the page alone, which needs no server."""
    from lobsmith.monitoring.drift.evidently_ui import evidently_ui, evidently_workspace

    folder = evidently_workspace(workspace)
    webbrowser.open(page)
    if not folder.exists():
        results.print("Evidently has drawn no report yet")
        return
    # A terminal that is closed must not leave the server behind.
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    with evidently_ui(folder, port) as url:
        drawn = f"{url}/projects/{content.evidently.project}/reports"
        results.print(f"open {page}", soft_wrap=True, markup=False)
        results.print(f"open {drawn}  until Ctrl-C", soft_wrap=True, markup=False)
        webbrowser.open(drawn)
        try:
            signal.pause()
        except KeyboardInterrupt:
            results.print("ended")
