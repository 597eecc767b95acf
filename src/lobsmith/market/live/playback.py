"""Captured files shifted to the present, and an endless simulated market, as live feeds.

Local and exchange times shift by the same whole milliseconds; trade ids keep rising from one playback to the next.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Protocol

import msgspec
import numpy as np

from lobsmith import clock
from lobsmith.errors import CaptureError
from lobsmith.market.events import GAP, Events
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.market.live.websocket import Sink
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.simulator import START_NS, Change, Market
from lobsmith.market.simulator.raw import messages
from lobsmith.market.venues.binance.messages import sniff, stamp_of
from lobsmith.market.venues.binance.reader import BinanceReader
from lobsmith.market.venues.captures import first_line, text_batches
from lobsmith.market.venues.prefetch import prefetch
from lobsmith.units import NS_PER_MS, NS_PER_S

LAP_NS = NS_PER_S
"""Between the end of a capture and its repetition."""
_CHUNK_S = 5.0
"""Simulated at once."""
_LONGEST_LAG_S = 5.0
"""Wall time a player may lag before its feed shifts to the present."""
_SHORTEST_S = 0.0005
_FULL_S = 0.01
_TIMES = re.compile(rb'"([ET])":(\d{13}|\d{16}|\d{19})(?=[,}])')
_UNITS = {13: NS_PER_MS, 16: 1_000, 19: 1}
_TRADE_ID = re.compile(rb'"t":(\d{1,18})(?=[,}])')
AGAIN = msgspec.json.encode({"gap": "the recording begins again"})


class FeedSource(Protocol):
    """A feed whose times can be shifted.

    Attributes:
        instrument: what is traded.
        shift_ns: added to all times; whole milliseconds.
    """

    instrument: Instrument
    shift_ns: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield messages' local time and JSON.

        Raises:
            CaptureError: a file cannot be read.
        """


def check_playable(path: Path) -> None:
    """Check a file's first line.

    Raises:
        CaptureError: not a raw capture of Binance, or unreadable.
    """
    if not sniff(first_line(path)):
        raise CaptureError(path, "live plays raw captures of Binance and of the simulator; replay the others")


class CapturedFeed:
    """Captured files of one instrument as a feed."""

    def __init__(self, paths: Sequence[Path], *, loop: bool) -> None:
        """Identify the instrument; reads all files if its tick and lot are not in the table.

        Raises:
            CaptureError: as `check_playable`.
        """
        for path in paths:
            check_playable(path)
        reader = BinanceReader(paths, Ledger())
        batches = reader.batches()
        next(batches)
        batches.close()
        self.instrument = reader.instrument
        self.begins_ns = _stamp(paths[0], first_line(paths[0]))[0]
        self.shift_ns = 0
        self._paths = paths
        self._loop = loop

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """See `FeedSource.lines`."""
        last_ns = 0
        while True:
            trade_shift = (self.begins_ns + self.shift_ns) // NS_PER_MS
            first_trade: int | None = None
            for path in self._paths:
                for text in prefetch(text_batches(path)):
                    for line in text[:-1].split(b"\n"):
                        local, end = _stamp(path, line)
                        message = _TIMES.sub(self._shifted, line[end + 1 :])
                        if b'"e":"trade"' in message and (trade := _TRADE_ID.search(message)):
                            number = int(trade[1])
                            first_trade = number if first_trade is None else first_trade
                            shifted = b'"t":%d' % (number - first_trade + trade_shift)
                            message = message[: trade.start()] + shifted + message[trade.end() :]
                        last_ns = local + self.shift_ns
                        yield last_ns, message
            if not self._loop:
                return
            last_ns += 1
            yield last_ns, AGAIN
            begins_ns = max(last_ns + LAP_NS, clock.now_ns())
            self.shift_ns = _whole_ms(begins_ns - self.begins_ns)

    def _shifted(self, match: re.Match[bytes]) -> bytes:
        return b'"%b":%d' % (match[1], int(match[2]) + self.shift_ns // _UNITS[len(match[2])])


class SimulatedFeed:
    """An endless simulated market."""

    instrument = SIMULATED

    def __init__(self, seed: int, changes: Sequence[Change] = ()) -> None:
        """Prepare a seed's market; changes are in seconds since its start."""
        self.begins_ns = START_NS
        self.shift_ns = 0
        self._seed = seed
        self._changes = changes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """See `FeedSource.lines`."""
        # Ids keep rising across markets of the same symbol.
        ids = (self.begins_ns + self.shift_ns) // NS_PER_MS
        return messages(self.instrument, (self._shifted(events, ids) for events in self._events()))

    def _events(self) -> Iterator[Events]:
        market = Market(self._seed)
        until = 0.0
        for change in (*self._changes, None):
            while change is None or until < change.at_s:
                until = until + _CHUNK_S if change is None else min(until + _CHUNK_S, change.at_s)
                yield market.advance(until)
            market.change(change.dynamics)

    def _shifted(self, events: Events, ids: int) -> Events:
        shift = self.shift_ns
        return Events(
            **{name: getattr(events, name) for name in ("kind", "side", "flags", "price", "size")},
            exchange_time=events.exchange_time + shift,
            local_time=events.local_time + shift,
            sequence=np.where(events.kind == GAP, 0, events.sequence + ids),
        )


class Player:
    """Releases a feed's lines at their times.

    A full sink makes it wait; no line is dropped. A lag over `_LONGEST_LAG_S` shifts the rest of the feed to the
    present.

    Attributes:
        behind_ns: the last line's lag, in the workspace's time.
    """

    def __init__(self, source: FeedSource, sink: Sink, stop: Event, report: Callable[[str], None]) -> None:
        """Play a feed into a sink until `stop`; `report` receives messages."""
        self.behind_ns = 0
        self._report = report
        self._source = source
        self._sink = sink
        self._stop = stop

    def run(self) -> None:
        """Play to the end.

        Raises:
            CaptureError: the feed cannot be read.
        """
        symbol = self._source.instrument.symbol.lower()
        longest_ns = int(_LONGEST_LAG_S * clock.speed() * NS_PER_S)
        shifting = False  # lines generated before the shift keep their old times
        for local, text in self._source.lines():
            while (left_ns := local - clock.now_ns()) > 0:
                if self._stop.wait(max(left_ns / NS_PER_S / clock.speed(), _SHORTEST_S)):
                    return
            self.behind_ns = -left_ns
            while not self._sink.put(symbol, local, text):
                if self._stop.wait(_FULL_S):
                    return
            shift, shifting = self.behind_ns > longest_ns and not shifting, self.behind_ns > longest_ns
            if shift:
                lag_ns = _whole_ms(self.behind_ns)
                self._source.shift_ns += lag_ns
                self._report(
                    f"{self._source.instrument}: {lag_ns / NS_PER_S:,.0f} s late at speed {clock.speed():g}; "
                    "what is left of the feed moves to the time of now, play it more slowly"
                )
            if self._stop.is_set():
                return


def move_to_now(sources: Sequence["CapturedFeed | SimulatedFeed"]) -> None:
    """Shift feeds together; the earliest begins now."""
    shift_ns = _whole_ms(clock.now_ns() - min(source.begins_ns for source in sources)) + NS_PER_MS
    for source in sources:
        source.shift_ns = shift_ns


def _whole_ms(time_ns: int) -> int:
    return time_ns // NS_PER_MS * NS_PER_MS


def _stamp(path: Path, line: bytes) -> tuple[int, int]:
    stamp = stamp_of(line)
    if stamp is None:
        raise CaptureError(path, "a line does not begin with a local receive time; copy the file again")
    return stamp
