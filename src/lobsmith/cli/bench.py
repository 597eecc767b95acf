"""`lobsmith bench`: measurements, each beside its baseline."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table

from lobsmith.cli.options import json_option, print_json, results
from lobsmith.cli.replay import recorded_line
from lobsmith.files import write_atomic
from lobsmith.params import load_params
from lobsmith.progress import stage
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.bench.guard import GuardReport
    from lobsmith.bench.mirror import Latency, MirrorReport

_LARGEST_BATCH = 4096


def _names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in value.split(",")))


def _batches(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        batches = sorted({int(number) for number in value.split(",")})
    except ValueError:
        batches = []
    if not batches or not 1 <= batches[0] <= batches[-1] <= _LARGEST_BATCH:
        raise click.BadParameter(f"{value}: write whole numbers from 1 to {_LARGEST_BATCH}, as 1,8,64")
    return tuple(batches)


@click.group()
def bench() -> None:
    """Measure, beside the baseline."""


@bench.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A run's folder; by default the newest one, and without any an untrained network.",
)
@click.option(
    "--calls", type=click.IntRange(100, 1_000_000), default=5000, show_default=True, help="Of each side, in turn."
)
@json_option
@click.pass_obj
def tick(workspace: Workspace, directory: Path | None, calls: int, as_json: bool) -> None:
    """Latency of a step with state, beside the window of the last 100 rows."""
    from lobsmith.bench.tick import WINDOW, bench_tick

    params = load_params(workspace.params)
    with stage("bench tick"):
        report = bench_tick(workspace, params, directory, calls)
    if as_json:
        print_json(report)
        return
    table = Table(title=f"{report.network}: {report.calls:,} calls of each side, in turn; {report.rows} rows")
    for heading in ("a tick answered by", "p50 µs", "p99 µs", "times faster"):
        table.add_column(heading, justify="left" if heading.startswith("a") else "right")
    table.add_row(f"window of {WINDOW} rows", f"{report.window_p50_us:.1f}", f"{report.window_p99_us:.1f}", "1.0")
    faster = f"{report.ratio:.1f} [{report.low:.1f}, {report.high:.1f}]"
    table.add_row("one step with state", f"{report.step_p50_us:.1f}", f"{report.step_p99_us:.1f}", faster)
    if report.compiled_ratio is not None:
        compiled = (report.compiled_p50_us, report.compiled_p99_us, report.compiled_ratio)
        table.add_row("one compiled step", *(f"{figure:.1f}" for figure in compiled))
    results.print(table)


@bench.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--rounds", type=click.IntRange(min=3), default=15, show_default=True, help="Each side's, interleaved.")
@click.option("--setup", is_flag=True, help="Make hftbacktest's virtual environment first, with pip.")
@json_option
@click.pass_obj
def features(workspace: Workspace, files: tuple[Path, ...], rounds: int, setup: bool, as_json: bool) -> None:
    """Book and features of captured Binance futures sessions, beside a replay by hftbacktest.

    FILEs are captures of one instrument, in order; by default those in the folder LOBSMITH_DATA.
    """
    from lobsmith.bench.features import Rates, bench_features

    params = load_params(workspace.params)
    with stage("bench features") as note:
        report = bench_features(workspace, params, list(files), rounds=rounds, setup=setup, note=note)
    if as_json:
        print_json(report)
        return
    table = Table(title=f"{rounds} rounds of each side, interleaved; medians")
    for heading in ("session", "events", "lobsmith, M/s", "hftbacktest, M/s", "ratio", "ingest, k msg/s", "ratio"):
        table.add_column(heading, justify="left" if heading == "session" else "right")
    rows: list[tuple[str, Rates]] = [*((session.session, session) for session in report.sessions), ("all", report)]
    for name, rates in rows:
        table.add_row(
            name,
            f"{rates.events:,}",
            f"{rates.events_per_s / 1e6:.1f}",
            f"{rates.hftbacktest_events_per_s / 1e6:.1f}",
            f"{rates.ratio:.2f}",
            f"{rates.ingest_messages_per_s / 1e3:.0f}",
            f"{rates.ingest_ratio:.2f}",
        )
    results.print(table)
    results.print(
        f"row: p50 {report.row_ns['p50']:,.0f} ns, p99 {report.row_ns['p99']:,.0f} ns over {report.row_ns['count']:,} "
        f"batches of {report.row_ns['batch']} events; peak memory {report.memory_mib['once']:,.0f} MiB for a session, "
        f"{report.memory_mib['tenfold']:,.0f} MiB for ten times as much",
        soft_wrap=True,
    )


@bench.command()
@click.option("--rows", type=click.IntRange(500, 1_000_000), default=20_000, show_default=True, help="Of each side.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=1000.0, show_default=True, help="Rows a second.")
@json_option
@click.pass_obj
def mirror(workspace: Workspace, rows: int, rate: float, as_json: bool) -> None:
    """Latency of a tick in process, with and without recorder and shadow replicas."""
    from lobsmith.bench.mirror import bench_mirror

    params = load_params(workspace.params)
    with stage("bench mirror"):
        report = bench_mirror(params, rows, rate)
    if as_json:
        print_json(report)
        return
    sides = {"answer, alone": report.plain, "answer, mirrored": report.mirrored, "put into the ring": report.put}
    results.print(_beside(rows, rate, sides, report))
    results.print(recorded_line(report.recorded), soft_wrap=True)


@bench.command()
@click.option("--rows", type=click.IntRange(500, 1_000_000), default=20_000, show_default=True, help="Of each side.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=1000.0, show_default=True, help="Rows a second.")
@json_option
@click.pass_obj
def guard(workspace: Workspace, rows: int, rate: float, as_json: bool) -> None:
    """Latency of a tick in process, with and without the guard that gates it."""
    from lobsmith.bench.guard import bench_guard

    params = load_params(workspace.params)
    with stage("bench guard"):
        report = bench_guard(params, rows, rate)
    if as_json:
        print_json(report)
        return
    table = _beside(rows, rate, {"step, alone": report.plain, "step, guarded": report.guarded}, report)
    table.add_row("difference", "", f"{report.more_p50_us:.1f}", f"{report.more_p99_us:.1f}")
    results.print(table)
    checks = f"{report.checks:,} health checks, {report.scored_blocks:,} blocks scored"
    results.print(f"{checks}, {report.acted:,} rows actionable")


@bench.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu for a rehearsal.")
@click.option("--directory", type=click.Path(path_type=Path), help="A trained network's folder; else random weights.")
@click.option("--networks", default="step,window,lstm_a", show_default=True, callback=_names)
@click.option(
    "--precisions", default="fp32,fp16,bf16", show_default=True, callback=_names, help="Of PyTorch, TensorRT."
)
@click.option("--batches", default="1,8,64,512,4096", show_default=True, callback=_batches, help="Streams a call.")
@click.option("--calls", type=click.IntRange(min=1), default=5000, show_default=True, help="Timed calls of each row.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=3.0, show_default=True, help="Bound of each row.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="All ways in turn in each.")
@click.option(
    "--state", type=click.Choice(["host", "device"]), default="host", show_default=True, help="Where it is kept."
)
@click.option("--compile/--no-compile", "compiles", default=True, show_default=True, help="torch.compile, minutes.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON there too.")
@json_option
@click.pass_obj
def gpu(
    workspace: Workspace,
    device: str,
    directory: Path | None,
    networks: tuple[str, ...],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    calls: int,
    seconds: float,
    rounds: int,
    state: str,
    compiles: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Latency of networks on a GPU, host to host, in all ways available, beside the card's limits."""
    from lobsmith.bench.gpu import bench_gpu
    from lobsmith.bench.gpu_report import Plan, print_report

    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"{output.parent}: no such folder", param_hint="--output")
    plan = Plan(
        device=device,
        networks=networks,
        precisions=precisions,
        batches=batches,
        calls=calls,
        seconds=seconds,
        rounds=rounds,
        resident=state == "device",
        compile=compiles,
    )
    params = load_params(workspace.params)
    with stage("bench gpu") as note:
        report = bench_gpu(params, directory, plan, note=note)
    if output is not None:
        write_atomic(output, msgspec.json.format(msgspec.json.encode(report), indent=1))
    if as_json:
        print_json(report)
    else:
        print_report(report, results)
    if any(row.wrong for row in report.rows):
        sys.exit(1)


@bench.command()
@click.option("--swaps", type=click.IntRange(min=1), default=21, show_default=True, help="At least so many.")
@click.option("--rate", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Requests a second.")
@click.option(
    "--before", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="Seconds of load first."
)
@json_option
@click.pass_obj
def swap(workspace: Workspace, swaps: int, rate: float, before: float, as_json: bool) -> None:
    """Publish, promote, roll back and retire versions under constant load; exit 1 if a request failed."""
    from lobsmith.bench.swap import bench_swap

    params = load_params(workspace.params)
    with stage("bench swap") as note:
        report = bench_swap(params, swaps=swaps, rate=rate, before_s=before, note=note)
    if as_json:
        print_json(report)
    else:
        table = Table(title=f"{report.swaps} swaps in {report.seconds:.0f} s, {report.rate:g} requests/s")
        for heading in ("asked by", "requests", "failed", "p50 µs before", "p99 before", "p50 during", "p99", "max"):
            table.add_column(heading, justify="left" if heading == "asked by" else "right")
        for name, way in report.ways.items():
            figures = (way.p50_before_us, way.p99_before_us, way.p50_during_us, way.p99_during_us, way.max_during_us)
            table.add_row(name, f"{way.requests:,}", str(way.failed), *(f"{figure:,.0f}" for figure in figures))
        results.print(table)
        results.print(
            f"{report.published} published, {report.promoted} promoted, {report.rolled_back} rolled back, "
            f"{report.retired} retired; the old version answered {report.rollback_ms['p50']:.0f} ms after the call "
            f"(at most {report.rollback_ms['max']:.0f} ms)",
            soft_wrap=True,
        )
        for reason, count in report.failures.items():
            results.print(f"{count} failed: {reason}", soft_wrap=True)
    if report.failed:
        sys.exit(1)


def _beside(rows: int, rate: float, sides: "dict[str, Latency]", report: "MirrorReport | GuardReport") -> Table:
    """Return a table of latencies with the ratio of the first two sides."""
    table = Table(title=f"{rows:,} rows of each side, in turn, {rate:g} a second")
    for heading in ("", "count", "p50 µs", "p99 µs"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, side in sides.items():
        table.add_row(name, f"{side.count:,}", f"{side.p50_us:.1f}", f"{side.p99_us:.1f}")
    table.add_row("ratio", "", f"{report.ratio_p50:.2f}", f"{report.ratio_p99:.2f}")
    return table
