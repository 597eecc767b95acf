"""Reader of Tardis CSV: `incremental_book_L2` or `book_snapshot_25`, and `trades`, of one symbol.

Files of different types are merged by local time; those of one type are days, in order. A message's lines share their
local time; stamps pass unchanged, even where a clock went back.

- `incremental_book_L2`: lines before a file's first snapshot are quarantined, as documented. A later snapshot means a
  lost connection and ends the segment, except where the next day's file starts at once with it.
- `book_snapshot_25`: each line is a whole book, read as differences.

The tick is the greatest common divisor of the first prices. There are no tickers: rows come from changes of the touch.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from lobsmith.errors import CaptureError
from lobsmith.market.capture_reader import Batch, Format
from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, GAP, LEVEL, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.market.venues.captures import first_line
from lobsmith.market.venues.depth_snapshots import DepthSnapshots, DisorderError
from lobsmith.market.venues.tables import Columns, Table, read_tables, tick_of
from lobsmith.units import NS_PER_S, NS_PER_US

_L2, _BOOKS, _TRADES = "incremental_book_L2", "book_snapshot_25", "trades"
_COMMON: Columns = {"exchange": pl.String, "symbol": pl.String, "timestamp": pl.Int64, "local_timestamp": pl.Int64}
_CHANGE: Columns = {"side": pl.String, "price": pl.Float64, "amount": pl.Float64}
_LEVELS = 25
_CELLS: Columns = {
    f"{side}[{k}].{quantity}": pl.Float64
    for k in range(_LEVELS)
    for side in ("asks", "bids")
    for quantity in ("price", "amount")
}
_SIDES = {
    quantity: [f"{side}[{k}].{quantity}" for side in ("bids", "asks") for k in range(_LEVELS)]
    for quantity in ("price", "amount")
}
_COLUMNS: dict[str, Columns] = {
    _L2: {**_COMMON, "is_snapshot": pl.String, **_CHANGE},
    _BOOKS: {**_COMMON, **_CELLS},
    _TRADES: {**_COMMON, "id": pl.String, **_CHANGE},
}
_TYPES = {tuple(columns): kind for kind, columns in _COLUMNS.items()}
_CHUNK = 2 << 20
_LONGEST_MESSAGE = 1_000_000  # lines
_EARLIEST, _LATEST = 10**15, 9 * 10**15  # µs, 2001 to 2255
_LOT = 1e-8
_NEXT_FILE_NS = NS_PER_S


class _Rows(NamedTuple):
    """One file type's events, `ROW_DTYPE`, with places and merge keys."""

    events: npt.NDArray[Any]
    places: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]

    def part(self, start: int, stop: int) -> "_Rows":
        return _Rows(*(column[start:stop] for column in self))


class TardisReader:
    """Reads a symbol's files."""

    ticker_feed = False

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        self.ledger = ledger
        self._files: dict[str, list[Path]] = {}
        for path in paths:
            self._files.setdefault(_type(path), []).append(path)
        if {_L2, _BOOKS} <= set(self._files):
            raise CaptureError(paths[0], f"{_L2} and {_BOOKS} hold the same book; give one of them")
        if set(self._files) == {_TRADES}:
            raise CaptureError(paths[0], f"trades alone make no book; give {_L2} or {_BOOKS} too")
        self._instrument: Instrument | None = None
        self._venue_symbol = ("", "")
        self._snapshots = DepthSnapshots(_LEVELS)
        self._newest = dict.fromkeys(_COLUMNS, 0)
        self._message = 0
        self._trade = 0
        self._begun = False
        # Reading state of the incremental book's file.
        self._opening = True
        self._synchronised = False
        self._in_snapshot = False
        self._last_local = 0

    @property
    def instrument(self) -> Instrument:
        """What is traded."""
        if self._instrument is None:
            raise ValueError("the instrument is known once the first batch has come")
        return self._instrument

    def batches(self) -> Iterator[Batch]:
        """Merge the streams; see `CaptureReader.batches`."""
        streams = [self._stream(kind) for kind in sorted(self._files)]
        held = [next(stream, None) for stream in streams]
        while any(rows is not None for rows in held):
            # Rows up to the earliest end of the held ones can be ordered.
            bound = min(int(rows.keys[-1]) for rows in held if rows is not None)
            taken: list[_Rows] = []
            for i, rows in enumerate(held):
                if rows is None:
                    continue
                cut = int(np.searchsorted(rows.keys, bound, side="right"))
                taken.append(rows.part(0, cut))
                held[i] = rows.part(cut, len(rows.keys)) if cut < len(rows.keys) else next(streams[i], None)
            yield _merged(taken)
        if not self._begun:
            kind, missing = (_L2, "snapshot (is_snapshot true)") if _L2 in self._files else (_BOOKS, "line")
            raise CaptureError(self._files[kind][0], f"no {missing}: the book never begins")

    def _stream(self, kind: str) -> Iterator[_Rows]:
        """Yield one type's rows; messages (lines of one local time) are never cut."""
        read = {_L2: self._levels, _TRADES: self._trades, _BOOKS: self._books}[kind]
        before = 0
        for path in self._files[kind]:
            if kind == _L2:
                self._opening, self._synchronised, self._in_snapshot = True, False, False
            first: int | None = None
            rest: Table | None = None
            for table in read_tables(path, _COLUMNS[kind], self.ledger, header=True, chunk=_CHUNK):
                self._set_instrument(table)
                whole = table if rest is None else rest.followed_by(table)
                times = whole.integers(["local_timestamp"], _EARLIEST, _LATEST)[:, 0]
                if first is None:
                    first = int(times[0])
                    if first <= before:
                        raise table.error(0, "no later than the file before it; give each day once, in order")
                    before = first
                other = np.flatnonzero(times != times[-1])
                last = int(other[-1]) + 1 if len(other) else 0
                rest = whole.part(last, whole.frame.height)
                if rest.frame.height > _LONGEST_MESSAGE:
                    raise rest.error(0, f"more than {_LONGEST_MESSAGE} lines of one local_timestamp")
                if last:
                    yield from self._read(kind, read, whole.part(0, last))
            if rest is not None:
                yield from self._read(kind, read, rest)

    def _read(self, kind: str, read: "_Reader", table: Table) -> Iterator[_Rows]:
        times = table.integers(["timestamp", "local_timestamp"], _EARLIEST, _LATEST) * NS_PER_US
        exchange, local = times[:, 0], times[:, 1]
        events, places = read(table, local, exchange)
        if len(events):
            # Keeps a file's order where a clock went back.
            keys = np.maximum.accumulate(np.maximum(events["local_time"], self._newest[kind]))
            self._newest[kind] = int(keys[-1])
            yield _Rows(events, places, keys)

    def _set_instrument(self, table: Table) -> None:
        venue, symbol = table.only("exchange"), table.only("symbol")
        if self._instrument is None:
            # It names a folder.
            if not re.fullmatch(r"[\w-]{1,40}", venue) or not re.fullmatch(r"\w[\w.:/-]{0,60}", symbol):
                raise table.error(0, f"{venue!r} or {symbol!r} is no usable name")
            self._instrument = Instrument(
                venue=f"tardis-{venue}", symbol=re.sub(r"[:/]", "-", symbol), tick_size=self._tick(), lot_size=_LOT
            )
            self._venue_symbol = venue, symbol
        if (venue, symbol) != self._venue_symbol:
            raise table.error(0, f"{venue} {symbol} after {' '.join(self._venue_symbol)}; a session has one instrument")

    def _tick(self) -> float:
        prices = [
            table.frame[name]
            for kind, paths in self._files.items()
            for path in paths
            for table in islice(read_tables(path, _COLUMNS[kind], Ledger(), header=True, chunk=_CHUNK), 1)
            for name in table.frame.columns
            if name.endswith("price")
        ]
        return tick_of(pl.concat(prices))

    def _levels(
        self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        snapshot = table.one_of("is_snapshot", {"true": 1, "false": 0}).astype(bool)
        rows = self._changes(table, local, exchange, {"bid": BID, "ask": ASK})
        if not (rows["price"] > 0).all():
            raise table.error(int(np.argmin(rows["price"] > 0)), "price: 0 is no level's")
        begins = np.flatnonzero(snapshot & ~np.concatenate([[self._in_snapshot], snapshot[:-1]]))
        ends = np.append((np.diff(local) != 0) | (np.diff(snapshot) != 0), True)
        self.ledger.depth_messages += int(np.count_nonzero(ends & ~snapshot))
        self.ledger.snapshots += len(begins)
        number = self._message + np.concatenate([[0], np.cumsum(ends)[:-1]])
        self._message += int(ends.sum())
        rows["sequence"], rows["flags"], rows["kind"] = 2 * number + 2, np.where(ends, END, 0), LEVEL
        places = table.place + np.arange(len(local))
        skip = 0
        if not self._synchronised:
            skip = int(begins[0]) if len(begins) else len(local)
            self.ledger.quarantine_all(QuarantineReason.BEFORE_SNAPSHOT, places[:skip], local[:skip])
        marks, before = self._marks(begins, skip, local)
        new = np.zeros(len(marks), ROW_DTYPE)
        for name in ("local_time", "exchange_time", "sequence"):
            new[name] = rows[name][before]
        new["kind"], new["flags"] = marks, np.where(marks == GAP, END, 0)
        whole, where = np.insert(rows, before, new), np.insert(places, before, places[before])
        kept = np.insert(np.arange(len(rows)) >= skip, before, np.ones(len(marks), np.bool_))
        self._in_snapshot, self._last_local, self._opening = bool(snapshot[-1]), int(local[-1]), False
        return whole[kept], where[kept]

    def _marks(
        self, begins: npt.NDArray[np.int64], skip: int, local: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return inserted `GAP`s and `CLEAR`s and the lines they precede."""
        marks: list[tuple[int, int]] = []
        if self._opening and skip and self._begun:
            # Skipped lines break the previous day's book.
            marks.append((GAP, 0))
            self.ledger.fault(QuarantineReason.RECONNECT)
        for at in begins.tolist():
            opens = self._opening and at == 0
            goes_on = opens and local[0] - self._last_local < _NEXT_FILE_NS
            if self._begun and (self._synchronised or opens) and not goes_on:
                marks.append((GAP, at))
                self.ledger.fault(QuarantineReason.RECONNECT)
            marks.append((CLEAR, at))
            self._begun = self._synchronised = True
        return np.array([kind for kind, _ in marks], np.uint8), np.array([at for _, at in marks], np.int64)

    def _books(
        self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        shape = len(local), 2, _LEVELS
        prices = table.ticks(_SIDES["price"], self.instrument.tick_size, empty=True).reshape(shape)
        sizes = table.numbers(_SIDES["amount"], empty=True).reshape(shape)
        self.ledger.snapshots += len(local)
        self._begun = True
        try:
            rows, owners = self._snapshots.push(prices, sizes, local, exchange)
        except DisorderError as error:
            raise table.error(error.row, "prices that do not go away from the touch, level by level") from error
        return rows, table.place + owners

    def _trades(
        self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        rows = self._changes(table, local, exchange, {"buy": BID, "sell": ASK, "unknown": 0})
        places = table.place + np.arange(len(rows))
        self.ledger.trades += len(rows)
        good = (rows["price"] > 0) & (rows["size"] > 0)
        self.ledger.quarantine_all(QuarantineReason.EMPTY_TRADE, places[~good], local[~good])
        rows, places = rows[good], places[good]
        rows["kind"], rows["flags"] = TRADE, END
        # Ids may be missing or not numeric: count lines.
        rows["sequence"] = self._trade + 1 + np.arange(len(rows))
        self._trade += len(rows)
        return rows, places

    def _changes(
        self,
        table: Table,
        local: npt.NDArray[np.int64],
        exchange: npt.NDArray[np.int64],
        sides: dict[str, int],
    ) -> npt.NDArray[Any]:
        """Return the common columns of price and amount lines."""
        rows = np.zeros(len(local), ROW_DTYPE)
        rows["local_time"], rows["exchange_time"] = local, exchange
        rows["side"] = table.one_of("side", sides)
        rows["price"] = table.ticks(["price"], self.instrument.tick_size)[:, 0]
        rows["size"] = table.numbers(["amount"])[:, 0]
        return rows


_Reader = Callable[
    [Table, npt.NDArray[np.int64], npt.NDArray[np.int64]], tuple[npt.NDArray[Any], npt.NDArray[np.int64]]
]


def _merged(parts: list[_Rows]) -> Batch:
    events, places, keys = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    events = events[order]
    return Batch(Events(*(np.ascontiguousarray(events[name]) for name in DTYPES)), places[order])


def _header(line: bytes) -> str | None:
    try:
        return _TYPES.get(tuple(line.decode().strip().split(",")))
    except UnicodeDecodeError:
        return None


def _type(path: Path) -> str:
    known = _header(first_line(path))
    if known is None:
        raise CaptureError(path, f"not a Tardis CSV of {', '.join(_TYPES.values())}", line=1)
    return known


def _sniff(line: bytes) -> bool:
    return _header(line) is not None


def _key(path: Path) -> str:
    for table in read_tables(path, _COLUMNS[_type(path)], Ledger(), header=True, chunk=1 << 16):
        return f"tardis-{table.frame['exchange'][0]}:{table.frame['symbol'][0]}"
    raise CaptureError(path, "no line after the header")


FORMAT = Format("Tardis CSV (incremental_book_L2, book_snapshot_25, trades)", _sniff, TardisReader, _key)
