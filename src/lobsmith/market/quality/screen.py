"""The screen: a feed's format-independent checks.

Good messages pass unchanged. An incident ends the segment with a `GAP`; its messages are quarantined and change only
the screen's own book. After it a `CLEAR` with the whole book begins the next segment, without a snapshot.

| incident           | begins when                                              | ends when |
|--------------------|----------------------------------------------------------|-----------|
| crossed, locked    | the book is so for longer than `crossed_ms`              | it no longer is |
| stale              | a message is `stale_ms` later than the clocks explain    | one is in time |
| negative latency   | one arrives `clock_tolerance_ms` before it was sent      | one does not |
| clock step         | local time goes back by more than the tolerance          | it has caught up |

A wrong lag that is constant over `clock_settle_ms` makes any incident a *clock step*; the offset is measured anew.
Crossed, locked, repeated or late tickers and repeated or late trades are quarantined without an incident. A silence
over `silence_ms` is a *stale* fault and ends the segment.

The clock offset is the smallest lag (local minus exchange time) of the first second, then slowly follows each second's
smallest. Without a ticker feed the screen writes a ticker after each change of the touch.
"""

import numpy as np
import numpy.typing as npt

from lobsmith.market.book import every_level
from lobsmith.market.capture_reader import Batch
from lobsmith.market.events import ASK, BID, DTYPES, Events
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.quality import screen_loop as loop
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.params import ScreenParams
from lobsmith.units import NS_PER_MS

_ROOM = 1 << 14

_REASONS = {
    loop.CROSSED: QuarantineReason.CROSSED,
    loop.LOCKED: QuarantineReason.LOCKED,
    loop.NEGATIVE: QuarantineReason.NEGATIVE_LATENCY,
    loop.STALE: QuarantineReason.STALE,
    loop.STEP: QuarantineReason.CLOCK_STEP,
    loop.DUPLICATE: QuarantineReason.DUPLICATE,
    loop.LATE: QuarantineReason.OUT_OF_ORDER,
}


class Screen:
    """One feed's screen.

    `params` are the limits, `ledger` counts what is quarantined; `ticker_feed`: whether the venue sends tickers.
    """

    def __init__(self, params: ScreenParams, ledger: Ledger, *, ticker_feed: bool) -> None:
        self._ledger = ledger
        self._state = np.zeros(1, loop.STATE_DTYPE)
        self._state["tolerance"] = int(params.clock_tolerance_ms * NS_PER_MS)
        self._state["stale_after"] = int(params.stale_ms * NS_PER_MS)
        self._state["silent_after"] = int(params.silence_ms * NS_PER_MS)
        self._state["settle"] = int(params.clock_settle_ms * NS_PER_MS)
        # Only an order log is crossed between the reports of one match.
        self._state["crossed_after"] = 0 if ticker_feed else int(params.crossed_ms * NS_PER_MS)
        self._state["ticker_feed"] = ticker_feed
        self._book = loop.new_book()
        self._room = _ROOM
        self._pending: list[tuple[int, int]] = []

    def push(self, batch: Batch) -> Events:
        """Screen whole messages; return what passes."""
        events, places = batch
        columns = tuple(getattr(events, name) for name in DTYPES)
        bounds = events.message_bounds()
        start = 0
        parts: list[npt.NDArray[np.void]] = []
        rows = np.empty(2 * len(events) + self._room, ROW_DTYPE)
        asides = np.empty(4 * len(bounds), loop.ASIDE_DTYPE)
        while start < len(bounds) - 1:
            start, written, left_out, short = loop.run(
                self._state, self._book, bounds, start, places, rows, asides, *columns
            )
            parts.append(rows[:written].copy())
            self._enter(asides[:left_out])
            if short:
                self._room = max(self._room, short)
                rows = np.empty(2 * len(events) + self._room, ROW_DTYPE)
        whole = np.concatenate(parts) if parts else np.empty(0, ROW_DTYPE)
        return Events(*(np.ascontiguousarray(whole[name]) for name in DTYPES))

    def finish(self) -> None:
        """Account for an incident that never ended."""
        incident = int(self._state["incident"][0])
        if incident:
            self._close_incident(incident)

    def _enter(self, asides: npt.NDArray[np.void]) -> None:
        """Enter quarantined records into the ledger, those of an incident at its end."""
        for entry in asides:
            reason, place, local = int(entry["reason"]), int(entry["place"]), int(entry["local_time"])
            if reason == loop.PENDING:
                self._pending.append((place, local))
            elif reason == loop.LOST:
                self._ledger.quarantine(QuarantineReason.GAP, place, local)
            elif reason >= loop.CLOSES:
                self._close_incident(reason - loop.CLOSES)
            else:
                self._ledger.fault(_REASONS[reason])
                if place >= 0:
                    self._ledger.quarantine(_REASONS[reason], place, local)

    def _close_incident(self, incident: int) -> None:
        self._ledger.fault(_REASONS[incident])
        self._ledger.quarantine_all(_REASONS[incident], *zip(*self._pending, strict=True)) if self._pending else None
        self._pending.clear()

    def depth(self) -> tuple[int, list[tuple[int, float]], list[tuple[int, float]]] | None:
        """Return the book's update id, bids and asks (ticks, size); None without a valid book."""
        book = self._book[0]
        if not (book["synchronised"] and self._state["open"][0]):
            return None
        sides = []
        for i, side in enumerate((BID, ASK)):
            count = int(book["inside"][i] + book["outside"][i])
            prices, sizes = np.empty(count, np.int64), np.empty(count)
            every_level(self._book, side, prices, sizes)
            sides.append(list(zip(prices.tolist(), sizes.tolist(), strict=True)))
        return int(book["depth_sequence"]), sides[0], sides[1]

    @property
    def clock_offset_ns(self) -> int:
        """Local minus exchange time without latency, ns; 0 where the venue gives no time."""
        return int(self._state["offset"][0]) if self._state["calibrated"][0] else 0

    @property
    def segments(self) -> int:
        """Segments begun."""
        return int(self._state["segments"][0])

    @property
    def crossed(self) -> int:
        """See `session.Accounting`."""
        return int(self._state["crossings"][0])

    @property
    def mid_changes(self) -> int:
        """Tickers that moved the mid."""
        return int(self._state["mid_changes"][0])

    @property
    def first_ns(self) -> int:
        """First local time, ns since 1970 UTC."""
        return int(self._state["first"][0])

    @property
    def last_ns(self) -> int:
        """Last local time, ns since 1970 UTC."""
        return int(self._state["local"][0])
