"""`lobsmith live`: a live feed, answered by the model, recorded and captured."""

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
    from lobsmith.market.venues.binance.live import Endpoint
    from lobsmith.trading.live.feeds import Feed
    from lobsmith.trading.live.seconds import Second
    from lobsmith.trading.live.session import LiveSummary

_AHEAD_S = 1.0
_RETRY_S = 5.0
_SIMULATED = "simulator-sim"


@click.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@click.option(
    "--from", "files", multiple=True, type=click.Path(path_type=Path), help="Play a recorded FILE; may be repeated."
)
@click.option("--simulate", "seed", type=int, help="Play a simulated market of this seed, without an end.")
@click.option("--loop", is_flag=True, help="Begin again at the end of the FILEs.")
@click.option("--speed", type=float, help="Let the workspace's time pass so many times as fast, for what is played.")
@change_options
@click.option("--market", type=click.Choice(list(MARKETS)), default="usdm", show_default=True)
@click.option("--ws-url", help="Instead of the market's own WebSocket address.")
@click.option("--rest-url", help="Instead of the market's own REST address.")
@click.option("--stale-s", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--transport", type=click.Choice(["grpc", "inprocess"]), default="grpc", show_default=True)
@click.option("--url", help="HOST:PORT of a server; the workspace's own by default.")
@model_option
@click.option("--guard/--no-guard", default=True, show_default=True, help="Let the mode say what may be acted on.")
@click.option("--modes", help="URL of another machine's modes, http://HOST:PORT/modes; the workspace's by default.")
@click.option("--horizon", type=int, help="Of the probabilities shown, ms; the longest up to a second by default.")
@click.option("--capture/--no-capture", default=True, show_default=True, help="Keep the feed for the next retrain.")
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
    """Answer the live feed of SYMBOLs, or a played one, until Ctrl-C: one line a second for each.

    Rows and answers are recorded as live, so that shadow evaluation, drift and rollback count them; the feed is
    captured into .lobsmith/captures for the next retrain.
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
        or max((one for one in params.labels.horizons_ms if one <= 1000), default=0)
        or params.labels.horizons_ms[0],
        transport=transport,
        url=url,
        modes=modes,
        guard=guard,
        allow_other_instrument=allow_other_instrument,
        capture=capture,
    )
    show = room_permitting()(print_json if as_json else _show)
    alive = Heartbeat.inherited()

    def on_second(second: "Second") -> None:
        alive.beat()
        show(second)

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
            found = _instruments(endpoint, symbols, stop)
            if not found:
                return
            feed = _venue(endpoint, found, stale_s)
        lived = run_live(
            workspace,
            params,
            feed,
            options,
            stop=stop,
            on_second=on_second,
            say=_say,
        )
    with room_permitting():
        if as_json:
            print_json({"ended": lived})
            return
        for one in lived:
            results.print(_ended(one), soft_wrap=True)
            if one.recorded is not None:
                results.print(recorded_line(one.recorded), soft_wrap=True)


@room_permitting()
def _say(line: str) -> None:
    console.print(line, markup=False)


def _show(second: "Second") -> None:
    click.echo(str(second))


def _ended(one: "LiveSummary") -> str:
    counts = {
        "without an answer": sum(one.reasons.values()),
        "before the first complete one": one.incomplete,
        "while there was no model": one.unasked,
        "dropped": one.drops,
        "messages unreadable": one.faults,
    }
    more = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    return f"{one.instrument}: {one.rows:,} rows, {one.answered:,} answered{more}"


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
    """Refuse what cannot be played or followed, before anything is started.

    Raises:
        click.UsageError: options do not go together.
        DataError: there is no feed, or more than one, or a file is missing or cannot be played.
        ClockError: the workspace's time is not that of a venue.
    """
    if (bool(files), seed is not None, bool(symbols) and not files).count(True) != 1:
        raise DataError("no feed, or two: name SYMBOLs, or pass --from FILE, or --simulate SEED")
    if loop and not files:
        raise click.UsageError("--loop is for recorded files; pass --from FILE")
    if factors and seed is None:
        raise click.UsageError("--change is of the simulated market; pass --simulate SEED")
    if files:
        from lobsmith.market.live.playback import check_playable

        for path in files:
            check_playable(path)
    elif seed is None:
        if speed is not None:
            raise click.UsageError("--speed is for what is played; a venue's time passes as it does")
        if clock.speed() != 1 or clock.ahead_ns() > _AHEAD_S * NS_PER_S:
            raise ClockError(
                f"{workspace.clock}: the workspace's time is {clock.ahead_ns() / NS_PER_S:,.0f} s ahead at speed "
                f"{clock.speed():g}, a venue's is not; use another workspace for it (--root)"
            )


@contextmanager
def _clock(workspace: Workspace, speed: float | None) -> "Iterator[None]":
    """Let time pass as the feed needs it."""
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
    """Return the seed of the simulated market to play: the given one the first time, and one that never was after it.

    A session that is started again must not play the same market twice: the model would be judged on what it has
    learnt. After a capture, or a live session of the model, the time of the workspace is added, ms: it never goes back.

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
            played = any((one["source"], one["instrument"]) == market for one in log.sessions())
    return seed + clock.now_ns() // NS_PER_MS if played else seed


def _simulated(workspace: Workspace, model: str, seed: int, drift: "list[Change]") -> "Feed":
    from lobsmith.market.live.playback import SimulatedFeed
    from lobsmith.trading.live.feeds import PlayedFeed

    return PlayedFeed([SimulatedFeed(market_seed(workspace, model, seed), drift)])


def _played(files: tuple[Path, ...], symbols: tuple[str, ...], *, loop: bool) -> "Feed":
    from lobsmith.market.live.playback import RecordedFeed
    from lobsmith.market.venues.formats import group_by_instrument
    from lobsmith.trading.live.feeds import PlayedFeed

    groups, failed = group_by_instrument(files)
    for error in failed.values():
        raise error
    sources = [RecordedFeed(paths, loop=loop) for paths in groups.values()]
    if symbols:
        wanted = {symbol.upper() for symbol in symbols}
        if missing := wanted - {one.instrument.symbol for one in sources}:
            raise DataError(f"{', '.join(sorted(missing))}: in none of the FILEs")
        sources = [one for one in sources if one.instrument.symbol in wanted]
    return PlayedFeed(sources)


def _instruments(endpoint: "Endpoint", symbols: tuple[str, ...], stop: Event) -> "list[Instrument]":
    """Return what the symbols are, asking the venue again until it says so; nothing where `stop` comes first."""
    from lobsmith.market.live.listing import instrument_of

    said = ""
    while True:
        try:
            return [instrument_of(endpoint, symbol) for symbol in symbols]
        except VenueError as error:
            if str(error) != said:
                said = str(error)
                _say(said)
        if stop.wait(_RETRY_S):
            return []


def _venue(endpoint: "Endpoint", instruments: "list[Instrument]", stale_s: float) -> "Feed":
    from lobsmith.market.live.websocket import CaptureLimits
    from lobsmith.trading.live.feeds import VenueFeed

    return VenueFeed(endpoint, instruments, CaptureLimits(stale_s=stale_s))
