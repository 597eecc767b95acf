"""A live session: feed, capture and a stream a symbol, until stopped or the feed ends."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from threading import Event

from msgspec import Struct

from lobsmith.errors import ParamsError, UntrainedInstrumentError
from lobsmith.monitoring.log.writer import Source
from lobsmith.monitoring.waiting import note_refusal
from lobsmith.params import Params
from lobsmith.trading.live.capture import Capture
from lobsmith.trading.live.feeds import Feed
from lobsmith.trading.live.intake import Intake
from lobsmith.trading.live.seconds import Second, StreamMeter
from lobsmith.trading.live.stream import LiveStream, StreamPhase
from lobsmith.trading.recorder.recorder import RecorderSummary
from lobsmith.trading.session import Stream, open_stream
from lobsmith.workspace import Workspace

_SECOND_S = 1.0
_PRUNE_S = 60.0
_VENUE_LINES, _BACKPRESSURE_LINES = 200_000, 10_000
"""Queue lengths; a feed with backpressure waits itself."""
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """Options of a live session; see `open_stream`.

    Attributes:
        model: the production model.
        horizon_ms: shown each second.
        capture: keep the feed.
    """

    model: str
    horizon_ms: int
    transport: str = "grpc"
    url: str | None = None
    modes: str | None = None
    guard: bool = True
    allow_other_instrument: bool = False
    capture: bool = True


class LiveSummary(Struct, frozen=True, kw_only=True):
    """Outcome of one symbol's rows.

    Attributes:
        instrument: `venue:symbol`.
        rows: of the feed.
        answered: rows with an answer.
        reasons: rows without, by reason.
        incomplete: rows before the z-score's window was full.
        unasked: rows while no model was open.
        drops: see `LiveStream.drops`.
        faults: unreadable messages.
        recorded: None where no model was ever open.
    """

    instrument: str
    rows: int
    answered: int
    reasons: dict[str, int]
    incomplete: int
    unasked: int
    drops: int
    faults: int
    recorded: RecorderSummary | None


def run_live(
    workspace: Workspace,
    params: Params,
    feed: Feed,
    options: LiveOptions,
    *,
    stop: Event,
    on_second: Callable[[Second], None],
    report: Callable[[str], None],
) -> list[LiveSummary]:
    """Answer the rows of a feed until it ends or `stop` is set.

    A symbol without a model trained on it waits for one while its feed is captured.

    Args:
        workspace: of server, prediction log and captures.
        params: that the model was trained with.
        feed: started and stopped here.
        options: how rows are answered and kept.
        stop: ends the session.
        on_second: called once a second for each instrument.
        report: called with a line for people.

    Raises:
        ParamsError: no such horizon or transport.
        DataError: another session captures the same symbols, or the feed failed.
        UntrainedInstrumentError: no model was trained on any symbol, and nothing is captured.
    """
    horizons = params.labels.horizons_ms
    if options.horizon_ms not in horizons:
        raise ParamsError(f"{options.horizon_ms} ms is none of labels.horizons_ms, {', '.join(map(str, horizons))}")
    capture = Capture(workspace.captures, feed.prefixes, params, report) if options.capture else None
    streams = {
        symbol: LiveStream(
            instrument,
            params,
            partial(_open, workspace, params, str(instrument), options),
            report=report,
            resync=partial(feed.resync, symbol),
            **({} if capture is None else {"on_moved": partial(capture.restate, symbol)}),
            longest=_BACKPRESSURE_LINES if feed.backpressure else _VENUE_LINES,
        )
        for symbol, instrument in feed.instruments.items()
    }
    meters = {symbol: StreamMeter(stream, horizons, options.horizon_ms) for symbol, stream in streams.items()}
    intake = Intake(streams, capture, backpressure=feed.backpressure, report=report, resync=feed.resync)
    failed = True
    try:
        for stream in streams.values():
            stream.start()
        feed.start(intake, report)
        next_s, next_prune_s = time.monotonic() + _SECOND_S, 0.0
        while feed.alive and not stop.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + _SECOND_S, time.monotonic())
            for symbol, meter in meters.items():
                on_second(meter.read(feed.behind_ns(symbol), intake.unreadable[symbol]))
            if capture is not None and time.monotonic() > next_prune_s:
                capture.prune()
                next_prune_s = time.monotonic() + _PRUNE_S
            _check(streams.values(), captured=capture is not None)
        while any(len(stream.lines) for stream in streams.values() if stream.alive) and not stop.wait(_POLL_S):
            pass
        failed = feed.error is not None
    finally:
        feed.stop()
        for stream in streams.values():
            stream.close(params.mirror.drain_s / 2, failed=failed)
        for stream in streams.values():
            stream.join()
        if capture is not None:
            capture.close()
    _check(streams.values(), captured=True)
    if feed.error is not None:
        raise feed.error
    return [_summary(stream, intake.unreadable[symbol]) for symbol, stream in streams.items()]


def _open(workspace: Workspace, params: Params, instrument: str, options: LiveOptions) -> Stream:
    try:
        return open_stream(
            instrument,
            root=workspace,
            params=params,
            model=options.model,
            transport=options.transport,
            url=options.url,
            guard=options.guard,
            modes=options.modes,
            record=Source.LIVE,
            allow_other_instrument=options.allow_other_instrument,
        )
    except UntrainedInstrumentError:
        if options.url is None:
            note_refusal(workspace, options.model, instrument)
        raise


def _check(streams: Iterable[LiveStream], *, captured: bool) -> None:
    """Raise a stream's error, or end a session that can neither answer nor capture."""
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    if not captured and all(stream.state is StreamPhase.REFUSED for stream in streams):
        raise UntrainedInstrumentError("; ".join(sorted({stream.detail for stream in streams})))


def _summary(stream: LiveStream, unreadable: int) -> LiveSummary:
    counts = stream.counts
    return LiveSummary(
        instrument=str(stream.instrument),
        rows=counts.rows,
        answered=counts.answered,
        reasons=dict(counts.reasons),
        incomplete=counts.incomplete,
        unasked=counts.unasked,
        drops=stream.drops,
        faults=stream.faults + unreadable,
        recorded=stream.recorded,
    )
