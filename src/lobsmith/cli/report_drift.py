"""`lobsmith report drift`: a drift check."""

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
@click.option("--instrument", help="venue:symbol; by default that of the last drift check.")
@click.option("--at", help="The newest drift check at this time, as 2026-03-01T14:03 (UTC unless it has a zone).")
@click.option("--open", "opened", is_flag=True, help="Open the page, and Evidently's own pages until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of Evidently's pages; a free port by default.")
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
    """Show verdicts of the newest drift check, and paths of its reports."""
    from lobsmith.monitoring.drift import history
    from lobsmith.monitoring.drift.report import read_content

    if opened and as_json:
        raise click.UsageError("--open prints addresses and waits; leave --json out")
    name = load_params(workspace.params, overrides(settings, model)).model.name
    checks = [check for check in history.read(workspace, name) if instrument in (None, check.instrument)]
    newest = history.newest(checks, None if at is None else int(parse_time(at).timestamp() * NS_PER_S))
    if newest is None:
        when = " until then" if checks else " yet"
        raise DataError(f"{name}: no drift check{when}; run lobsmith drift")
    content = read_content(workspace, name, newest)
    folder = history.reports(workspace, name) / newest.folder
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
    from lobsmith.evaluation.report.formatting import figure, moment, number
    from lobsmith.monitoring.drift.page import headline

    check = content.check
    results.print(headline(check), soft_wrap=True, markup=False)
    table = Table(title=f"{check.model} {check.version}, {check.instrument}, {moment(check.looked_ns)}")
    for heading in ("drift", "found", "statistic", "p-value", "null size", "moved most", "why"):
        table.add_column(heading, overflow="fold")
    for verdict in check.verdicts:
        moved = ", ".join(feature.name for feature in verdict.moved[:3])
        figures = (number(verdict.value), figure(verdict.p_value), str(verdict.past))
        table.add_row(verdict.kind.value, verdict.finding.value, *figures, moved, verdict.reason)
    results.print(table, markup=False)


def _open(workspace: Workspace, content: "Content", page: str, port: int | None) -> None:
    """Open the page, and Evidently's if it has a report."""
    from lobsmith.monitoring.drift.evidently_ui import evidently_ui, evidently_workspace

    folder = evidently_workspace(workspace)
    webbrowser.open(page)
    if not folder.exists():
        results.print("Evidently has drawn no report yet")
        return
    # A closed terminal ends the server too.
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
