"""Shared options, and output of results."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx
import msgspec
import yaml
from rich.console import Console

from lobsmith.errors import FlowsError
from lobsmith.progress import stage
from lobsmith.services.prefect_server import TemporaryServer, check_database
from lobsmith.services.run import running_prefect
from lobsmith.services.service import why_away
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.market.simulator import Change, Dynamics

_PIPED_WIDTH = 120
_PREFECT_IS_AWAY = "Failed to reach API"
"""Beginning of a message of Prefect, which has no class of its own."""
_API = "PREFECT_API_URL"

results = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
"""Standard output, for results only."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")

set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Replace a parameter of params.yaml, such as train.epochs=2.",
)

model_option = click.option(
    "--model", metavar="NAME", help="The production model; model.name of params.yaml by default."
)

other_instrument_option = click.option(
    "--allow-other-instrument",
    is_flag=True,
    help="Allow an instrument that the model was not trained on; its predictions are not actionable.",
)

source_option = click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice(["live", "replay", "demo"]),
    default=["live"],
    show_default=True,
    help="Sessions of the prediction log that count; may be repeated.",
)


def capture_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--capture FILE…`, which takes several files or may be repeated."""
    path = click.Path(path_type=Path)
    command = click.option("--capture", "captures", multiple=True, type=path, help="Captures, in order.")(command)
    return click.argument("more", nargs=-1, type=path, metavar="[FILE]...")(command)


def overrides(settings: tuple[str, ...], model: str | None = None) -> dict[str, Any]:
    """Return `NAME=VALUE` pairs, and the model of `--model`, as parameters.

    Raises:
        click.BadParameter: no such pair, or not YAML.
    """
    table: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{setting}: write NAME=VALUE", param_hint="--set")
        try:
            table[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{setting}: the value is not YAML", param_hint="--set") from error
    return table if model is None else {**table, "model.name": model}


def change_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--change-at SECOND --change NAME=FACTOR`: a drift in the simulated market."""
    factors = click.option(
        "--change",
        "factors",
        multiple=True,
        metavar="NAME=FACTOR",
        help="Constant of the simulated market, such as order=1.3 for larger orders; may be repeated.",
    )
    at = click.option("--change-at", type=float, help="Second from which the simulated market has other constants.")
    return at(factors(command))


def changes(at_s: float | None, factors: tuple[str, ...], dynamics: "Dynamics") -> "list[Change]":
    """Return the changes of the simulated market.

    Raises:
        click.UsageError: an option is missing or no number.
        DataError: no such constant, or an impossible market.
    """
    from lobsmith.market.simulator import Change

    if (at_s is None) != (not factors):
        raise click.UsageError("--change-at and --change belong together: pass both, or neither")
    if at_s is None:
        return []
    table = {}
    for factor in factors:
        name, _, value = factor.partition("=")
        try:
            table[name] = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{factor}: write NAME=FACTOR", param_hint="--change") from error
    return [Change(at_s=at_s, dynamics=dynamics.scaled(table))]


def print_json(value: Any) -> None:
    """Print one JSON object."""
    click.echo(msgspec.json.encode(value).decode())


@contextmanager
def prefect(workspace: Workspace, flows: str) -> Iterator[None]:
    """Point Prefect, not yet imported, at the workspace, unless set in the environment.

    Without a server of `lobsmith up`, one is started for the block.

    Args:
        flows: module of the flow, imported while the server starts.

    Raises:
        FlowsError: the server does not answer, or its database is corrupt.
    """
    os.environ.setdefault("PREFECT_HOME", str(workspace.prefect))
    home = Path(os.environ["PREFECT_HOME"]).expanduser().absolute()
    # Prefect's server creates no parent folders and times out.
    home.mkdir(parents=True, exist_ok=True)
    # No tracebacks: the command reports an error in one line.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    address = os.environ.get(_API) or running_prefect(workspace)
    with ExitStack() as servers:
        if address is None:
            check_database(home)
            with stage("start Prefect") as note:
                server = servers.enter_context(TemporaryServer(home))
                address = server.api
                servers.enter_context(_prefect_at(address))
                importlib.import_module(flows)
                server.wait_ready()
                note("a server of its own runs for as long as the flow")
        elif (why := why_away(address.rstrip("/"))) is not None:
            raise _away(address, why)
        else:
            servers.enter_context(_prefect_at(address))
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _away(address, error) from error
        except RuntimeError as error:
            if not str(error).startswith(_PREFECT_IS_AWAY):
                raise
            raise _away(address, error) from error


def _away(address: str, why: object) -> FlowsError:
    return FlowsError(f"{address}: Prefect's server does not answer: {why}; start it, or unset PREFECT_API_URL")


@contextmanager
def _prefect_at(address: str) -> Iterator[None]:
    """Set the address of Prefect's API for the block: in the environment, read at import, and in its settings."""
    before = os.environ.get(_API)
    os.environ[_API] = address
    try:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: address}):
            yield
    finally:
        if before is None:
            del os.environ[_API]
