"""`lobsmith up`, `down` and `logs`: the services of a workspace."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from lobsmith.cli.interrupt import allow
from lobsmith.cli.live import check_feed
from lobsmith.cli.live import live as live_command
from lobsmith.cli.options import json_option, model_option, overrides, print_json, results
from lobsmith.cli.up_table import Display, JsonLines, Lines, LiveTable, Memory, line_of, pages_line, table_of
from lobsmith.errors import ClockError, ServiceError
from lobsmith.params import load_params
from lobsmith.progress import console
from lobsmith.services.overview import Overview
from lobsmith.services.service import ServiceState
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.services.catalogue import Catalogue

PORTS = {
    "prefect_port": "services",
    "mlflow_port": "services",
    "evidently_port": "services",
    "http_port": "serving",
    "grpc_port": "serving",
    "metrics_port": "serving",
    "modes_port": "serving",
}
"""Port options with their section of params.yaml."""
_FASTEST = 60.0
"""Highest speed of the workspace's clock."""


def port_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each of `PORTS`."""
    for name, section in reversed(PORTS.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, type=click.IntRange(1, 65535), help=f"Instead of {section}.{name}.")(command)
    return command


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--detach", is_flag=True, help="Run in the background; return once everything is ready.")
@click.option("--live", is_flag=True, help="Run `lobsmith live` too, with the LIVE ARGUMENTS.")
@click.option("--speed", type=float, default=1.0, help="Speed of the workspace's clock.", show_default=True)
@click.option("--free-ports", is_flag=True, help="Use free ports instead of those of params.yaml.")
@port_options
@model_option
@json_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[LIVE ARGUMENTS]...")
@click.pass_context
def up(
    context: click.Context,
    /,
    detach: bool,
    live: bool,
    speed: float,
    free_ports: bool,
    model: str | None,
    as_json: bool,
    arguments: tuple[str, ...],
    **ports: int | None,
) -> None:
    """Run everything until Ctrl-C: Prefect, its worker, MLflow, Triton, Evidently's pages.

    With a live session: lobsmith up --live BTCUSDT, or lobsmith up --live --from FILE.
    """
    workspace: Workspace = context.obj
    if arguments and not live:
        raise click.UsageError(f"{arguments[0]}: no option of `lobsmith up`; what is for `lobsmith live` needs --live")
    if live:
        _check_live(context, workspace, arguments, speed)
    if speed > _FASTEST:
        raise ClockError(
            f"--speed {speed:g}: at most {_FASTEST:g}; flows start every 5 s at the most, "
            "and modes would be stale by a faster clock"
        )
    replaced = {f"{PORTS[name]}.{name}": port for name, port in ports.items() if port is not None}
    replaced |= overrides((), model)
    load_params(workspace.params, replaced)
    if detach:
        forwarded = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items() if port is not None]
        forwarded += [f"--speed={speed:g}", *(["--free-ports"] if free_ports else [])]
        forwarded += [] if model is None else [f"--model={model}"]
        forwarded += ["--live", "--", *arguments] if live else []
        _detached(workspace, forwarded, as_json)
        return
    params = load_params(workspace.params, {**(_free_ports() if free_ports else {}), **replaced})
    from lobsmith.services.catalogue import catalogue

    _attached(workspace, catalogue(workspace, params, arguments if live else None, model), speed, as_json)


@click.command()
@click.pass_obj
def down(workspace: Workspace) -> None:
    """End `lobsmith up` and its services, and wait for them."""
    from lobsmith.services.background import end_run

    run = end_run(workspace)
    if run is None:
        results.print("nothing to end: `lobsmith up` does not run here")
    else:
        names = [service.name for service in reversed(run.services) if service.pid]
        results.print(f"ended {', '.join(names) or run.process}", soft_wrap=True)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--follow", "following", is_flag=True, help="Follow new lines until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Newest lines of each.")
@click.pass_obj
def logs(workspace: Workspace, names: tuple[str, ...], following: bool, lines: int) -> None:
    """Show the newest lines of services' logs, by default of all."""
    from lobsmith.services.logs import follow, last_lines, log_folder, log_names

    available = log_names(workspace)
    if unknown := [name for name in names if name not in available]:
        hint = f"there are {', '.join(available)}" if available else "`lobsmith up` has not run here"
        raise ServiceError(f"{unknown[0]}: no log of that name in {log_folder(workspace)}; {hint}")
    paths = {name: log_folder(workspace) / f"{name}.log" for name in names or available}

    def show(name: str, line: str) -> None:
        click.echo(line if len(paths) == 1 else f"{name:<9} {line}")

    if not following:
        for name, path in paths.items():
            for line in last_lines(path, lines):
                show(name, line)
        return
    try:
        for name, line in follow(paths, lines):
            show(name, line)
    except KeyboardInterrupt:
        return


def _free_ports() -> dict[str, int]:
    from lobsmith.serving.ports import free_ports

    names = [f"{section}.{name}" for name, section in PORTS.items()]
    return dict(zip(names, free_ports(len(names)), strict=True))


def _check_live(context: click.Context, workspace: Workspace, arguments: tuple[str, ...], speed: float) -> None:
    with live_command.make_context("live", list(arguments), parent=context) as live_context:
        feed = {name: live_context.params[name] for name in ("symbols", "files", "seed", "loop", "factors")}
        if live_context.params["speed"] is not None:
            raise click.UsageError("--speed is of `lobsmith up`, for all services alike; pass it before `--`")
    check_feed(workspace, **feed, speed=speed if speed != 1 else None)


def _attached(workspace: Workspace, catalogue: "Catalogue", speed: float, as_json: bool) -> None:
    from lobsmith.services.supervisor import INTERRUPT_S, supervise

    allow(2 * INTERRUPT_S)
    display: Display = (
        JsonLines() if as_json else Lines(catalogue.page) if not results.is_terminal else LiveTable(workspace)
    )
    with display:
        supervise(
            workspace,
            catalogue.services,
            catalogue.prefect_api,
            catalogue.page,
            speed=speed,
            on_change=display.change,
            on_tick=display.tick,
        )


def _detached(workspace: Workspace, arguments: list[str], as_json: bool) -> None:
    from lobsmith.services.background import start_in_background

    def print_state(state: ServiceState) -> None:
        console.print(line_of(state), soft_wrap=True, markup=False)

    run = start_in_background(workspace, arguments, on_change=print_state)
    if as_json:
        print_json(run)
    else:
        results.print(table_of(run, Memory(), Overview(), results.width))
        results.print(pages_line(run), soft_wrap=True, markup=False)
    if run.unready:
        service = run.unready[0]
        state = f"{service.state.value}: {service.why}" if service.why else service.state.value
        raise ServiceError(
            f"{service.name} is not ready ({state}); the others run: see `lobsmith logs {service.name}`, or end them "
            "with `lobsmith down`"
        )
