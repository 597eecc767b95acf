"""The displays of `lobsmith up`: a table, lines or JSON objects."""

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
    """Resident memory of the services' process trees."""

    def __init__(self) -> None:
        self._due = 0.0
        self._known: dict[int, int] = {}

    def of(self, pid: int | None) -> str:
        """Return a process's memory as text, empty where unknown."""
        return f"{self._known[pid]} MiB" if pid in self._known else ""

    def measure(self, run: Run) -> None:
        """Measure at most every `_MEMORY_PERIOD_S`."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _MEMORY_PERIOD_S
        pids = [service.pid for service in run.services if service.pid is not None]
        self._known = {pid: sum(resident for _, resident in process_tree(pid)) // _MIB for pid in pids}


def process_tree(pid: int) -> Iterator[tuple[psutil.Process, int]]:
    """Yield a process and its descendants with their resident memory, bytes."""
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                yield process, int(process.memory_info().rss)


def table_of(run: Run, memory: Memory, overview: Overview, width: int = _NARROW) -> RenderableType:
    """Return services, models and next runs; a table from `_NARROW` columns on, else lines."""
    memory.measure(run)
    title = f"lobsmith up, process {run.process.pid}"
    services: list[RenderableType] = [Text(line) for line in (title, *map(line_of, run.services))]
    lines: list[RenderableType] = [Text(f"open {run.page}")] if run.page else []
    lines += [_table(run, memory, title)] if width >= _NARROW else services
    lines += [
        Text(f"{model.model} {model.version}: {model.mode}: {model.reason}", no_wrap=True, overflow="ellipsis")
        for model in overview.models
    ]
    if overview.next_runs:
        lines.append(Text("next     ").append(Text(", ").join(map(_next_run, overview.next_runs))))
    return Group(*lines)


def _table(run: Run, memory: Memory, title: str) -> RenderableType:
    table = Table(title=title, title_justify="left")
    for heading in ("service", "state", "address", "pid", "up", "restarts", "memory"):
        table.add_column(heading, justify="right" if heading in ("pid", "up", "restarts", "memory") else "left")
    for service in run.services:
        colour = _COLOURS.get(service.state, "yellow")
        state = f"{service.state.value}: {service.why}" if service.why else service.state.value
        table.add_row(
            service.name,
            f"[{colour}]{escape(state)}",
            escape(service.address),
            str(service.pid or ""),
            _age(service.started_ns),
            str(service.restarts or ""),
            memory.of(service.pid),
        )
    return table


def line_of(service: ServiceState) -> str:
    """Return the state of a service in one line."""
    parts = [f"{service.name:<9} {service.state.value}"]
    if service.state is Phase.READY:
        parts += [*([service.address] if service.address else []), f"(process {service.pid})"]
    return " ".join(parts) + (f": {service.why}" if service.why else "")


def pages_line(run: Run) -> str:
    """Return the ready pages in one line."""
    ready = [service for service in run.services if service.page and service.state in (Phase.READY, Phase.ELSEWHERE)]
    pages = [f"{service.address} ({service.name})" for service in ready]
    if run.page and any(service.name == "triton" and service.state is Phase.READY for service in run.services):
        pages.insert(0, f"{run.page} (what serves)")
    return f"open {', '.join(pages)}" if pages else "no page is ready; see `lobsmith logs`"


class Display(Protocol):
    """Shows the services while they run."""

    def __enter__(self) -> object: ...
    def __exit__(self, *error: object) -> None: ...
    def change(self, state: ServiceState) -> None:
        """Show a change of a service."""

    def tick(self, run: Run) -> None:
        """Show all services, once a second."""


class JsonLines(AbstractContextManager["JsonLines"]):
    """A JSON object per change."""

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def change(self, state: ServiceState) -> None:
        """Print it."""
        print_json({"time": datetime.now(UTC), **msgspec.structs.asdict(state)})

    def tick(self, run: Run) -> None:
        """Print nothing."""


class Lines(AbstractContextManager["Lines"]):
    """The landing page's address, a line per change, and the pages once all services are ready.

    Without rich, which ends the process at a broken pipe.
    """

    def __init__(self, page: str = "") -> None:
        self._page = page
        self._ready = False

    def __enter__(self) -> "Lines":
        """Print the address."""
        if self._page:
            # Services go on where the reader of the output has gone.
            with suppress(OSError):
                click.echo(f"open {self._page}")
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def change(self, state: ServiceState) -> None:
        """Print it."""
        click.echo(f"{datetime.now(UTC):%H:%M:%S}  {line_of(state)}")

    def tick(self, run: Run) -> None:
        """Print the pages once all services are ready."""
        if not run.unready and not self._ready:
            self._ready = True
            click.echo(f"{pages_line(run)}; `lobsmith down` or Ctrl-C stops")


class LiveTable(AbstractContextManager["LiveTable"]):
    """A table on a terminal, redrawn each second."""

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

    def change(self, state: ServiceState) -> None:
        """Leave it to the next tick."""

    def tick(self, run: Run) -> None:
        """Draw the table."""
        ready = (Phase.READY, Phase.ELSEWHERE)
        if any(service.name == "prefect" and service.state in ready for service in run.services):
            self._overview.api = run.prefect_api
        last = Text(f"{pages_line(run)}; Ctrl-C stops", overflow="fold")
        self._live.update(
            Group(table_of(run, self._memory, self._overview.overview, results.width), last), refresh=True
        )


def _age(started_ns: int | None) -> str:
    return "" if started_ns is None else _duration((time.time_ns() - started_ns) / NS_PER_S)


def _next_run(run: NextRun) -> Text:
    if run.due is None:
        due = "not scheduled"
    else:
        seconds = (run.due - datetime.now(UTC)).total_seconds()
        due = f"in {_duration(seconds)}" if seconds > 0 else "now"
    text = Text(f"{run.deployment} {due}")
    return text if run.last in (None, _COMPLETED) else text.append(f" (last run {run.last})", "yellow")


def _duration(seconds: float) -> str:
    whole = int(max(0.0, seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
