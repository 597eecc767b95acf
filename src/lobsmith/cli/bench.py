"""`lobsmith bench`: the measurements that the performance claims rest on, always beside their baseline in one run."""

from pathlib import Path

import click
from rich.table import Table

from lobsmith.cli.options import json_option, print_json, results
from lobsmith.params import load_params
from lobsmith.progress import stage
from lobsmith.workspace import Workspace


@click.group()
def bench() -> None:
    """Measure, beside the baseline."""


@bench.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--rounds", type=click.IntRange(min=3), default=15, show_default=True, help="Each side's, interleaved.")
@click.option("--setup", is_flag=True, help="Make hftbacktest's virtual environment first, with pip.")
@json_option
@click.pass_obj
def features(workspace: Workspace, files: tuple[Path, ...], rounds: int, setup: bool, as_json: bool) -> None:
    """Book and all features of recorded Binance futures sessions, beside hftbacktest replaying the same.

    FILEs are raw captures of one instrument, in order; by default the sessions in the folder that LOBSMITH_DATA names.
    """
    from benchmarks.features import Rates, bench_features

    params = load_params(workspace.params)
    with stage("bench features") as note:
        report = bench_features(workspace, params, list(files), rounds=rounds, setup=setup, note=note)
    if as_json:
        print_json(report)
        return
    table = Table(title=f"{rounds} rounds of each side, interleaved; medians")
    for heading in ("session", "events", "lobsmith, M/s", "hftbacktest, M/s", "ratio", "ingest, k msg/s", "ratio"):
        table.add_column(heading, justify="left" if heading == "session" else "right")
    rates: list[tuple[str, Rates]] = [*((one.session, one) for one in report.sessions), ("all", report)]
    for name, one in rates:
        table.add_row(
            name,
            f"{one.events:,}",
            f"{one.events_per_s / 1e6:.1f}",
            f"{one.hftbacktest_events_per_s / 1e6:.1f}",
            f"{one.ratio:.2f}",
            f"{one.ingest_messages_per_s / 1e3:.0f}",
            f"{one.ingest_ratio:.2f}",
        )
    results.print(table)
    results.print(
        f"row: p50 {report.row_ns['p50']:,.0f} ns, p99 {report.row_ns['p99']:,.0f} ns over {report.row_ns['count']:,} "
        f"batches of {report.row_ns['batch']} events; peak memory {report.memory_mib['once']:,.0f} MiB for a session, "
        f"{report.memory_mib['tenfold']:,.0f} MiB for ten times as much",
        soft_wrap=True,
    )
