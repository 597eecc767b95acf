"""Reader of LOBSTER: a message and an order book file, a line each per event of a NASDAQ symbol.

`TICKER_YYYY-MM-DD_START_END_message_LEVELS.csv` and the same with `orderbook` lie side by side; either may be given.
Times are seconds after midnight in New York; local and exchange time are equal. Levels are differences of order book
lines; trades are executions of visible (type 4) and hidden (type 5) orders, the aggressor being the other side. Hidden
ones may lie inside the spread. Quarantined: trades at a fraction of a tick, auctions (type 6; their executions have
own lines), and everything from a halt (type 7, price -1; ends the segment) until quoting or trading resumes (0 or 1).

The tick is a cent unless the first lines use half cents or, below a dollar, hundredths of one.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from lobsmith.errors import CaptureError
from lobsmith.market.capture_reader import Batch, Format
from lobsmith.market.events import ASK, BID, DTYPES, END, GAP, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.market.venues.depth_snapshots import DepthSnapshots, DisorderError
from lobsmith.market.venues.tables import Columns, Table, read_tables
from lobsmith.units import NS_PER_S

_NAME = re.compile(r"([A-Z.]{1,8})_(\d{4}-\d\d-\d\d)_\d+_\d+_(?:message|orderbook)_([1-9]\d{0,2})\.csv(?:\.gz|\.bz2)?")
_MESSAGE: Columns = {
    "time": pl.Float64,
    "type": pl.Int64,
    "order": pl.String,
    "size": pl.Float64,
    "price": pl.Int64,
    "direction": pl.Int64,
}
_DOLLAR = 10_000
_CENT = 100
_EMPTY = 9_999_999_999
_DAY_S = 86_400
_VISIBLE, _HIDDEN, _AUCTION, _HALT = 4, 5, 6, 7
_CHUNK = 4 << 20
_NEW_YORK = ZoneInfo("America/New_York")


class LobsterReader:
    """Reads a symbol's days, in order."""

    ticker_feed = False

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        self.ledger = ledger
        messages = {_sibling(path, "message"): None for path in paths}
        self._pairs = [(path, _sibling(path, "orderbook")) for path in messages]
        names = [_parse_name(path) for path in messages]
        if len({name.symbol for name in names}) > 1:
            raise CaptureError(
                paths[0], f"files of {' and '.join(sorted({name.symbol for name in names}))}; ingest them apart"
            )
        for before, name, path in zip(names, names[1:], list(messages)[1:], strict=False):
            if name.day <= before.day:
                raise CaptureError(path, f"a day no later than {before.day}, given before it; give each once, in order")
        for pair in self._pairs:
            for path in pair:
                if not path.exists():
                    raise CaptureError(path, "no such file; a LOBSTER message file and its order book belong together")
        self._symbol = names[0].symbol
        self._unit = 0  # tick, in hundredths of a cent
        self._trade = 0

    @property
    def instrument(self) -> Instrument:
        """What is traded."""
        if not self._unit:
            raise ValueError("the instrument is known once the first batch has come")
        return Instrument(venue="lobster", symbol=self._symbol, tick_size=self._unit / _DOLLAR, lot_size=1.0)

    def batches(self) -> Iterator[Batch]:
        """See `CaptureReader.batches`."""
        number = 1
        for messages, book in self._pairs:
            name = _parse_name(messages)
            midnight = int(datetime.combine(name.day, time(), _NEW_YORK).timestamp()) * NS_PER_S
            day = _Day(midnight, DepthSnapshots(name.levels, number), lost=number > 1)
            lines = _Lines(book, _book_columns(name.levels))
            # Bounds the order book's bytes per batch.
            for table in read_tables(messages, _MESSAGE, self.ledger, header=False, chunk=_CHUNK // name.levels):
                yield self._batch(table, lines.next(table), day)
            lines.finish(self.ledger)
            number = day.snapshots.number

    def _batch(self, table: Table, book: Table, day: "_Day") -> Batch:
        numbers = table.numbers(["time", "size"])
        seconds, sizes = numbers[:, 0], numbers[:, 1]
        if (seconds >= _DAY_S).any():
            raise table.error(int(np.argmax(seconds >= _DAY_S)), "time: not seconds after midnight")
        local = day.midnight + np.rint(seconds * NS_PER_S).astype(np.int64)
        kinds = table.integers(["type"], 1, 8)[:, 0]
        price = table.integers(["price"], -1, 2**45)[:, 0]
        direction = table.integers(["direction"], -1, 2)[:, 0]
        prices, amounts = self._depth(book)

        halted, begins = day.halts(kinds, price)
        rows, owners = _updates(book, prices, amounts, local, day, halted, begins)
        for _ in range(int(begins.sum())):
            self.ledger.fault(QuarantineReason.HALT)
        places = table.place + np.arange(len(local))
        # The halt's own line is kept as the gap.
        self.ledger.quarantine_all(QuarantineReason.HALT, places[halted & ~begins], local[halted & ~begins])

        trade = (kinds == _VISIBLE) | (kinds == _HIDDEN)
        self.ledger.depth_messages += int(np.count_nonzero(kinds <= _VISIBLE))
        self.ledger.trades += int(np.count_nonzero(trade))
        good = trade & (price % self._unit == 0) & (sizes > 0) & (price > 0)
        odd = ((trade & ~good) | (kinds == _AUCTION)) & ~halted
        self.ledger.quarantine_all(QuarantineReason.NO_BOOK_TRADE, places[odd], local[odd])
        traded = np.flatnonzero(good & ~halted)
        trades = np.zeros(len(traded), ROW_DTYPE)
        trades["local_time"] = trades["exchange_time"] = local[traded]
        trades["kind"], trades["flags"] = TRADE, END
        trades["side"] = np.choose(direction[traded] + 1, [BID, 0, ASK])
        trades["price"], trades["size"] = price[traded] // self._unit, sizes[traded]
        trades["sequence"] = self._trade + 1 + np.arange(len(traded))
        self._trade += len(traded)
        # A trade precedes its change of the book.
        order = np.argsort(np.concatenate([2 * traded, 2 * owners + 1]), kind="stable")
        whole = np.concatenate([trades, rows])[order]
        events = Events(*(np.ascontiguousarray(whole[name]) for name in DTYPES))
        return Batch(events, places[np.concatenate([traded, owners])[order]])

    def _depth(self, book: Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return prices in ticks and sizes, [N, 2, K]."""
        shape = book.frame.height, 2, book.frame.width // 4
        prices, sizes = (
            book.integers([name for side in ("bid", "ask") for name in _names(side, quantity, shape[2])], low, high)
            for quantity, low, high in (("price", -_EMPTY, _EMPTY + 1), ("size", 0, 2**53))
        )
        filled = (np.abs(prices) != _EMPTY) & (sizes > 0)
        prices, sizes = np.where(filled, prices, 0).reshape(shape), np.where(filled, sizes, 0).reshape(shape)
        if not self._unit:
            common = int(np.gcd.reduce(prices, axis=None, initial=_CENT))
            self._unit = common if common in (_CENT, _CENT // 2) else 1
        wrong = (prices % self._unit != 0).any(axis=(1, 2))
        if wrong.any():
            raise book.error(
                int(np.argmax(wrong)), f"a price that is no multiple of {self._unit / _DOLLAR} as the first ones are"
            )
        return prices // self._unit, sizes.astype(np.float64)


class _Day:
    """A day's state; `midnight` in New York, ns since 1970 UTC; `lost`: another day came before."""

    def __init__(self, midnight: int, snapshots: DepthSnapshots, *, lost: bool) -> None:
        self.midnight = midnight
        self.snapshots = snapshots
        self.lost = lost
        self._halted = False

    def halts(
        self, kinds: npt.NDArray[np.int64], price: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return for each line whether trading is halted, and whether a halt begins."""
        changes = np.where(kinds == _HALT, np.arange(len(kinds)), -1)
        last = np.maximum.accumulate(changes)
        halted = np.where(last >= 0, price[last] == -1, self._halted)
        begins = halted & ~np.concatenate([[self._halted], halted[:-1]])
        self._halted = bool(halted[-1])
        return halted, begins


def _updates(
    book: Table,
    prices: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float64],
    local: npt.NDArray[np.int64],
    day: _Day,
    halted: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Turn snapshots into updates with `GAP`s at halts; return rows and their lines."""
    parts, owners = [np.zeros(0, ROW_DTYPE)], [np.zeros(0, np.int64)]

    def gap(at: int) -> None:
        row = np.zeros(1, ROW_DTYPE)
        row["kind"], row["flags"], row["local_time"] = GAP, END, local[at]
        parts.append(row)
        owners.append(np.array([at]))

    if day.lost:
        gap(0)
        day.lost = False
    cuts = np.flatnonzero(begins | (np.diff(halted, prepend=halted[:1]))).tolist()
    for start, stop in pairwise([0, *cuts, len(local)]):
        if start == stop:
            continue
        if begins[start]:
            gap(start)
            day.snapshots.forget()
        if halted[start]:
            continue
        part = slice(start, stop)
        try:
            rows, of = day.snapshots.push(prices[part], sizes[part], local[part], local[part])
        except DisorderError as error:
            raise book.error(start + error.row, "prices that do not go away from the touch, level by level") from error
        parts.append(rows)
        owners.append(of + start)
    return np.concatenate(parts), np.concatenate(owners)


class _Lines:
    def __init__(self, path: Path, columns: Columns) -> None:
        own = Ledger()  # its lines are not counted as records
        self._tables = read_tables(path, columns, own, header=False, chunk=_CHUNK)
        self._path = path
        self._waiting: Table | None = None

    def next(self, messages: Table) -> Table:
        """Return these messages' lines."""
        need = messages.frame.height
        while self._waiting is None or self._waiting.frame.height < need:
            more = next(self._tables, None)
            if more is None:
                available = 0 if self._waiting is None else self._waiting.frame.height
                raise messages.error(
                    available, f"{self._path} has no line for this message; the files do not belong together"
                )
            self._waiting = more if self._waiting is None else self._waiting.followed_by(more)
        taken = self._waiting.part(0, need)
        self._waiting = self._waiting.part(need, self._waiting.frame.height)
        return taken

    def finish(self, ledger: Ledger) -> None:
        """Reject lines without a message."""
        if (self._waiting is not None and self._waiting.frame.height) or next(self._tables, None) is not None:
            raise CaptureError(self._path, f"more lines than {ledger.files[-1]}; the files do not belong together")


def _names(side: str, quantity: str, levels: int) -> list[str]:
    return [f"{side} {quantity} {k + 1}" for k in range(levels)]


def _book_columns(levels: int) -> Columns:
    levels_names = zip(
        *(_names(side, quantity, levels) for side in ("ask", "bid") for quantity in ("price", "size")), strict=True
    )
    return dict.fromkeys((name for names in levels_names for name in names), pl.Int64)


class _Name(NamedTuple):
    symbol: str
    day: date
    levels: int


def _parse_name(path: Path) -> _Name:
    match = _NAME.fullmatch(path.name)
    if not match:
        raise CaptureError(path, "a LOBSTER file's name must be TICKER_YYYY-MM-DD_START_END_message_LEVELS.csv")
    try:
        return _Name(match[1], date.fromisoformat(match[2]), int(match[3]))
    except ValueError as error:
        raise CaptureError(path, f"{match[2]} in the file's name is no day") from error


def _sibling(path: Path, which: str) -> Path:
    _parse_name(path)
    return path.with_name(re.sub(r"_(message|orderbook)_", f"_{which}_", path.name))


def _key(path: Path) -> str:
    return f"lobster:{_parse_name(path).symbol}"


def _sniff(line: bytes) -> bool:
    """Six numbers (seconds, type, ...), or an order book's multiple of four integers."""
    cells = line.strip().split(b",")
    if len(cells) == len(_MESSAGE):
        return re.fullmatch(rb"\d{1,5}(\.\d+)?,[1-7],-?\d+,\d+,-?\d+,-?[01]", line.strip()) is not None
    return len(cells) % 4 == 0 and all(re.fullmatch(rb"-?\d+", cell) for cell in cells)


FORMAT = Format("LOBSTER (message and orderbook CSV)", _sniff, LobsterReader, _key)
