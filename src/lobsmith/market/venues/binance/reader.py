"""Reader of Binance raw captures: spot, USD-M and COIN-M futures.

One message a line, plain or compressed: `<local receive time, ns (19 digits) or µs (16)> <JSON>`. The JSON is a message
of the combined stream (`{"stream": …, "data": …}`) or of a single one, a REST depth snapshot, or a lost connection's
mark (`{"gap": …}`). Files given together are one stream.
"""

import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from lobsmith.errors import CaptureError
from lobsmith.market.capture_reader import Batch, Format
from lobsmith.market.events import DTYPES, Events
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.market.payloads import (
    ERRORS,
    OP_BUY,
    OP_DEPTH,
    OP_LOST,
    OP_SELL,
    OP_SNAPSHOT,
    OP_TICKER,
    PRICE_DECIMALS,
    PRICE_SCALE,
    ROW_DTYPE,
    new_divisors,
    parse,
)
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.market.venues.binance.depth import Continuity, DepthUpdate, Outcome, Value
from lobsmith.market.venues.binance.items import Items, note_trade
from lobsmith.market.venues.binance.messages import Line, sniff, stamp_of, to_nanoseconds
from lobsmith.market.venues.binance.scan import DEPTH, LINE_DTYPE, SLOW, TICKER, TRADE, scan
from lobsmith.market.venues.captures import text_batches
from lobsmith.market.venues.prefetch import prefetch
from lobsmith.units import NS_PER_S

__all__ = ["FORMAT", "KNOWN", "BinanceReader"]

SPOT, USDM, COINM = "binance-spot", "binance-usdm", "binance-coinm"

KNOWN = {
    (SPOT, "BTCUSDT"): (0.01, 0.00001),
    (SPOT, "ETHUSDT"): (0.01, 0.0001),
    (USDM, "BTCUSDT"): (0.1, 0.001),
    (USDM, "ETHUSDT"): (0.01, 0.001),
    (COINM, "BTCUSD_PERP"): (0.1, 1.0),
    (COINM, "ETHUSD_PERP"): (0.01, 1.0),
    (SIMULATED.venue, SIMULATED.symbol): (SIMULATED.tick_size, SIMULATED.lot_size),
}
"""Tick and lot; of other instruments the files' greatest common divisors."""

_COINM_SYMBOL = re.compile(r"[A-Z0-9]+USD_(PERP|\d{6})")
_SYMBOL = re.compile(rb'"s":"([\w.-]{1,40})"')
_PARTIAL_DEPTH = re.compile(r"@depth(5|10|20)(@|$)")
_EARLIEST = 10**18  # 2001, and the smallest number of 19 digits
_CLOCK_TOLERANCE_NS = NS_PER_S
_ROW_BYTES = 9
"""Smallest level with its comma, bytes."""


class BinanceReader:
    """Reads one instrument's stream."""

    def __init__(
        self, paths: Sequence[Path], ledger: Ledger, *, scan: bool = False, instrument: Instrument | None = None
    ) -> None:
        """Read nothing yet.

        Args:
            paths: files in order; none if lines are pushed.
            ledger: counts and quarantines records.
            scan: only compute the divisors of prices and sizes.
            instrument: if known; its feed has tickers.
        """
        self.paths = paths
        self.ledger = ledger
        self._scan = scan
        self._instrument = instrument
        # In 10**-PRICE_DECIMALS.
        self._tick = 1 if instrument is None else round(instrument.tick_size * PRICE_SCALE)
        self._place = 0
        self._local = _EARLIEST
        self._decode = msgspec.json.Decoder(Line).decode
        self._symbol = ""
        self._futures: bool | None = None
        self._paired = False
        self._trades = np.array([-1, 0])  # newest id, skipped ids
        self._depth = Continuity(ledger)
        self._begun = False
        self._parsed = False
        self.ticker_feed = True
        """Whether there are tickers (older captures omit them); known from the first batch on."""
        self._items = Items()
        self._held_from: int | None = None  # the first item of an unresolved hold
        self._divisors = new_divisors()

    @property
    def instrument(self) -> Instrument:
        """What is traded."""
        if self._instrument is None:
            raise ValueError("the instrument is known once the first batch has come")
        return self._instrument

    def batches(self) -> Generator[Batch, None, None]:
        """See `CaptureReader.batches`."""
        for path in self.paths:
            self._place = self.ledger.begin_file(path)
            first = True
            for text in prefetch(text_batches(path)):
                if first:
                    self._check_order(text)
                    first = False
                batch = self.push(text)
                if batch is not None:
                    yield batch
        self._finish()
        self._detect_tickers()
        yield self._parse()

    def push(self, text: bytes) -> Batch | None:
        """Read whole lines with their line feeds; the events do not depend on how a stream is cut.

        `ledger.begin_file` must precede it. Returns None before the first depth message, while the venue is unknown.

        Raises:
            CaptureError: a line is invalid; the reader cannot be used further.
        """
        self._read(text)
        if self._futures is None:
            self._depth.keep(text)
            self._items.keep(0)
            return None
        self._detect_tickers()
        return self._parse()

    def _detect_tickers(self) -> None:
        if not self._parsed:
            self.ticker_feed = self._instrument is not None or self.ledger.tickers > 0
        self._parsed = True

    def _check_order(self, text: bytes) -> None:
        stamp = stamp_of(text)
        if len(self.ledger.files) > 1 and stamp is not None and stamp[0] < self._local - _CLOCK_TOLERANCE_NS:
            raise self.ledger.error(
                f"begins before {self.ledger.files[-2]} ends; give the files in the order of their times",
                self._place + 1,
            )

    def _read(self, text: bytes) -> None:
        """Read lines: depth and irregular messages singly, tickers and trades between them together."""
        lines = np.empty(text.count(b"\n"), LINE_DTYPE)
        symbol = self._symbol.encode()
        if not symbol:
            match = _SYMBOL.search(text)
            symbol = match[1] if match else b""
        scan(self._items.begin(text), np.frombuffer(symbol, np.uint8), lines)
        kinds = lines["kind"]
        self.ledger.records += len(lines)
        if not self.ticker_feed and (kinds == TICKER).any():
            raise self._late_ticker(self._place + 1 + int(np.argmax(kinds == TICKER)))
        self.ledger.tickers += int(np.count_nonzero(kinds == TICKER))
        self.ledger.trades += int(np.count_nonzero(kinds == TRADE))
        if not self._symbol and (kinds != SLOW).any():
            self._set_symbol(symbol.decode())
        base = self._place + 1
        single = np.flatnonzero((kinds == SLOW) | (kinds == DEPTH))
        position = 0
        for at, line in zip(single.tolist(), lines[single].tolist(), strict=True):
            self._read_fast(lines, position, at, base)
            position = at + 1
            start, stop, kind, local, exchange, first, last, previous, paired, _sell, values = line
            self._place = base + at
            if kind == DEPTH:
                self._local = local
                self._handle_difference(exchange, first, last, previous, paired, *map(tuple, values[:2]))
            else:
                self._read_slow(text[start:stop])
            if self._held_from is not None and self._depth.overdue(self._local):
                self._void(QuarantineReason.GAP)
        self._read_fast(lines, position, len(lines), base)
        self._place = base + len(lines) - 1
        self.ledger.missing_trades = int(self._trades[1])

    def _read_fast(self, lines: "np.ndarray[Any, Any]", start: int, stop: int, base: int) -> None:
        if start == stop:
            return
        self._local = int(lines["local"][stop - 1])
        if not self._depth.synchronised:
            for at in np.flatnonzero(lines["kind"][start:stop] == TICKER) + start:
                self.ledger.quarantine(self._depth.waiting_for, base + int(at), int(lines["local"][at]))
        self._items.add_lines(lines, start, stop, base, self._trades, tickers=self._depth.synchronised)

    def _read_slow(self, text: bytes) -> None:
        stamp = stamp_of(text)
        if stamp is None:
            raise self._fail("a line must begin with the local receive time, ns in 19 digits or µs in 16, and a space")
        local, end = stamp
        self._local = local
        if not _EARLIEST <= local < 2**63:
            raise self._fail("the local receive time is out of range; it is ns since 1970 UTC")
        try:
            line = self._decode(text[end:])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._unreadable(text[end:], error)
            return
        message = line.data or line
        event = message.event
        exchange = message.transaction or message.time
        if event == "bookTicker" or (not event and message.bid_size and message.ask_size):
            self._set_symbol(message.symbol)
            if not self.ticker_feed:
                raise self._late_ticker(self._place)
            self.ledger.tickers += 1
            if self._depth.synchronised:
                values = message.bids, message.bid_size, message.asks, message.ask_size
                self._items.add(OP_TICKER, local, exchange, message.last, self._place, *map(bytes, values))
            else:
                self.ledger.quarantine(self._depth.waiting_for, self._place, local)
        elif event == "trade":
            self._set_symbol(message.symbol)
            self.ledger.trades += 1
            note_trade(self._trades, message.trade)
            if message.execution != "MARKET":
                self.ledger.quarantine(QuarantineReason.NO_BOOK_TRADE, self._place, local)
            elif message.maker is None:
                raise self._fail("a trade without its side (m)")
            else:
                side = OP_SELL if message.maker else OP_BUY
                price, size = bytes(message.price), bytes(message.quantity)
                self._items.add(side, local, exchange, message.trade, self._place, price, size)
        elif event == "depthUpdate" and not _PARTIAL_DEPTH.search(line.stream):
            self._set_symbol(message.symbol)
            if message.last < 0 or message.first < 0 or message.previous < -2:
                raise self._fail("a depth message without its update ids (U, u)")
            self._handle_difference(
                exchange,
                message.first,
                message.last,
                message.previous,
                bool(message.pair),
                bytes(message.bids),
                bytes(message.asks),
            )
        elif line.snapshot >= 0 and not line.stream:
            self._handle_snapshot(line)
        elif line.gap is not None:
            self._void(QuarantineReason.RECONNECT)
            self.ledger.quarantine(QuarantineReason.RECONNECT, self._place, local)
        else:
            self.ledger.quarantine(QuarantineReason.OTHER_STREAM, self._place, local)

    def _fail(self, message: str, place: int | None = None) -> CaptureError:
        return self.ledger.error(message, self._place if place is None else place)

    def _late_ticker(self, place: int) -> CaptureError:
        return self._fail("bookTicker messages begin long after the depth; split the file before this line", place)

    def _unreadable(self, text: bytes, error: Exception) -> None:
        """Quarantine a message of another stream; raise for anything else."""
        try:
            line = msgspec.json.decode(text, type=dict[str, Raw])
            data = line.get("data", Raw(text))
            listed = bytes(data).lstrip().startswith(b"[")  # streams of all symbols at once
            event = b"" if listed else bytes(msgspec.json.decode(data, type=dict[str, Raw]).get("e", Raw(b'""')))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self._fail("not a JSON message") from error
        known = (b'"depthUpdate"', b'"bookTicker"', b'"trade"', b'""')
        if not listed and event in known:
            raise self._fail(f"a message of the wrong shape: {' '.join(str(error).split())[:200]}") from error
        self.ledger.quarantine(QuarantineReason.OTHER_STREAM, self._place, self._local)

    def _set_symbol(self, symbol: str) -> None:
        if symbol == self._symbol and symbol:
            return
        # It names a folder.
        if not re.fullmatch(r"\w[\w.-]{0,39}", symbol):
            raise self._fail("a message without a usable symbol (s)")
        if self._symbol:
            raise self._fail(f"messages of {self._symbol} and of {symbol}; a session has one instrument: split them")
        self._symbol = symbol

    def _handle_difference(
        self, exchange: int, first: int, last: int, previous: int, paired: int, bids: Value, asks: Value
    ) -> None:
        self.ledger.depth_messages += 1
        futures = previous != -2
        if self._futures is None:
            self._futures, self._paired = futures, bool(paired)
            self._depth.inclusive = futures
        if futures != self._futures:
            raise self._fail("depth messages of spot and of futures in one capture; ingest them apart")
        start = previous if futures else first - 1
        outcome = self._depth.process(DepthUpdate(self._local, exchange, start, last, bids, asks, self._place))
        if outcome is Outcome.APPLIED:
            self._apply_ready()
        elif outcome is Outcome.HELD:
            if self._held_from is None:
                self._held_from = self._items.count
        elif outcome is Outcome.LOST:
            self._void(QuarantineReason.GAP)

    def _apply_ready(self) -> None:
        for update in self._depth.ready:
            self._items.add(
                OP_DEPTH, update.local, update.exchange, update.last, update.place, update.bids, update.asks
            )
        if not self._depth.holding:
            self._held_from = None

    def _handle_snapshot(self, line: Line) -> None:
        self.ledger.snapshots += 1
        if self._held_from is not None:
            self._void(QuarantineReason.GAP)
        if not self._depth.begin(line.snapshot, self._place, self._local):
            return
        self._begun = True
        exchange = line.transaction or line.time
        values = bytes(line.snapshot_bids), bytes(line.snapshot_asks)
        self._items.add(OP_SNAPSHOT, self._local, exchange, line.snapshot, self._place, *values)
        self._apply_ready()
        if not self._depth.synchronised:
            self._items.add(OP_LOST, self._local, 0, 0, self._place)

    def _void(self, reason: QuarantineReason) -> None:
        """Void the book from the hold, or from here; quarantine the tickers since."""
        if self._depth.synchronised:
            held = self._items.cut(self._items.count if self._held_from is None else self._held_from)
            self._items.add(OP_LOST, int(held["local_time"][0]) if len(held) else self._local, 0, 0, self._place)
            tickers = held["op"] == OP_TICKER
            self._items.add_items(held[~tickers])
            self.ledger.quarantine_all(reason, held["place"][tickers], held["local_time"][tickers])
        self._held_from = None
        self._depth.void(reason)

    def _finish(self) -> None:
        if self._held_from is not None:
            self._void(QuarantineReason.GAP)
        self._depth.finish()
        self._futures = bool(self._futures)
        if self._scan:
            return
        if not self._begun:
            raise CaptureError(
                self.paths[0],
                "no depth snapshot fits the depth messages; capture one after the stream has begun"
                if self.ledger.snapshots
                else "no depth snapshot (a line with lastUpdateId); a session over midnight has its snapshot in its "
                "first file: give its files together, in order",
            )

    def _parse(self) -> Batch:
        items, text = self._items.items(self._held_from), self._items.text()
        wrong = to_nanoseconds(items["exchange_time"])
        if wrong >= 0:
            raise self._fail("an exchange time out of range", int(items["place"][wrong]))
        rows = np.empty(len(text) // _ROW_BYTES + 2 * len(items), ROW_DTYPE)
        places = np.empty(len(rows), np.int64)
        unusable = np.zeros(len(items), np.bool_)
        count, error, item = parse(text, items, rows, places, self._divisors, unusable)
        if error:
            raise self._fail(ERRORS[error], int(items["place"][item]))
        for entry in items[unusable]:
            reason = QuarantineReason.EMPTY_TICKER if entry["op"] == OP_TICKER else QuarantineReason.EMPTY_TRADE
            self.ledger.quarantine(reason, int(entry["place"]), int(entry["local_time"]))
        self._depth.keep(self._items.raw)
        self._items.keep(self._held_from)
        if self._held_from is not None:
            self._held_from = 0
        if self._instrument is None and not self._scan and self._futures is not None:
            self._set_instrument()
        events = Events(*(np.ascontiguousarray(rows[name][:count]) for name in DTYPES))
        ticks, rest = np.divmod(events.price, self._tick)
        if rest.any():
            at = int(np.argmax(rest > 0))
            raise self._fail(
                f"a price of {events.price[at] / PRICE_SCALE} is no multiple of the tick, {self._tick / PRICE_SCALE}",
                int(places[at]),
            )
        events.price[:] = ticks
        return Batch(events, places[:count])

    @property
    def _venue(self) -> str:
        if self._symbol == SIMULATED.symbol:
            return SIMULATED.venue
        if self._paired or _COINM_SYMBOL.fullmatch(self._symbol):
            return COINM
        return USDM if self._futures else SPOT

    @classmethod
    def identify(cls, path: Path) -> str:
        """Return a file's `venue:symbol`."""
        reader = cls([path], Ledger(), scan=True)
        batches = reader.batches()
        next(batches)
        batches.close()
        return f"{reader._venue}:{reader._symbol}"

    def _set_instrument(self) -> None:
        """Set tick and lot: from the table, or the divisors of all files."""
        venue = self._venue
        tick, lot = self._tick_and_lot()
        known = KNOWN.get((venue, self._symbol))
        # Venues change ticks over the years.
        if known and tick % round(known[0] * PRICE_SCALE) == 0:
            tick, lot = round(known[0] * PRICE_SCALE), known[1]
        else:
            whole = BinanceReader(self.paths, Ledger(), scan=True)
            for _ in whole.batches():
                pass
            tick, lot = whole._tick_and_lot()
            # Dust below the lot occurs; the lot must not vary by file.
            lot = known[1] if known else lot
        self._tick = tick
        self._instrument = Instrument(venue=venue, symbol=self._symbol, tick_size=tick / PRICE_SCALE, lot_size=lot)

    def _tick_and_lot(self) -> tuple[int, float]:
        """Return tick, in 10**-PRICE_DECIMALS, and lot by the divisors."""
        (price, price_decimals), (size, size_decimals) = (map(int, row) for row in self._divisors)
        return max(1, price) * 10 ** (PRICE_DECIMALS - price_decimals), max(1, size) / 10**size_decimals


FORMAT = Format("Binance raw capture (<local ns> <JSON message> a line)", sniff, BinanceReader, BinanceReader.identify)
