"""`lobsmith data capture`: a live feed into raw files."""

import asyncio
from pathlib import Path

import click

from lobsmith.cli.interrupt import calling
from lobsmith.cli.options import json_option, print_json, results
from lobsmith.market.venues.binance.live import MARKETS
from lobsmith.progress import console, stage
from lobsmith.workspace import Workspace


@click.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--market", type=click.Choice(list(MARKETS)), default="usdm", show_default=True)
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Default: .lobsmith/captures.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long; else at Ctrl-C.")
@click.option(
    "--stale-s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="A connection silent for so long counts as lost.",
)
@click.option("--rotate-mib", type=click.IntRange(min=1), default=256, show_default=True, help="Size of a file.")
@click.option("--ws-url", help="Instead of the market's own WebSocket address.")
@click.option("--rest-url", help="Instead of the market's own REST address.")
@json_option
@click.pass_obj
def capture(
    workspace: Workspace,
    symbols: tuple[str, ...],
    market: str,
    directory: Path | None,
    seconds: float | None,
    stale_s: float,
    rotate_mib: int,
    ws_url: str | None,
    rest_url: str | None,
    as_json: bool,
) -> None:
    """Capture depth, tickers, trades and REST snapshots of Binance SYMBOLs, a file per symbol and UTC day."""
    from lobsmith.market.live.files import FileLimits, RawFiles, cut_torn_tails
    from lobsmith.market.live.websocket import CaptureLimits, Summary, WebSocketFeed, capture_feed

    endpoint = MARKETS[market]
    endpoint = endpoint._replace(websocket=ws_url or endpoint.websocket, rest=rest_url or endpoint.rest)
    folder = directory or workspace.captures
    for path, lost in cut_torn_tails(folder, endpoint.prefix).items():
        console.print(f"{path}: cut {lost:,} bytes that a killed capture left incomplete")

    async def run() -> Summary:
        files = RawFiles(folder, endpoint.prefix, FileLimits(rotate_bytes=rotate_mib << 20))
        feed = WebSocketFeed(endpoint, symbols, files, CaptureLimits(stale_s=stale_s))
        loop = asyncio.get_running_loop()
        with calling(lambda: loop.call_soon_threadsafe(feed.stop)):
            return await capture_feed(feed, files, seconds)

    with stage(f"capture {', '.join(symbols)}") as note:
        summary = asyncio.run(run())
        note(f"{summary.messages:,} messages, {summary.gaps} gaps")
    for symbol, reason in summary.failed.items():
        console.print(f"[red]left out[/red] {symbol}: {reason}")
    if as_json:
        print_json(summary)
    else:
        for name in summary.files:
            results.print(name, soft_wrap=True)
    if summary.failed:
        raise click.exceptions.Exit(1)
