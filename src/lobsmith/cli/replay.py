"""`lobsmith replay`: a recorded session through the trading client."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lobsmith.cli.options import change_options, changes, json_option, overrides, print_json, results, set_option
from lobsmith.errors import DataError, ParamsError, ServingError
from lobsmith.params import Params, load_params
from lobsmith.progress import console
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.features.dataset import Dataset
    from lobsmith.monitoring.log.writer import Source
    from lobsmith.trading.acting import Acting
    from lobsmith.trading.measure import Measured
    from lobsmith.trading.recorder.recorder import Recorded

TRANSPORTS = ("grpc", "http", "inprocess")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--simulate", "seconds", type=click.IntRange(min=1), help="Replay this many simulated seconds instead.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulator.")
@change_options
@click.option("--transport", type=click.Choice(TRANSPORTS), default="grpc", show_default=True)
@click.option("--url", help="HOST:PORT of a server; the workspace's own by default.")
@click.option("--model", help="Instead of model.name.")
@click.option("--record/--no-record", default=True, show_default=True, help="Into the prediction log, and mirrored.")
@click.option("--guard/--no-guard", default=True, show_default=True, help="Count what the mode lets one act on.")
@click.option("--modes", help="URL of another machine's modes, http://HOST:PORT/modes; the workspace's by default.")
@click.option("--ab", is_flag=True, help="Let the candidate answer shadow.share of the time, by blocks.")
@click.option("--rows", type=click.IntRange(min=1), help="Ask about this many rows at most.")
@set_option
@json_option
@click.pass_obj
def replay(
    workspace: Workspace,
    files: tuple[Path, ...],
    seconds: int | None,
    seed: int,
    change_at: float | None,
    factors: tuple[str, ...],
    transport: str,
    url: str | None,
    model: str | None,
    record: bool,
    guard: bool,
    modes: str | None,
    ab: bool,
    rows: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay recorded FILES, read in order as one stream, and print accuracy and latency.

    What was asked and answered goes into the model's prediction log, and its candidate and its fallback version are
    asked about the same rows. A guard beside the client says what might have been acted on.
    """
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.readers import read_captures
    from lobsmith.market.simulator import Dynamics, simulate
    from lobsmith.monitoring.log.writer import Source

    params = load_params(workspace.params, overrides(settings))
    if bool(files) == (seconds is not None):
        raise DataError("nothing to replay, or two things: name recorded FILES, or pass --simulate SECONDS")
    drift = changes(change_at, factors, Dynamics())
    if files and drift:
        raise click.UsageError("--change is of the simulated market; pass --simulate SECONDS in place of FILES")
    session = read_captures(files) if files else simulate(seed, seconds or 0, changes=drift)
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
            record=Source.REPLAY if record else None,
            guard=guard,
            modes=modes,
            ab=ab,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(measured)
    else:
        results.print(table({transport: measured}))
        if measured.reasons:
            results.print(f"without an answer: {measured.reasons}")
        if measured.recorded is not None:
            results.print(recorded_line(measured.recorded), soft_wrap=True)
        if measured.acting is not None:
            results.print(acting_line(measured.acting), soft_wrap=True)
    if measured.answered == 0:
        raise ServingError(f"no row was answered: {measured.reasons or 'the data has no complete row'}")


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
    record: "Source | None" = None,
    guard: bool = True,
    modes: str | None = None,
    ab: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Measured":
    """Replay a dataset from row `first` on.

    Args:
        workspace: of the server and of the prediction log.
        params: those that the model was trained with.
        dataset: what is replayed.
        first: index of the first row to ask about.
        transport: grpc, http or inprocess.
        url: HOST:PORT of a server that is not the workspace's.
        model: instead of `model.name`.
        limit: ask about this many rows at most.
        record: what the rows count as in the prediction log; None records nothing.
        guard: count what might have been acted on, in the mode of now and by scores of these rows.
        modes: URL of the pages of modes of another machine.
        ab: let the candidate answer some blocks of time.
        on_progress: told how many rows are done, of how many.

    Raises:
        ParamsError: `ab` without a share.
        ServingError: no server answers, it has no such model, or the model means other features by its inputs.
    """
    from msgspec.structs import replace

    from lobsmith.trading.client.ab import SplitClient
    from lobsmith.trading.client.stream import StreamClient
    from lobsmith.trading.guard.guarded_client import GuardedClient
    from lobsmith.trading.measure import measure
    from lobsmith.trading.recorder.recorder import Recorder
    from lobsmith.trading.transport.channels import open_guard, open_transport

    name = model or params.model.name
    if ab and not params.shadow.share:
        raise ParamsError("shadow.share is 0: the candidate would answer nothing; pass --set shadow.share=0.5")
    channel = open_transport(workspace, params, transport, url)
    recorder, watcher = None, None
    try:
        served = channel.describe(name).definitions_sha256
        if served != dataset.definitions_sha256:
            raise ServingError(
                f"{name}: the served model was made for other features or labels (definitions {served[:12]}) than "
                f"params.yaml describes ({dataset.definitions_sha256[:12]}); use the parameters it was trained with"
            )
        client: StreamClient | SplitClient | GuardedClient
        if ab:
            client = SplitClient(
                channel,
                name,
                params.client,
                symbol=str(dataset.instrument),
                block_s=params.shadow.arm_s,
                share=params.shadow.share,
                salt=params.shadow.salt,
            )
        else:
            client = StreamClient.open(channel, name, params.client)
        if guard:
            watcher = open_guard(workspace, params, name, transport, url, modes)
            client = GuardedClient(client, watcher, model=name, horizons=len(dataset.horizons_ms))
        if record is not None:
            recorder = Recorder(
                workspace,
                params,
                model=name,
                instrument=str(dataset.instrument),
                source=record,
                transport=transport,
                url=url,
                patient=True,
            )
        measured = measure(dataset, first, client, recorder=recorder, limit=limit, on_progress=on_progress)
    finally:
        if watcher is not None:
            watcher.close()
        recorded = None if recorder is None else recorder.close()
        channel.close()
    return replace(measured, recorded=recorded)


def recorded_line(recorded: "Recorded") -> str:
    """Say in one line what went into the prediction log."""
    line = (
        f"recorded {recorded.logged:,} of {recorded.rows:,} rows as {recorded.session}; mirrored to the candidate "
        f"{recorded.candidate:,}, to the fallback {recorded.fallback:,}"
    )
    dropped = recorded.dropped + recorded.candidate_dropped + recorded.fallback_dropped
    if dropped:
        line += f"; dropped {recorded.dropped:,} / {recorded.candidate_dropped:,} / {recorded.fallback_dropped:,}"
    if recorded.restarts or recorded.faults:
        line += f"; {recorded.restarts} restarts, {recorded.faults} faults, see {recorded.log}"
    return line


def acting_line(acting: "Acting") -> str:
    """Say in one line what might have been acted on."""
    modes = ", ".join(f"{mode} {rows:,}" for mode, rows in acting.modes.items())
    line = f"to act on: {acting.acted:,} rows, {acting.in_full:,} of them at every horizon; {modes}"
    if acting.abstained:
        line += "; held back: " + ", ".join(f"{code} {rows:,}" for code, rows in acting.abstained.items())
    return line if acting.last is None else f"{line} (last: {acting.last})"


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
