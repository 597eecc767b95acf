"""Sources of live lines: a venue's WebSocket, captures or the simulator, each in threads of its own."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Protocol

from lobsmith.errors import DataError
from lobsmith.market.instrument import Instrument
from lobsmith.market.live.playback import CapturedFeed, Player, SimulatedFeed, move_to_now
from lobsmith.market.live.websocket import CaptureLimits, Sink, WebSocketFeed
from lobsmith.market.venues.binance.live import VenueEndpoint


class Feed(Protocol):
    """A source of lines.

    Attributes:
        instruments: by symbol, lower case.
        prefixes: the market's short name by symbol, for file names.
        backpressure: it waits until its lines are taken.
        error: what ended it.
    """

    instruments: dict[str, Instrument]
    prefixes: dict[str, str]
    backpressure: bool
    error: Exception | None

    def start(self, sink: Sink, report: Callable[[str], None]) -> None:
        """Start."""

    def resync(self, symbol: str) -> None:
        """Restart a symbol with a snapshot, where the source can."""

    @property
    def alive(self) -> bool:
        """Whether more lines may come."""

    def behind_ns(self, symbol: str) -> int:
        """Return the delay of the last line, workspace time."""

    def stop(self) -> None:
        """Stop and wait for the end."""


class VenueFeed:
    """A venue's WebSocket, with its REST snapshots."""

    backpressure: bool = False

    def __init__(self, endpoint: VenueEndpoint, instruments: Sequence[Instrument], limits: CaptureLimits) -> None:
        """Prepare; nothing is opened yet."""
        self.instruments = {instrument.symbol.lower(): instrument for instrument in instruments}
        self.prefixes = dict.fromkeys(self.instruments, endpoint.prefix)
        self.error: Exception | None = None
        self._endpoint = endpoint
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._feed: WebSocketFeed | None = None
        self._thread = Thread(target=self._run, name="venue", daemon=True)

    def start(self, sink: Sink, report: Callable[[str], None]) -> None:
        """See `Feed.start`."""
        self._feed = WebSocketFeed(self._endpoint, list(self.instruments), sink, self._limits, report=report)
        self._thread.start()

    def resync(self, symbol: str) -> None:
        """See `Feed.resync`."""
        if self._feed is not None:
            self._call(self._feed.resync, symbol)

    @property
    def alive(self) -> bool:
        """See `Feed.alive`."""
        return self._thread.is_alive()

    def behind_ns(self, symbol: str) -> int:
        """See `Feed.behind_ns`; always 0."""
        del symbol
        return 0

    def stop(self) -> None:
        """See `Feed.stop`."""
        if self._feed is not None:
            self._call(self._feed.stop)
        if self._thread.is_alive():
            self._thread.join()

    def _call(self, function: Callable[..., object], *arguments: str) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        assert self._feed is not None  # noqa: S101 - `start` has made it
        asyncio.set_event_loop(self._loop)
        try:
            summary = self._loop.run_until_complete(self._feed.run())
        except Exception as error:  # noqa: BLE001 - raised in the session's thread
            self.error = error
        else:
            if len(summary.failed) == len(self.instruments):
                self.error = DataError("; ".join(f"{name}: {reason}" for name, reason in summary.failed.items()))
        finally:
            self._loop.close()


class PlayedFeed:
    """Captures or a simulated market, released by the workspace's clock."""

    backpressure: bool = True

    def __init__(self, sources: Sequence[CapturedFeed | SimulatedFeed]) -> None:
        """Prepare; nothing is played yet.

        Raises:
            DataError: two sources are of the same symbol.
        """
        self.instruments = {source.instrument.symbol.lower(): source.instrument for source in sources}
        if len(self.instruments) < len(sources):
            names = ", ".join(str(source.instrument) for source in sources)
            raise DataError(f"{names}: a symbol of two markets; play them in sessions of their own")
        self.prefixes = {
            symbol: instrument.venue.removeprefix("binance-") for symbol, instrument in self.instruments.items()
        }
        self.error: Exception | None = None
        self._sources = sources
        self._stopped = Event()
        self._players: dict[str, Player] = {}
        self._threads: list[Thread] = []

    def start(self, sink: Sink, report: Callable[[str], None]) -> None:
        """See `Feed.start`."""
        move_to_now(self._sources)
        for source in self._sources:
            player = Player(source, sink, self._stopped, report)
            self._players[source.instrument.symbol.lower()] = player
            arguments = player, source.instrument, report
            self._threads.append(Thread(target=self._play, args=arguments, name="player", daemon=True))
        for thread in self._threads:
            thread.start()

    def resync(self, symbol: str) -> None:
        """See `Feed.resync`; nothing to do."""

    @property
    def alive(self) -> bool:
        """See `Feed.alive`."""
        return any(thread.is_alive() for thread in self._threads)

    def behind_ns(self, symbol: str) -> int:
        """See `Feed.behind_ns`."""
        return self._players[symbol].behind_ns

    def stop(self) -> None:
        """See `Feed.stop`."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _play(self, player: Player, instrument: Instrument, report: Callable[[str], None]) -> None:
        try:
            player.run()
        except Exception as error:  # noqa: BLE001 - raised in the session's thread
            self.error = error
            # Others may play on for hours.
            report(f"{instrument}: its feed has ended: {error}")
