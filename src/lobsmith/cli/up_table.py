"""How `lobsmith up` shows its services: a table on a terminal, a line or a JSON object a change elsewhere."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Protocol

import click
import msgspec
import psutil
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lobsmith.cli.options import print_json, results
from lobsmith.services.flows.schedule import NextRun
from lobsmith.services.overview import Overview, OverviewThread
from lobsmith.services.run import Run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_COLOURS = {
    Phase.READY: "green",
    Phase.FINISHED: "green",
    Phase.ELSEWHERE: "green",
    Phase.RESTARTING: "red",
    Phase.SILENT: "red",
    Phase.STOPPED: "dim",
}
_MEMORY_PERIOD_S = 5.0
_MIB = 2**20
_NARROW = 80
_COMPLETED = "Completed"


class Memory:
    """Resident memory of each service with all processes below it, measured every few seconds."""

    def __init__(self) -> None:
        self._due = 0.0
        self._known: dict[int, int] = {}

    def of(self, pid: int | None) -> str:
        """Return the memory of a process tree in words."""
        return f"{self._known[pid]} MiB" if pid in self._known else ""

    def measure(self, run: Run) -> None:
        """Measure again, where that is due."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _MEMORY_PERIOD_S
        self._known = {one.pid: resident_bytes(one.pid) // _MIB for one in run.services if one.pid is not None}


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and of all below it; 0 where it is gone."""
    return sum(bytes_ for _, bytes_ in process_tree(pid))


def process_tree(pid: int) -> Iterator[tuple[psutil.Process, int]]:
    """Yield a process and all below it, each with its resident memory."""
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                yield process, int(process.memory_info().rss)


def table_of(run: Run, memory: Memory, overview: Overview, width: int = _NARROW) -> RenderableType:
    """Return the table of all services, what is in service, and the next runs.

    Below `_NARROW` columns it has a line a service: of a table nothing could be read.
    """
    memory.measure(run)
    title = f"lobsmith up, process {run.process.pid}"
    services: list[RenderableType] = [Text(line) for line in (title, *map(line_of, run.services))]
    lines = [_table(run, memory, title)] if width >= _NARROW else services
    lines += [
        Text(f"{one.model} {one.version}: {one.mode}: {one.reason}", no_wrap=True, overflow="ellipsis")
        for one in overview.models
    ]
    if overview.next_runs:
        lines.append(Text("next     ").append(Text(", ").join(map(_next, overview.next_runs))))
    return Group(*lines)


def _table(run: Run, memory: Memory, title: str) -> RenderableType:
    table = Table(title=title, title_justify="left")
    for heading in ("service", "state", "address", "pid", "up", "restarts", "memory"):
        table.add_column(heading, justify="right" if heading in ("pid", "up", "restarts", "memory") else "left")
    for one in run.services:
        colour = _COLOURS.get(one.state, "yellow")
        words = f"{one.state.value}: {one.why}" if one.why else one.state.value
        table.add_row(
            one.name,
            f"[{colour}]{escape(words)}",
            escape(one.address),
            str(one.pid or ""),
            _age(one.started_ns),
            str(one.restarts or ""),
            memory.of(one.pid),
        )
    return table


def line_of(one: ServiceState) -> str:
    """Return a change of a service in one line."""
    words = [f"{one.name:<9} {one.state.value}"]
    if one.state is Phase.READY:
        words.append(f"{one.address} (process {one.pid})" if one.address else f"(process {one.pid})")
    return " ".join(words) + (f": {one.why}" if one.why else "")


def where_to_look(run: Run) -> str:
    """Return the last line: what to open in a browser, and how it ends."""
    there = [one for one in run.services if one.page and one.state in (Phase.READY, Phase.ELSEWHERE)]
    pages = [f"{one.address} ({one.name})" for one in there]
    return f"open {', '.join(pages)}" if pages else "no page is ready; see `lobsmith logs`"


class Shown(Protocol):
    """What shows the services while they run."""

    def __enter__(self) -> object: ...
    def __exit__(self, *error: object) -> None: ...
    def change(self, one: ServiceState) -> None:
        """Take note of a change of a service."""

    def tick(self, run: Run) -> None:
        """Take note of how things stand, about once a second."""


class Objects(AbstractContextManager["Objects"]):
    """One JSON object a change."""

    def __exit__(self, *error: object) -> None:
        """Nothing is left to show."""

    def change(self, one: ServiceState) -> None:
        """Print it."""
        print_json({"time": datetime.now(UTC), **msgspec.structs.asdict(one)})

    def tick(self, run: Run) -> None:
        """Nothing has changed."""


class Lines(AbstractContextManager["Lines"]):
    """A line a change, and one with what to open once everything is ready.

    Not by way of rich, which ends the process where the reader of a pipe has gone.
    """

    def __init__(self) -> None:
        self._ready = False

    def __exit__(self, *error: object) -> None:
        """Nothing is left to show."""

    def change(self, one: ServiceState) -> None:
        """Print it."""
        click.echo(f"{datetime.now(UTC):%H:%M:%S}  {line_of(one)}")

    def tick(self, run: Run) -> None:
        """Say once that everything is ready."""
        if not run.unready and not self._ready:
            self._ready = True
            click.echo(f"{where_to_look(run)}; `lobsmith down` or Ctrl-C stops")


class LiveTable(AbstractContextManager["LiveTable"]):
    """A table that is drawn anew each second, on a terminal."""

    def __init__(self, workspace: Workspace) -> None:
        self._memory = Memory()
        self._overview = OverviewThread(workspace)
        self._live = Live(console=results, auto_refresh=False)

    def __enter__(self) -> "LiveTable":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last table on the screen."""
        self._live.stop()

    def change(self, one: ServiceState) -> None:
        """The next tick shows it."""

    def tick(self, run: Run) -> None:
        """Draw the table."""
        if any(one.name == "prefect" and one.state in (Phase.READY, Phase.ELSEWHERE) for one in run.services):
            self._overview.api = run.prefect_api
        last = Text(f"{where_to_look(run)}; Ctrl-C stops", overflow="fold")
        self._live.update(
            Group(table_of(run, self._memory, self._overview.overview, results.width), last), refresh=True
        )


def _age(started_ns: int | None) -> str:
    return "" if started_ns is None else _words((time.time_ns() - started_ns) / NS_PER_S)


def _next(one: NextRun) -> Text:
    if one.due is None:
        words = "not scheduled"
    else:
        seconds = (one.due - datetime.now(UTC)).total_seconds()
        words = f"in {_words(seconds)}" if seconds > 0 else "now"
    text = Text(f"{one.deployment} {words}")
    return text if one.last in (None, _COMPLETED) else text.append(f" (last run {one.last})", "yellow")


def _words(seconds: float) -> str:
    whole = int(max(0.0, seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
