"""Readers of Bitstamp order logs; levels are sums of orders.

The *log* is the raw feed, `<local receive time, ms> <event> <JSON>` a line: order events, trades without a side, and
every few seconds the 20 best levels. The *orders* file is a CSV of order events.

- The feed reorders: events after an order's deletion are quarantined as out of order.
- Orders older than the capture are unknown until they change. A log's book is valid from the first snapshot with
  matching best prices. Snapshots are only compared; `PATIENCE` mismatches in a row end the segment until a match.
- A marketable order precedes its matches: the book is crossed for about 0.1 s, which the screen permits.
- Orders carry the second of their creation, not of the event: there is no exchange time.
- Of the two orders that lose a trade's quantity the one with the higher id is the aggressor; side 0 if not both are
  known.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from lobsmith.errors import CaptureError
from lobsmith.market.capture_reader import Batch, Format
from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, GAP, LEVEL, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.market.venues.captures import line_batches
from lobsmith.units import NS_PER_MS

INSTRUMENT = Instrument(venue="bitstamp", symbol="BTCUSD", tick_size=0.01, lot_size=1e-8)

PATIENCE = 20
"""Snapshots in a row that may differ; three seconds apart."""

_TICKS = 100  # a dollar
_LOTS = 10**8  # a bitcoin
_REMEMBERED = 1 << 20
"""Deleted orders kept, about four days' worth."""
_FILLS = 64
_DIGITS = 13  # of a local time
_HEADER = b"id,timestamp,exchange.timestamp,price,volume,action,direction"

_Text = Annotated[str, Meta(max_length=40)]


class _Order(Struct):
    id: Annotated[int, Meta(ge=0, lt=2**62)]
    price: _Text
    amount: _Text
    order_type: Annotated[int, Meta(ge=0, le=1)]


class _Trade(Struct):
    id: Annotated[int, Meta(ge=0, lt=2**62)]
    price: float
    amount: float


class _Snapshot(Struct):
    bids: list[tuple[_Text, _Text]]
    asks: list[tuple[_Text, _Text]]


class _Live(NamedTuple):
    side: int
    price: int
    lots: int


class _Fill(NamedTuple):
    lots: int
    order: int
    side: int


class OrderBook:
    """Orders by id and their sums by price, in ticks and lots."""

    def __init__(self) -> None:
        self.orders: dict[int, _Live] = {}
        self.levels: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
        self._heaps: dict[int, list[int]] = {BID: [], ASK: []}
        self._gone: dict[int, None] = {}

    def _add(self, side: int, price: int, lots: int) -> None:
        level = self.levels[side]
        before = level.get(price)
        total = (before or 0) + lots
        if total > 0:
            level[price] = total
            if before is None:
                heapq.heappush(self._heaps[side], -side * price)
        else:
            level.pop(price, None)

    def put(self, order: int, side: int, price: int, lots: int) -> list[tuple[int, int]] | None:
        """Create or change an order; return changed (side, price) pairs, None for a deleted order."""
        if order in self._gone:
            return None
        changed = [(side, price)]
        old = self.orders.get(order)
        if old is not None:
            self._add(old.side, old.price, -old.lots)
            if (old.side, old.price) != (side, price):
                changed.append((old.side, old.price))
        self.orders[order] = _Live(side, price, lots)
        self._add(side, price, lots)
        return changed

    def remove(self, order: int) -> list[tuple[int, int]]:
        """Delete an order, known or not; return changed (side, price) pairs."""
        self._gone[order] = None
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]
        old = self.orders.pop(order, None)
        if old is None:
            return []
        self._add(old.side, old.price, -old.lots)
        return [(old.side, old.price)]

    def best(self, side: int) -> int | None:
        """Return a side's best price."""
        heap = self._heaps[side]
        while heap and -side * heap[0] not in self.levels[side]:
            heapq.heappop(heap)
        return -side * heap[0] if heap else None


class _Reader:
    ticker_feed = False
    instrument = INSTRUMENT

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        self.paths = paths
        self.ledger = ledger
        self._book = OrderBook()
        self._fills: deque[_Fill] = deque(maxlen=_FILLS)
        self._valid = False
        self._rows: list[tuple[Any, ...]] = []
        self._places: list[int] = []
        self._message = 0
        self._place = 0
        self._local = 0

    def _fail(self, message: str) -> CaptureError:
        return self.ledger.error(message, self._place)

    def _parse_time(self, text: str) -> int:
        if len(text) != _DIGITS or not text.isdigit():
            raise self._fail("a local receive time must have 13 digits, ms since 1970 UTC")
        return int(text) * NS_PER_MS

    def _scaled(self, text: str | float, scale: int) -> int:
        """Return a decimal in whole units, exactly."""
        try:
            value = float(text) * scale
        except ValueError:
            raise self._fail(f"{text!r} is no decimal number") from None
        if not 0 <= value < 2**53 or abs(value - round(value)) > 1e-3:
            raise self._fail(f"{text!r} is negative, too large, or no multiple of 1/{scale}")
        return round(value)

    def _write(self, kind: int, side: int, price: int, size: float, sequence: int, flags: int = 0) -> None:
        self._rows.append((0, self._local, kind, side, flags, price, size, sequence))
        self._places.append(self._place)

    def _end_message(self) -> None:
        self._rows[-1] = (*self._rows[-1][:4], END, *self._rows[-1][5:])

    def _next_sequence(self) -> int:
        self._message += 1
        return 2 * self._message

    def _levels(self, changed: Sequence[tuple[int, int]]) -> None:
        sequence = self._next_sequence()
        for side, price in changed:
            self._write(LEVEL, side, price, self._book.levels[side].get(price, 0) / _LOTS, sequence)
        if changed:
            self._end_message()

    def _begin(self) -> None:
        self._valid = True
        sequence = self._next_sequence()
        self._write(CLEAR, 0, 0, 0.0, sequence)
        for side, level in self._book.levels.items():
            for price, lots in sorted(level.items()):
                self._write(LEVEL, side, price, lots / _LOTS, sequence)
        self._end_message()

    def _handle_order(self, action: str, order: int, side: int, price: int, lots: int) -> None:
        self.ledger.depth_messages += 1
        old = self._book.orders.get(order)
        if action == "deleted":
            changed = self._book.remove(order)
            left = 0 if lots == 0 else (old.lots if old else 0)  # a cancelled order keeps its amount
        else:
            put = self._book.put(order, side, price, lots)
            if put is None:
                self.ledger.fault(QuarantineReason.OUT_OF_ORDER)
                self.ledger.quarantine(QuarantineReason.OUT_OF_ORDER, self._place, self._local)
                return
            changed, left = put, lots
        if old is not None and left < old.lots:
            self._fills.append(_Fill(old.lots - left, order, old.side))
        if not self._valid:
            self.ledger.quarantine(QuarantineReason.BEFORE_SNAPSHOT, self._place, self._local)
        else:
            self._levels(changed)

    def _drain(self) -> Batch:
        rows, self._rows = self._rows, []
        places, self._places = self._places, []
        columns: list[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(DTYPES)
        events: dict[str, Any] = {
            name: np.array(column, dtype) for (name, dtype), column in zip(DTYPES.items(), columns, strict=True)
        }
        return Batch(Events(**events), np.array(places, np.int64))


class BitstampLogReader(_Reader):
    """The raw feed."""

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        super().__init__(paths, ledger)
        self._disagreed = 0
        self._agreement: Counter[str] = Counter()
        self._decode_order = msgspec.json.Decoder(_Order).decode
        self._decode_trade = msgspec.json.Decoder(_Trade).decode
        self._decode_snapshot = msgspec.json.Decoder(_Snapshot).decode

    @property
    def checks(self) -> dict[str, Any]:
        """Number of snapshots compared, and shares of matching best prices."""
        count = self._agreement["snapshots"]
        shares = {name: self._agreement[name] / count if count else None for name in ("bid", "ask", "both")}
        return {"snapshots": count, **shares}

    def batches(self) -> Iterator[Batch]:
        """See `CaptureReader.batches`."""
        for path in self.paths:
            start = self.ledger.begin_file(path)
            for lines in line_batches(path):
                for line in lines:
                    start += 1
                    self._place = start
                    self._read(line)
                self.ledger.records += len(lines)
                yield self._drain()
        if not self._valid and not self._agreement["both"]:
            raise CaptureError(self.paths[0], "the order book never agreed with a snapshot of the venue (order_book)")

    def _read(self, line: bytes) -> None:
        stamp, _, rest = line.partition(b" ")
        event, _, text = rest.partition(b" ")
        self._local = self._parse_time(stamp.decode("latin-1"))
        try:
            if event in (b"order_created", b"order_changed", b"order_deleted"):
                order = self._decode_order(text)
                side = ASK if order.order_type else BID
                lots, price = self._scaled(order.amount, _LOTS), self._scaled(order.price, _TICKS)
                self._handle_order(event[6:].decode(), order.id, side, price, lots)
            elif event == b"trade":
                self._handle_trade(self._decode_trade(text))
            elif event == b"order_book":
                self._compare(self._decode_snapshot(text))
            else:
                raise self._fail("not an event of a Bitstamp order log")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._fail(f"a message of the wrong shape: {' '.join(str(error).split())[:200]}") from error

    def _handle_trade(self, trade: _Trade) -> None:
        self.ledger.trades += 1
        price, lots = self._scaled(trade.price, _TICKS), self._scaled(trade.amount, _LOTS)
        if not price or not lots:
            self.ledger.quarantine(QuarantineReason.EMPTY_TRADE, self._place, self._local)
            return
        both = {fill.side: fill for fill in self._fills if fill.lots == lots}
        side = 0
        if len(both) == 2:
            side = BID if both[BID].order > both[ASK].order else ASK
            for fill in both.values():
                self._fills.remove(fill)
        self._write(TRADE, side, price, lots / _LOTS, trade.id, END)

    def _compare(self, snapshot: _Snapshot) -> None:
        self.ledger.snapshots += 1
        self.ledger.quarantine(QuarantineReason.CHECK_SNAPSHOT, self._place, self._local)
        venue = [self._scaled(side[0][0], _TICKS) if side else None for side in (snapshot.bids, snapshot.asks)]
        own = [self._book.best(BID), self._book.best(ASK)]
        if None in venue or None in own:
            return
        matches = [price == venue_price for price, venue_price in zip(own, venue, strict=True)]
        self._agreement.update(snapshots=1, bid=matches[0], ask=matches[1], both=all(matches))
        self._disagreed = 0 if all(matches) else self._disagreed + 1
        if all(matches) and not self._valid:
            self._begin()
        elif self._disagreed >= PATIENCE and self._valid:
            self.ledger.fault(QuarantineReason.DISAGREES)
            self._valid = False
            self._write(GAP, 0, 0, 0.0, 0, END)


class BitstampOrdersReader(_Reader):
    """The CSV of order events; the book is valid from the start."""

    def batches(self) -> Iterator[Batch]:
        """See `CaptureReader.batches`."""
        for path in self.paths:
            start = self.ledger.begin_file(path)
            for lines in line_batches(path):
                for line in lines:
                    start += 1
                    self._place = start
                    if line.strip() == _HEADER:
                        continue
                    self.ledger.records += 1
                    self._read(line)
                yield self._drain()

    def _read(self, line: bytes) -> None:
        fields = line.decode("latin-1").rstrip("\r").split(",")
        if len(fields) != 7 or fields[5] not in ("created", "changed", "deleted") or fields[6] not in ("bid", "ask"):
            raise self._fail(f"not a line of {_HEADER.decode()}")
        if not (fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 19):
            raise self._fail(f"{fields[0]!r} is no order id")
        self._local = self._parse_time(fields[1])
        if not self._valid:
            self._begin()
        side = BID if fields[6] == "bid" else ASK
        lots, price = self._scaled(fields[4], 1), self._scaled(fields[3], _TICKS)
        self._handle_order(fields[5], int(fields[0]), side, price, lots)


def _sniff_log(line: bytes) -> bool:
    stamp, _, rest = line.partition(b" ")
    return len(stamp) == _DIGITS and stamp.isdigit() and rest.startswith((b"order_", b"trade "))


def _sniff_orders(line: bytes) -> bool:
    return line.strip() == _HEADER


def _key(_path: Path) -> str:
    return str(INSTRUMENT)


LOG = Format("Bitstamp order log (<local ms> <event> <JSON> a line)", _sniff_log, BitstampLogReader, _key)
ORDERS = Format(f"Bitstamp orders (CSV: {_HEADER.decode()})", _sniff_orders, BitstampOrdersReader, _key)
