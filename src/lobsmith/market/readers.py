"""From capture files to screened events and their account."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lobsmith.market.capture_reader import Batch, CaptureReader
from lobsmith.market.events import LEVEL, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.quality.screen import Screen
from lobsmith.market.session import Accounting, Session, close_account, without_restated
from lobsmith.market.venues.formats import open_reader
from lobsmith.params import ScreenParams

_MESSAGES = 1 << 16


class ScreenedFeed:
    """Screened events of one instrument, in bounded memory.

    Args:
        reader: the source; shares the ledger.
        ledger: counts and quarantines records.
        limits: the screen's thresholds.
        sources: file names, for display.
    """

    def __init__(
        self, reader: CaptureReader, ledger: Ledger, limits: ScreenParams | None, sources: tuple[str, ...]
    ) -> None:
        self.sources = sources
        self._reader = reader
        self._ledger = ledger
        self._limits = limits or ScreenParams()
        self._screen: Screen | None = None
        self._level_updates = 0

    @property
    def instrument(self) -> Instrument:
        """What is traded; known from the first events on."""
        return self._reader.instrument

    def __iter__(self) -> Iterator[Events]:
        """Read everything, once.

        Raises:
            CaptureError: a file cannot be used.
        """
        for batch in self._reader.batches():
            self._level_updates += int(np.count_nonzero(batch.events.kind == LEVEL))
            if self._screen is None:
                self._screen = Screen(self._limits, self._ledger, ticker_feed=self._reader.ticker_feed)
            yield self._screen.push(batch)

    def accounting(self) -> Accounting:
        """Return the account, once all is read."""
        screen = self._screen or Screen(self._limits, self._ledger, ticker_feed=True)
        return close_account(self._ledger, screen, self._level_updates)

    def checks(self) -> dict[str, Any]:
        """Return the reader's own checks, e.g. agreement with a venue's snapshots."""
        checks: dict[str, Any] = getattr(self._reader, "checks", {})
        return checks


def open_captures(
    paths: Sequence[Path], limits: ScreenParams | None = None, quarantine: TextIO | None = None
) -> ScreenedFeed:
    """Open files of one instrument, in order, as one feed.

    Args:
        paths: the files.
        limits: the screen's thresholds.
        quarantine: receives a CSV line per quarantined record.

    Raises:
        CaptureError: the first file cannot be read or is of no known format.
        DataError: no files were given.
    """
    ledger = Ledger(quarantine)
    return ScreenedFeed(open_reader(paths, ledger), ledger, limits, tuple(path.name for path in paths))


def read_captures(paths: Sequence[Path], limits: ScreenParams | None = None) -> Session:
    """Read files of one instrument, in order, into memory.

    Raises:
        CaptureError: a file cannot be used.
        DataError: no files were given.
    """
    feed = open_captures(paths, limits)
    events = concatenate([without_restated(part) for part in feed])
    return Session(feed.instrument, events, feed.accounting(), feed.sources)


class _SessionReader:
    ticker_feed = True

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self.instrument = session.instrument
        self._events = session.events
        a = session.accounting
        ledger.records, ledger.depth_messages, ledger.tickers = a.records, a.depth_messages, a.tickers
        ledger.trades, ledger.snapshots = a.trades, a.snapshots

    def batches(self) -> Iterator[Batch]:
        bounds = self._events.message_bounds()
        for first in range(0, len(bounds) - 1, _MESSAGES):
            start, stop = bounds[first], bounds[min(first + _MESSAGES, len(bounds) - 1)]
            events = self._events.slice(start, stop)
            yield Batch(events, np.zeros(len(events), np.int64))


def screen_session(
    session: Session, limits: ScreenParams | None = None, quarantine: TextIO | None = None
) -> ScreenedFeed:
    """Screen a session in memory; a message is a record."""
    ledger = Ledger(quarantine)
    for source in session.sources:
        ledger.begin_file(Path(source))
    return ScreenedFeed(_SessionReader(session, ledger), ledger, limits, session.sources)
