"""Reader of Binance raw captures: spot, USD-M and COIN-M futures.

A capture is one message a line, plain or gzip: `<local receive time, ns since 1970 UTC> <JSON>`. The JSON is a message
of the combined stream (`{"stream": …, "data": …}`) or of a single one, or the answer of the REST depth snapshot. Files
given together are one stream.

Depth differences change a book that a snapshot began. Both venues' rules come down to one when each difference is
described by the update id *before* its first change (`start`: spot `U - 1`, futures `pu`) and that of its last (`u`):
differences follow each other when `start` equals the previous `u`; the first after a snapshot must have
`start <= lastUpdateId <= u`, older ones being dropped. For futures that also admits a snapshot taken between two
differences, whose ids have holes there; nothing can be lost, since `pu` says that nothing came between.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from lobsmith.errors import CaptureError
from lobsmith.market.binance_messages import STAMP_DIGITS, Line, Message, sniff, to_nanoseconds
from lobsmith.market.captures import line_batches
from lobsmith.market.events import DTYPES, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.market.payloads import (
    ERRORS,
    ITEM_DTYPE,
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
from lobsmith.market.session import Session, account

__all__ = ["FORMAT", "KNOWN", "read", "sniff"]

FORMAT = "Binance raw capture (<local ns> <JSON message> a line)"

SPOT, USDM, COINM = "binance-spot", "binance-usdm", "binance-coinm"

KNOWN = {
    (SPOT, "BTCUSDT"): (0.01, 0.00001),
    (SPOT, "ETHUSDT"): (0.01, 0.0001),
    (USDM, "BTCUSDT"): (0.1, 0.001),
    (USDM, "ETHUSDT"): (0.01, 0.001),
    (COINM, "BTCUSD_PERP"): (0.1, 1.0),
    (COINM, "ETHUSD_PERP"): (0.01, 1.0),
}
"""Tick and lot size of well-known instruments; of others they are the greatest common divisors seen."""

UNSYNCHRONISED = "unsynchronised"
OTHER_STREAM = "other stream"

_COINM_SYMBOL = re.compile(r"[A-Z0-9]+USD_(PERP|\d{6})")
_PARTIAL_DEPTH = re.compile(r"@depth(5|10|20)(@|$)")
_EARLIEST = 10**18  # 2001, and the smallest number of 19 digits
_BUFFERED = 10_000
_CLOCK_TOLERANCE_NS = 1_000_000_000


class _Difference(NamedTuple):
    exchange: int
    start: int
    last: int
    bids: Raw
    asks: Raw
    line: int


class _Reader:
    """The state of one stream while its lines pass."""

    def __init__(self) -> None:
        self.path = Path()
        self.starts: list[tuple[int, Path]] = []  # number of the first line of each file within the stream
        self.line = 0
        self.first_local = 0
        self.local = _EARLIEST
        self.clock_steps = 0
        self.decode = msgspec.json.Decoder(Line).decode
        self.symbol = ""
        self.futures: bool | None = None
        self.paired = False
        # Continuity.
        self.synchronised = False
        self.fresh = False  # no difference since the snapshot
        self.last = -1
        self.buffer: deque[_Difference] = deque()
        # The account.
        self.depth = self.tickers = self.trades = self.snapshots = self.breaks = self.segments = 0
        self.aside: Counter[str] = Counter()
        # What waits for the compiled parser: flat rows of ITEM_DTYPE, and raw values.
        self.items: list[int] = []
        self.values: list[Raw] = []
        self.parts: list[Events] = []
        self.divisors = new_divisors()
        self.unusable = np.zeros(2, np.int64)

    def fail(self, what: str, line: int | None = None) -> CaptureError:
        """Return an error at a line of the stream, by default the current one."""
        number = self.line if line is None else line
        start, path = next(entry for entry in reversed(self.starts) if entry[0] <= number)
        return CaptureError(path, what, line=number - start + 1)

    def read(self, path: Path) -> None:
        """Read one file to its end."""
        self.path = path
        self.starts.append((self.line, path))
        for lines in line_batches(path):
            if not self.line:
                self.first_local = int(lines[0][:STAMP_DIGITS]) if lines[0][:STAMP_DIGITS].isdigit() else 0
            self.take(lines)
            self.flush()

    def take(self, lines: list[bytes]) -> None:
        """Read whole lines; the hot loop of ingest."""
        decode, items, values, aside = self.decode, self.items, self.values, self.aside
        for text in lines:
            stamp = text[:STAMP_DIGITS]
            if not stamp.isdigit() or text[STAMP_DIGITS : STAMP_DIGITS + 1] != b" ":
                raise self.fail("a line must begin with the local receive time, ns in 19 digits, and a space")
            local = int(stamp)
            if not self.local <= local < 2**63:
                local = self.step_back(local)
            self.local = local
            try:
                line = decode(text[STAMP_DIGITS:])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self.unreadable(text[STAMP_DIGITS:], error)
                self.line += 1
                continue
            message = line.data or line
            event = message.event
            if event == "bookTicker" or (not event and message.bid_size and message.ask_size):
                if message.symbol != self.symbol:
                    self.name_symbol(message.symbol)
                self.tickers += 1
                if self.synchronised:
                    exchange = message.transaction or message.time
                    items.extend((OP_TICKER, local, exchange, message.last, self.line))
                    values.extend((message.bids, message.bid_size, message.asks, message.ask_size))
                else:
                    aside[UNSYNCHRONISED] += 1
            elif event == "trade":
                if message.symbol != self.symbol:
                    self.name_symbol(message.symbol)
                self.trades += 1
                if message.execution != "MARKET":
                    aside["trade outside the book"] += 1
                elif message.maker is None:
                    raise self.fail("a trade without its side (m)")
                else:
                    exchange = message.transaction or message.time
                    side = OP_SELL if message.maker else OP_BUY
                    items.extend((side, local, exchange, message.trade, self.line))
                    values.extend((message.price, message.quantity))
            elif event == "depthUpdate" and not _PARTIAL_DEPTH.search(line.stream):
                if message.symbol != self.symbol:
                    self.name_symbol(message.symbol)
                self.take_difference(message)
            elif line.snapshot >= 0 and not line.stream:
                self.take_snapshot(line)
            else:
                aside[OTHER_STREAM] += 1
            self.line += 1

    def step_back(self, local: int) -> int:
        """Return the time that a line before its predecessor gets."""
        if local >= 2**63 or self.local == _EARLIEST:
            raise self.fail("the local receive time is out of range; it is ns since 1970 UTC")
        if self.line == self.starts[-1][0] and local < self.local - _CLOCK_TOLERANCE_NS:
            raise self.fail(f"begins before {self.starts[-2][1]} ends; give the files in the order of their times")
        self.clock_steps += 1
        return self.local

    def unreadable(self, text: bytes, error: Exception) -> None:
        """Set a message of another stream aside; refuse anything else that does not decode."""
        try:
            line = msgspec.json.decode(text, type=dict[str, Raw])
            data = line.get("data", Raw(text))
            listed = bytes(data).lstrip().startswith(b"[")  # streams of all symbols at once
            event = b"" if listed else bytes(msgspec.json.decode(data, type=dict[str, Raw]).get("e", Raw(b'""')))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self.fail("not a JSON message") from error
        ours = (b'"depthUpdate"', b'"bookTicker"', b'"trade"', b'""')
        if not listed and event in ours:
            raise self.fail(f"a message of the wrong shape: {' '.join(str(error).split())[:200]}") from error
        self.aside[OTHER_STREAM] += 1

    def name_symbol(self, symbol: str) -> None:
        """Take the first message's symbol as the session's; refuse a second one."""
        if not symbol or not symbol.isprintable() or " " in symbol or len(symbol) > 40:
            raise self.fail("a message without a usable symbol (s)")
        if self.symbol:
            raise self.fail(f"messages of {self.symbol} and of {symbol}; a session has one instrument: split them")
        self.symbol = symbol

    def take_difference(self, message: Message) -> None:
        """Apply a depth message, or buffer it until a snapshot comes."""
        self.depth += 1
        futures = message.previous != -2
        if self.futures is None:
            self.futures, self.paired = futures, bool(message.pair)
        if futures != self.futures:
            raise self.fail("depth messages of spot and of futures in one capture; ingest them apart")
        if message.last < 0 or message.first < 0 or message.previous < -2:
            raise self.fail("a depth message without its update ids (U, u)")
        start = message.previous if futures else message.first - 1
        exchange = message.transaction or message.time
        self.apply(_Difference(exchange, start, message.last, message.bids, message.asks, self.line), self.local)

    def apply(self, difference: _Difference, local: int) -> None:
        """Apply a difference if it follows what was applied before; on a break begin to wait for a snapshot."""
        if self.synchronised and self.fresh and self.is_older(difference, self.last):
            self.aside["older than the snapshot"] += 1
            return
        if self.synchronised:
            fits = difference.start <= self.last if self.fresh else difference.start == self.last
            if fits:
                self.fresh = False
                self.last = difference.last
                self.items.extend((OP_DEPTH, local, difference.exchange, difference.last, difference.line))
                self.values.extend((difference.bids, difference.asks))
                return
            self.breaks += 1
            self.synchronised = False
            self.items.extend((OP_LOST, local, difference.exchange, difference.last, difference.line))
        self.buffer.append(difference)
        if len(self.buffer) > _BUFFERED:
            self.buffer.popleft()
            self.aside[UNSYNCHRONISED] += 1

    def is_older(self, difference: _Difference, snapshot: int) -> bool:
        """Tell whether a snapshot holds all of a difference, in the words of the venue's documentation."""
        return difference.last < snapshot if self.futures else difference.last <= snapshot

    def take_snapshot(self, line: Line) -> None:
        """Begin the book anew from a REST snapshot and apply the buffered differences to it."""
        self.snapshots += 1
        if self.synchronised and line.snapshot <= self.last:
            self.aside["redundant snapshot"] += 1
            return
        waiting = [kept for kept in self.buffer if not self.is_older(kept, line.snapshot)]
        if waiting and waiting[0].start > line.snapshot:
            self.aside["snapshot older than the differences"] += 1
            return
        if not self.synchronised:
            self.segments += 1
        exchange = line.transaction or line.time
        self.items.extend((OP_SNAPSHOT, self.local, exchange, line.snapshot, self.line))
        self.values.extend((line.snapshot_bids, line.snapshot_asks))
        self.synchronised = self.fresh = True
        self.last = line.snapshot
        buffered, self.buffer = self.buffer, deque()
        for difference in buffered:
            self.apply(difference, self.local)

    def flush(self) -> None:
        """Parse what waits into columns."""
        items = np.array(self.items, np.int64).view(ITEM_DTYPE)
        text = np.frombuffer(b"\n".join([*self.values, b""]), np.uint8)
        self.items.clear()
        self.values.clear()
        wrong = to_nanoseconds(items["exchange_time"])
        if wrong >= 0:
            raise self.fail("an exchange time out of range", int(items["line"][wrong]))
        rows = np.empty(int(np.count_nonzero(text == ord('"'))) // 4 + len(items), ROW_DTYPE)
        count, error, item = parse(text, items, rows, self.divisors, self.unusable)
        if error:
            raise self.fail(ERRORS[error], int(items["line"][item]))
        self.parts.append(Events(*(np.ascontiguousarray(rows[name][:count]) for name in DTYPES)))

    def finish(self, sources: tuple[str, ...]) -> Session:
        """Turn all that was read into a session."""
        if not self.segments:
            raise CaptureError(
                self.starts[0][1],
                "no depth snapshot fits the depth messages; record one after the stream has begun"
                if self.snapshots
                else "no depth snapshot (a line with lastUpdateId); a session over midnight has its snapshot in its "
                "first file: give its files together, in order",
            )
        if self.buffer:
            self.aside[UNSYNCHRONISED] += len(self.buffer)
        for reason, count in zip(("ticker of an empty side", "trade of price or size 0"), self.unusable, strict=True):
            if count:
                self.aside[reason] += int(count)
        events = concatenate(self.parts)
        self.parts.clear()
        if not self.tickers:
            raise CaptureError(self.starts[0][1], "no bookTicker messages; record that stream too")
        venue = USDM if self.futures else SPOT
        if self.paired or _COINM_SYMBOL.fullmatch(self.symbol):
            venue = COINM
        instrument, tick = self.instrument(venue)
        events.price[:] //= tick
        set_aside = dict(sorted(self.aside.items()))
        accounting = msgspec.structs.replace(
            account(events),
            messages=self.line,
            depth_messages=self.depth,
            tickers=self.tickers,
            trades=self.trades,
            snapshots=self.snapshots,
            kept=self.line - sum(set_aside.values()),
            set_aside=set_aside,
            clock_steps=self.clock_steps,
            segments=self.segments,
            seconds=(self.local - self.first_local) / 1e9,
            first_ns=self.first_local,
            last_ns=self.local,
        )
        return Session(instrument, events, accounting, sources)

    def instrument(self, venue: str) -> tuple[Instrument, int]:
        """Return the instrument and its tick in 10**-8: the table's, if all prices are multiples of it."""
        (price, price_decimals), (size, size_decimals) = (map(int, row) for row in self.divisors)
        tick = max(1, price) * 10 ** (PRICE_DECIMALS - price_decimals)
        lot = max(1, size) / 10**size_decimals
        tick_size = tick / PRICE_SCALE
        known = KNOWN.get((venue, self.symbol))
        if known:
            known_tick = round(known[0] * PRICE_SCALE)
            if tick % known_tick == 0:
                tick, tick_size = known_tick, known[0]
            # Venues quote dust below the lot; the lot is a unit of features and must not differ from file to file.
            lot = known[1]
        return Instrument(venue=venue, symbol=self.symbol, tick_size=tick_size, lot_size=lot), tick


def read(paths: Sequence[Path]) -> Session:
    """Read capture files, in order, as one stream.

    Local times never decrease (a step back is counted and evened out); buffered differences get the local time of the
    snapshot that lets them in.

    Raises:
        CaptureError: a file is missing, empty, damaged, of another format or another instrument, out of order, or the
            whole has no usable snapshot or no tickers.
    """
    reader = _Reader()
    for path in paths:
        reader.read(path)
    return reader.finish(tuple(path.name for path in paths))
