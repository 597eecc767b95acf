"""Reader of Tardis CSV: `incremental_book_L2` or `book_snapshot_25`, and `trades`, of one symbol.

Files of different types are merged by local time, days follow each other in the order given. Lines of one message
share their local time. In `incremental_book_L2` the lines before the first snapshot are set aside, as the documentation
says; a snapshot later on means that the connection was lost, and ends the segment, unless it merely opens the next
file. In `book_snapshot_25` each line is a whole book, read as the differences between them. There are no tickers in
these files: rows come from changes of the touch.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.errors import CaptureError
from lobsmith.market.captures import first_line
from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, GAP, LEVEL, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.ladders import Ladders
from lobsmith.market.ledger import Ledger, Reason
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.recording import Batch, Format
from lobsmith.market.tables import Table, read_tables, tick_of

_COMMON = ("exchange", "symbol", "timestamp", "local_timestamp")
_LEVELS = 25
_CELLS = tuple(
    f"{side}[{k}].{what}" for k in range(_LEVELS) for side in ("asks", "bids") for what in ("price", "amount")
)
_TYPES = {
    (*_COMMON, "is_snapshot", "side", "price", "amount"): "incremental_book_L2",
    (*_COMMON, "id", "side", "price", "amount"): "trades",
    (*_COMMON, *_CELLS): "book_snapshot_25",
}
_NS_PER_US = 1000
_EARLIEST, _LATEST = 10**15, 9 * 10**15  # µs, 2001 to 2255
_LOT = 1e-8
_NEXT_FILE_NS = 1_000_000_000

Rows = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]
"""`ROW_DTYPE` rows and their places."""


class TardisRecording:
    """The files of one symbol."""

    ticker_feed = False

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        self.ledger = ledger
        self._files: dict[str, list[Path]] = {}
        for path in paths:
            self._files.setdefault(_type(path), []).append(path)
        if {"incremental_book_L2", "book_snapshot_25"} <= set(self._files):
            raise CaptureError(
                paths[0], "incremental_book_L2 and book_snapshot_25 hold the same book; give one of them"
            )
        if set(self._files) == {"trades"}:
            raise CaptureError(paths[0], "trades alone make no book; give incremental_book_L2 or book_snapshot_25 too")
        self._instrument: Instrument | None = None
        self._ladders = Ladders(_LEVELS)
        self._synchronised = False
        self._in_snapshot = False
        self._last_local = 0
        self._newest = dict.fromkeys(_TYPES.values(), 0)
        self._named = ("", "")
        self._message = 0
        self._trade = 0

    @property
    def instrument(self) -> Instrument:
        """What is traded."""
        if self._instrument is None:
            raise ValueError("the instrument is known once the first batch has come")
        return self._instrument

    def batches(self) -> Iterator[Batch]:
        """Merge the streams by local time (see `recording.Recording.batches`)."""
        streams = [self._stream(kind) for kind in sorted(self._files)]
        held: list[Rows | None] = [next(stream, None) for stream in streams]
        while any(rows is not None for rows in held):
            # Everything before the earliest end of what is held can be ordered.
            bound = min(int(rows[0]["local_time"][-1]) for rows in held if rows is not None)
            taken: list[Rows] = []
            for i, rows in enumerate(held):
                if rows is None:
                    continue
                cut = int(np.searchsorted(rows[0]["local_time"], bound, side="right"))
                taken.append((rows[0][:cut], rows[1][:cut]))
                left = rows[0][cut:], rows[1][cut:]
                held[i] = left if len(left[0]) else next(streams[i], None)
            yield self._ordered(taken)
        if not self._synchronised:
            raise CaptureError(
                next(iter(self._files.values()))[0], "no snapshot (is_snapshot true): the book never begins"
            )

    def _ordered(self, taken: list[Rows]) -> Batch:
        rows, places = (np.concatenate(parts) for parts in zip(*taken, strict=True))
        order = np.argsort(rows["local_time"], kind="stable")
        rows, places = rows[order], places[order]
        return Batch(Events(*(np.ascontiguousarray(rows[name]) for name in DTYPES)), places)

    def _stream(self, kind: str) -> Iterator[Rows]:
        """Yield one type's rows; a message, all lines of one local time, is never cut in two."""
        columns = next(names for names, known in _TYPES.items() if known == kind)
        rest: Table | None = None
        for number, path in enumerate(self._files[kind]):
            if kind == "incremental_book_L2":
                self._in_snapshot = False
            for table in read_tables(path, columns, self.ledger, header=True):
                self._name(table, columns)
                whole = table
                if rest is not None:
                    whole = table._replace(frame=rest.frame.vstack(table.frame), place=rest.place)
                times = whole.frame["local_timestamp"]
                other = (times != times[-1]).arg_true()
                last = int(other[-1]) + 1 if len(other) else 0
                rest = whole._replace(frame=whole.frame.slice(last), place=whole.place + last)
                if last:
                    yield from self._read(kind, whole._replace(frame=whole.frame.head(last)), number)
            if rest is not None:
                yield from self._read(kind, rest, number)
                rest = None

    def _read(self, kind: str, table: Table, file: int) -> Iterator[Rows]:
        local = table.integers("local_timestamp", _EARLIEST, _LATEST) * _NS_PER_US
        exchange = table.integers("timestamp", _EARLIEST, _LATEST) * _NS_PER_US
        back = np.diff(local, prepend=self._newest[kind]) < 0
        if back.any():
            raise table.error(int(np.argmax(back)), "local_timestamp: earlier than on the line before")
        self._newest[kind] = int(local[-1])
        read = {"incremental_book_L2": self._levels, "trades": self._trades, "book_snapshot_25": self._books}[kind]
        rows = read(table, local, exchange, file)
        if len(rows[0]):
            yield rows

    def _name(self, table: Table, columns: Sequence[str]) -> None:
        venue, symbol = table.only("exchange"), table.only("symbol")
        if self._instrument is None:
            prices = [name for name in columns if name.endswith("price")]
            tick = tick_of(table, prices)
            # The symbol becomes a folder's name.
            if not re.fullmatch(r"[\w-]{1,40}", venue) or not re.fullmatch(r"\w[\w.:/-]{0,60}", symbol):
                raise table.error(0, f"{venue!r} or {symbol!r} is no usable name")
            self._instrument = Instrument(
                venue=f"tardis-{venue}", symbol=re.sub(r"[:/]", "-", symbol), tick_size=tick, lot_size=_LOT
            )
            self._named = venue, symbol
        if (venue, symbol) != self._named:
            raise table.error(0, f"{venue} {symbol} after {' '.join(self._named)}; a session has one instrument")

    def _levels(self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64], file: int) -> Rows:
        snapshot = table.one_of("is_snapshot", {"true": 1, "false": 0}).astype(bool)
        side = table.one_of("side", {"bid": BID, "ask": ASK})
        price, size = table.ticks("price", self.instrument.tick_size), table.numbers("amount")
        before = np.concatenate([[self._in_snapshot], snapshot[:-1]])
        begins = np.flatnonzero(snapshot & ~before)
        skip = 0
        if not self._synchronised:
            skip = int(begins[0]) if len(begins) else len(local)
            places = table.place + np.arange(skip)
            self.ledger.all_aside(Reason.BEFORE_SNAPSHOT, places, local[:skip])
        ends = np.append((np.diff(local) != 0) | (np.diff(snapshot.astype(np.int8)) != 0), True)
        self.ledger.depth_messages += int(np.count_nonzero(ends & ~snapshot))
        self.ledger.snapshots += len(begins)
        rows = np.zeros(len(local) - skip, ROW_DTYPE)
        number = self._message + np.concatenate([[0], np.cumsum(ends)[:-1]])
        self._message += int(ends.sum())
        values: dict[str, Any] = {
            "local_time": local,
            "exchange_time": exchange,
            "side": side,
            "price": price,
            "size": size,
        }
        for name, column in values.items():
            rows[name] = column[skip:]
        rows["sequence"], rows["flags"] = 2 * number[skip:] + 2, np.where(ends[skip:], END, 0)
        rows["kind"] = LEVEL
        places = table.place + np.arange(skip, len(local))
        for at in begins[::-1]:
            rows, places = self._insert(rows, places, int(at) - skip, at == begins[0], file)
        self._synchronised = self._synchronised or len(begins) > 0
        self._in_snapshot, self._last_local = bool(snapshot[-1]), int(local[-1])
        return rows, places

    def _insert(self, rows: npt.NDArray[Any], places: npt.NDArray[np.int64], at: int, first: bool, file: int) -> Rows:
        """Begin the book anew at a row: a `CLEAR`, and a `GAP` before it where the connection was lost."""
        new = np.zeros(2, ROW_DTYPE)
        for name in ("local_time", "exchange_time", "sequence"):
            new[name] = rows[name][at]
        new["kind"], new["flags"] = (GAP, CLEAR), (END, 0)
        opens_file = first and file > 0 and rows["local_time"][at] - self._last_local < _NEXT_FILE_NS
        if (first and not self._synchronised) or opens_file:
            new = new[1:]
        else:
            self.ledger.fault(Reason.RECONNECT)
        return np.insert(rows, at, new), np.insert(places, at, np.full(len(new), places[at]))

    def _books(self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64], _file: int) -> Rows:
        count = len(local)
        prices = np.zeros((count, 2, _LEVELS), np.int64)
        sizes = np.zeros((count, 2, _LEVELS))
        for s, side in enumerate(("bids", "asks")):
            for k in range(_LEVELS):
                filled = table.frame[f"{side}[{k}].price"].is_not_null().to_numpy()
                some = table._replace(frame=table.frame.fill_null("0"))
                prices[:, s, k] = some.ticks(f"{side}[{k}].price", self.instrument.tick_size)
                sizes[:, s, k] = np.where(filled, some.numbers(f"{side}[{k}].amount"), 0.0)
        self.ledger.snapshots += count
        self._synchronised = True
        rows, owners = self._ladders.push(prices, sizes, (sizes > 0).sum(axis=2), local, exchange)
        return rows, table.place + owners

    def _trades(self, table: Table, local: npt.NDArray[np.int64], exchange: npt.NDArray[np.int64], _file: int) -> Rows:
        side = table.one_of("side", {"buy": BID, "sell": ASK, "unknown": 0})
        price, size = table.ticks("price", self.instrument.tick_size), table.numbers("amount")
        self.ledger.trades += len(local)
        good = (price > 0) & (size > 0)
        for at in np.flatnonzero(~good):
            self.ledger.aside(Reason.EMPTY_TRADE, table.place + int(at), int(local[at]))
        rows = np.zeros(int(good.sum()), ROW_DTYPE)
        values: dict[str, Any] = {
            "local_time": local,
            "exchange_time": exchange,
            "side": side,
            "price": price,
            "size": size,
        }
        for name, column in values.items():
            rows[name] = column[good]
        rows["kind"], rows["flags"] = TRADE, END
        # Ids may be missing or no numbers: lines are counted instead.
        rows["sequence"] = self._trade + 1 + np.arange(len(rows))
        self._trade += len(rows)
        return rows, table.place + np.flatnonzero(good)


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
    columns = next(names for names, kind in _TYPES.items() if kind == _type(path))
    for table in read_tables(path, columns, Ledger(), header=True):
        return f"tardis-{table.frame['exchange'][0]}:{table.frame['symbol'][0]}"
    raise CaptureError(path, "no line after the header")


FORMAT = Format("Tardis CSV (incremental_book_L2, book_snapshot_25, trades)", _sniff, TardisRecording, _key)
