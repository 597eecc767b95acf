"""A live feed's lines through reader and screen."""

from pathlib import Path

import msgspec
import numpy as np

from lobsmith.errors import CaptureError
from lobsmith.market.events import END, GAP, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.quality.screen import Screen
from lobsmith.market.session import without_restated
from lobsmith.market.venues.binance.reader import BinanceReader
from lobsmith.params import ScreenParams

_DECIMALS = 8


class LiveFeed:
    """Screened events of a live feed, the same as from reading its capture, however both are cut.

    An unreadable line ends the segment; the next snapshot begins another.

    Attributes:
        ledger: the account since the last unreadable line.
        faults: unreadable lines.
        fault: the last one's error.
    """

    def __init__(self, name: str, instrument: Instrument, limits: ScreenParams) -> None:
        """Begin without a book; messages use `name`."""
        self._name = name
        self._instrument = instrument
        self._limits = limits
        self.faults = 0
        self.fault = ""
        self._begin()

    def push(self, text: bytes) -> Events:
        """Read whole lines with their line feeds; return screened events."""
        try:
            batch = self._reader.push(text)
        except CaptureError as error:
            self.faults += 1
            self.fault = str(error)
            self._begin()
            return _gap()
        return concatenate([]) if batch is None else without_restated(self._screen.push(batch))

    @property
    def last_ns(self) -> int:
        """Local time of the last message, ns since 1970 UTC."""
        return self._screen.last_ns

    @property
    def sequence(self) -> int:
        """Update id of the last depth message; 0 without a valid book."""
        depth = self._screen.depth()
        return 0 if depth is None else depth[0]

    def snapshot(self) -> bytes | None:
        """Return the book as the venue's REST snapshot (JSON); None without a valid book."""
        depth = self._screen.depth()
        if depth is None:
            return None
        sequence, bids, asks = depth
        tick = self._instrument.tick_size
        sides = {
            name: [(f"{price * tick:.{_DECIMALS}f}", f"{size:.{_DECIMALS}f}") for price, size in side]
            for name, side in (("bids", bids), ("asks", asks))
        }
        return msgspec.json.encode({"lastUpdateId": sequence, **sides})

    def _begin(self) -> None:
        self.ledger = Ledger()
        self.ledger.begin_file(Path(self._name))
        self._reader = BinanceReader((), self.ledger, instrument=self._instrument)
        self._screen = Screen(self._limits, self.ledger, ticker_feed=True)


def _gap() -> Events:
    zero = np.zeros(1, np.int64)
    return Events(
        exchange_time=zero,
        local_time=zero,
        kind=np.full(1, GAP, np.uint8),
        side=np.zeros(1, np.int8),
        flags=np.full(1, END, np.uint8),
        price=zero,
        size=np.zeros(1),
        sequence=zero,
    )
