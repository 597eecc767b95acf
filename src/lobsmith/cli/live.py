"""`lobsmith live`: predictions for a live feed, with recorder and capture."""

from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from lobsmith import clock
from lobsmith.cli.options import (
    change_options,
    changes,
    json_option,
    model_option,
    other_instrument_option,
    overrides,
    print_json,
    results,
    set_option,
)
from lobsmith.cli.replay import recorded_line
from lobsmith.errors import ClockError, DataError, VenueError
from lobsmith.market.venues.binance.live import MARKETS
from lobsmith.params import load_params
from lobsmith.process import Heartbeat
from lobsmith.progress import console, room_permitting
from lobsmith.units import NS_PER_MS, NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lobsmith.market.instrument import Instrument
    from lobsmith.market.simulator import Change
    from lobsmith.market.venues.binance.live import VenueEndpoint
    from lobsmith.trading.live.feeds import Feed
    from lobsmith.trading.live.seconds import Second
    from lobsmith.trading.live.session import LiveSummary

_AHEAD_S = 1.0
_RETRY_S = 5.0
_SIMULATED = "simulator-sim"


@click.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@click.option(
    "--from", "files", multiple=True, type=click.Path(path_type=Path), help="Play a captured FILE; may be repeated."
)
@click.option("--simulate", "seed", type=int, help="Play an endless simulated market of this seed.")
@click.option("--loop", is_flag=True, help="Play the FILEs again at their end.")
@click.option("--speed", type=float, help="Speed of the workspace's clock, for a played feed.")
@change_options
@click.option("--market", type=click.Choice(list(MARKETS)), default="usdm", show_default=True)
@click.option("--ws-url", help="Instead of the market's own WebSocket address.")
@click.option("--rest-url", help="Instead of the market's own REST address.")
@click.option("--stale-s", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--transport", type=click.Choice(["grpc", "inprocess"]), default="grpc", show_default=True)
@click.option("--url", help="HOST:PORT of a server; the workspace's own by default.")
@model_option
@click.option("--guard/--no-guard", default=True, show_default=True, help="Gate predictions by the mode.")
@click.option("--modes", help="URL of another machine's modes, http://HOST:PORT/modes; the workspace's by default.")
@click.option("--horizon", type=int, help="Of the probabilities shown, ms; the longest up to a second by default.")
@click.option("--capture/--no-capture", default=True, show_default=True, help="Capture the feed for the next retrain.")
@other_instrument_option
@set_option
@json_option
@click.pass_obj
def live(
    workspace: Workspace,
    symbols: tuple[str, ...],
    files: tuple[Path, ...],
    seed: int | None,
    loop: bool,
    speed: float | None,
    change_at: float | None,
    factors: tuple[str, ...],
    market: str,
    ws_url: str | None,
    rest_url: str | None,
    stale_s: float,
    transport: str,
    url: str | None,
    model: str | None,
    guard: bool,
    modes: str | None,
    horizon: int | None,
    capture: bool,
    allow_other_instrument: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Predict on the live feed of SYMBOLs, or a played one, until Ctrl-C.

    Rows and answers are logged as live, for evaluations and drift checks, and the feed is captured into
    .lobsmith/captures for the next retrain.
    """
    from lobsmith.market.simulator import Dynamics
    from lobsmith.serving.supervisor import stop_on_signals
    from lobsmith.trading.live.session import LiveOptions, run_live

    params = load_params(workspace.params, overrides(settings))
    played = bool(files) or seed is not None
    check_feed(workspace, symbols=symbols, files=files, seed=seed, loop=loop, speed=speed, factors=factors)
    options = LiveOptions(
        model=model or params.model.name,
        horizon_ms=horizon
        or max((horizon_ms for horizon_ms in params.labels.horizons_ms if horizon_ms <= 1000), default=0)
        or params.labels.horizons_ms[0],
        transport=transport,
        url=url,
        modes=modes,
        guard=guard,
        allow_other_instrument=allow_other_instrument,
        capture=capture,
    )
    heartbeat = Heartbeat.inherited()

    def on_second(second: "Second") -> None:
        heartbeat.beat()
        with room_permitting():
            if as_json:
                print_json(second)
            else:
                click.echo(str(second))

    stop = Event()
    with stop_on_signals(stop), _clock(workspace, speed):
        if played:
            drift = changes(change_at, factors, Dynamics())
            feed: Feed = (
                _played(files, symbols, loop=loop)
                if seed is None
                else _simulated(workspace, options.model, seed, drift)
            )
        else:
            endpoint = MARKETS[market]
            endpoint = endpoint._replace(websocket=ws_url or endpoint.websocket, rest=rest_url or endpoint.rest)
            instruments = _instruments(endpoint, symbols, stop)
            if not instruments:
                return
            feed = _venue(endpoint, instruments, stale_s)
        summaries = run_live(
            workspace,
            params,
            feed,
            options,
            stop=stop,
            on_second=on_second,
            report=_print_line,
        )
    with room_permitting():
        if as_json:
            print_json({"ended": summaries})
            return
        for summary in summaries:
            results.print(_summary_line(summary), soft_wrap=True)
            if summary.recorded is not None:
                results.print(recorded_line(summary.recorded), soft_wrap=True)


@room_permitting()
def _print_line(line: str) -> None:
    console.print(line, markup=False)


def _summary_line(summary: "LiveSummary") -> str:
    counts = {
        "without an answer": sum(summary.reasons.values()),
        "before the first complete one": summary.incomplete,
        "without a model": summary.unasked,
        "dropped": summary.drops,
        "messages unreadable": summary.faults,
    }
    more = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    return f"{summary.instrument}: {summary.rows:,} rows, {summary.answered:,} answered{more}"


def check_feed(
    workspace: Workspace,
    *,
    symbols: tuple[str, ...],
    files: tuple[Path, ...],
    seed: int | None,
    loop: bool,
    speed: float | None,
    factors: tuple[str, ...],
) -> None:
    """Check the options of a feed before anything is started.

    Raises:
        click.UsageError: options do not go together.
        DataError: not exactly one feed, or a file cannot be played.
        ClockError: the workspace's time is not that of a venue.
    """
    if (bool(files), seed is not None, bool(symbols) and not files).count(True) != 1:
        raise DataError("no feed, or two: name SYMBOLs, or pass --from FILE, or --simulate SEED")
    if loop and not files:
        raise click.UsageError("--loop is for captured files; pass --from FILE")
    if factors and seed is None:
        raise click.UsageError("--change is of the simulated market; pass --simulate SEED")
    if files:
        from lobsmith.market.live.playback import check_playable

        for path in files:
            check_playable(path)
    elif seed is None:
        if speed is not None:
            raise click.UsageError("--speed is for played feeds; a venue's clock cannot be changed")
        if clock.speed() != 1 or clock.ahead_ns() > _AHEAD_S * NS_PER_S:
            raise ClockError(
                f"{workspace.clock}: the workspace's time is {clock.ahead_ns() / NS_PER_S:,.0f} s ahead at speed "
                f"{clock.speed():g}, a venue's is not; use another workspace for it (--root)"
            )


@contextmanager
def _clock(workspace: Workspace, speed: float | None) -> "Iterator[None]":
    """Set the speed of the workspace's clock for the block."""
    if speed is None:
        yield
        return
    if clock.inherited:
        raise click.UsageError("--speed: another process has started this one and runs the clock; pass it there")
    clock.run(workspace.clock, speed)
    try:
        yield
    finally:
        clock.run(workspace.clock, 1)


def market_seed(workspace: Workspace, model: str, seed: int) -> int:
    """Return `seed` for the first session, later plus the workspace's time, ms, for a market never trained on.

    A capture or a logged live session of the model shows that it is not the first.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    from lobsmith.market.instrument import SIMULATED
    from lobsmith.market.live.retention import captured
    from lobsmith.monitoring.log.reader import PredictionLog
    from lobsmith.monitoring.log.writer import Source, log_path

    played = _SIMULATED in captured(workspace.captures)
    if not played and log_path(workspace, model).exists():
        with PredictionLog.of(workspace, model) as log:
            market = (Source.LIVE.value, str(SIMULATED))
            played = any((session["source"], session["instrument"]) == market for session in log.sessions())
    return seed + clock.now_ns() // NS_PER_MS if played else seed


def _simulated(workspace: Workspace, model: str, seed: int, drift: "list[Change]") -> "Feed":
    from lobsmith.market.live.playback import SimulatedFeed
    from lobsmith.trading.live.feeds import PlayedFeed

    return PlayedFeed([SimulatedFeed(market_seed(workspace, model, seed), drift)])


def _played(files: tuple[Path, ...], symbols: tuple[str, ...], *, loop: bool) -> "Feed":
    from lobsmith.market.live.playback import CapturedFeed
    from lobsmith.market.venues.formats import group_by_instrument
    from lobsmith.trading.live.feeds import PlayedFeed

    groups, failed = group_by_instrument(files)
    for error in failed.values():
        raise error
    sources = [CapturedFeed(paths, loop=loop) for paths in groups.values()]
    if symbols:
        selected = {symbol.upper() for symbol in symbols}
        if missing := selected - {source.instrument.symbol for source in sources}:
            raise DataError(f"{', '.join(sorted(missing))}: in none of the FILEs")
        sources = [source for source in sources if source.instrument.symbol in selected]
    return PlayedFeed(sources)


def _instruments(endpoint: "VenueEndpoint", symbols: tuple[str, ...], stop: Event) -> "list[Instrument]":
    """Return the instruments of the symbols, with retries until the venue answers; empty after `stop`."""
    from lobsmith.market.live.listing import instrument_of

    printed = ""
    while True:
        try:
            return [instrument_of(endpoint, symbol) for symbol in symbols]
        except VenueError as error:
            if str(error) != printed:
                printed = str(error)
                _print_line(printed)
        if stop.wait(_RETRY_S):
            return []


def _venue(endpoint: "VenueEndpoint", instruments: "list[Instrument]", stale_s: float) -> "Feed":
    from lobsmith.market.live.websocket import CaptureLimits
    from lobsmith.trading.live.feeds import VenueFeed

    return VenueFeed(endpoint, instruments, CaptureLimits(stale_s=stale_s))
