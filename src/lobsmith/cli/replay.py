"""`lobsmith replay`: a recorded session through the trading client."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option
from lobsmith.errors import DataError, ServingError
from lobsmith.params import Params, load_params
from lobsmith.progress import console
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.features.dataset import Dataset
    from lobsmith.trading.measure import Measured
    from lobsmith.trading.transports import DescribingTransport

TRANSPORTS = ("grpc", "http", "inprocess")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--simulate", "seconds", type=click.IntRange(min=1), help="Replay this many simulated seconds instead.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulator.")
@click.option("--transport", type=click.Choice(TRANSPORTS), default="grpc", show_default=True)
@click.option("--url", help="HOST:PORT of a server; the workspace's own by default.")
@click.option("--model", help="Instead of model.name.")
@click.option("--rows", type=click.IntRange(min=1), help="Ask about this many rows at most.")
@set_option
@json_option
@click.pass_obj
def replay(
    workspace: Workspace,
    files: tuple[Path, ...],
    seconds: int | None,
    seed: int,
    transport: str,
    url: str | None,
    model: str | None,
    rows: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay recorded FILES, read in order as one stream, and print accuracy and latency."""
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.readers import read_captures
    from lobsmith.market.simulator import simulate

    params = load_params(workspace.params, overrides(settings))
    if bool(files) == (seconds is not None):
        raise DataError("nothing to replay, or two things: name recorded FILES, or pass --simulate SECONDS")
    session = read_captures(files) if files else simulate(seed, seconds or 0)
    dataset = build_dataset(session, params)
    columns = (TextColumn(f"replay over {transport}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("replay", total=None)
        measured = run(
            workspace,
            params,
            dataset,
            0,
            transport,
            url=url,
            model=model,
            limit=rows,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(measured)
    else:
        results.print(table({transport: measured}))
        if measured.reasons:
            results.print(f"without an answer: {measured.reasons}")
    if measured.answered == 0:
        raise ServingError(f"no row was answered: {measured.reasons or 'the data has no complete row'}")


def open_transport(workspace: Workspace, params: Params, name: str, url: str | None = None) -> "DescribingTransport":
    """Return a transport to the server named by `url`, else to the workspace's running one, else to params' ports."""
    from lobsmith.release.repository import Repository
    from lobsmith.serving.endpoint import read_endpoint
    from lobsmith.trading.transports import GrpcTransport, HttpTransport, InProcessTransport

    if name == "inprocess":
        return InProcessTransport(Repository.of(workspace))
    endpoint = None if url else read_endpoint(workspace)
    if name == "grpc":
        default = endpoint.grpc_url if endpoint else f"{params.serving.host}:{params.serving.grpc_port}"
        return GrpcTransport(url or default)
    default = endpoint.http_url if endpoint else f"{params.serving.host}:{params.serving.http_port}"
    return HttpTransport(url or default)


def run(
    workspace: Workspace,
    params: Params,
    dataset: "Dataset",
    first: int,
    transport: str,
    *,
    url: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Measured":
    """Replay a dataset from row `first` on.

    Raises:
        ServingError: no server answers, it has no such model, or the model means other features by its inputs.
    """
    from lobsmith.trading.client import StreamClient
    from lobsmith.trading.measure import measure

    name = model or params.model.name
    channel = open_transport(workspace, params, transport, url)
    try:
        served = channel.describe(name).definitions_sha256
        if served != dataset.definitions_sha256:
            raise ServingError(
                f"{name}: the served model was made for other features or labels (definitions {served[:12]}) than "
                f"params.yaml describes ({dataset.definitions_sha256[:12]}); use the parameters it was trained with"
            )
        client = StreamClient.open(channel, name, params.client)
        return measure(dataset, first, client, limit=limit, on_progress=on_progress)
    finally:
        channel.close()


def table(measured: "dict[str, Measured]") -> Table:
    """Return accuracy and latency of one or several replays as a table."""
    out = Table(title="Replay through the trading client")
    for heading in ("transport", "version", "rows", "answered", "accuracy", "log-loss", "p50", "p99"):
        out.add_column(heading, justify="left" if heading == "transport" else "right")
    for name, one in measured.items():
        out.add_row(
            name,
            ", ".join(map(str, one.versions)) or "-",
            f"{one.rows:,}",
            f"{one.answered:,}",
            " / ".join(f"{s.accuracy:.3f}" for s in one.scores),
            " / ".join(f"{s.log_loss:.3f}" for s in one.scores),
            *(f"{one.latency_us[q]:,.0f} µs" if q in one.latency_us else "-" for q in ("p50", "p99")),
        )
    return out
