"""Reader of LOBSTER: a message file and its order book file, a line each for every event of a NASDAQ symbol.

The two lie beside each other, `TICKER_YYYY-MM-DD_START_END_message_LEVELS.csv` and the same with `orderbook`; naming
either is enough. Times are seconds after midnight in New York; there is no receive time, so local and exchange time are
the same. Levels come from the differences of the order book lines; trades are executions of visible (type 4) and hidden
(type 5) orders, the aggressor being the other side; auctions (6) are set aside; a halt (7, price -1) ends the segment
until quoting or trading resumes (0 or 1).
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from lobsmith.errors import CaptureError
from lobsmith.market.events import ASK, BID, DTYPES, END, GAP, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.ladders import Ladders
from lobsmith.market.ledger import Ledger, Reason
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.recording import Batch, Format
from lobsmith.market.tables import Table, read_tables

_NAME = re.compile(r"([A-Z.]{1,8})_(\d{4}-\d\d-\d\d)_(\d+)_(\d+)_(message|orderbook)_(\d+)\.csv")
_MESSAGE = ("time", "type", "order", "size", "price", "direction")
_PRICE = 10_000  # a dollar
_TICK = 0.01
_EMPTY = 9_999_999_999
_NS = 1_000_000_000
_DAY_S = 86_400
_HIDDEN, _AUCTION, _HALT = 5, 6, 7
_NEW_YORK = ZoneInfo("America/New_York")


class LobsterRecording:
    """The days of one symbol, in order."""

    ticker_feed = False

    def __init__(self, paths: Sequence[Path], ledger: Ledger) -> None:
        self.ledger = ledger
        messages = {_beside(path, "message"): None for path in paths}
        self.pairs = [(path, _beside(path, "orderbook")) for path in messages]
        symbols = {_parts(path)[0] for path in messages}
        if len(symbols) > 1:
            raise CaptureError(paths[0], f"files of {' and '.join(sorted(symbols))}; ingest them apart")
        for pair in self.pairs:
            for path in pair:
                if not path.exists():
                    raise CaptureError(path, "no such file; a LOBSTER message file and its order book belong together")
        self.instrument = Instrument(venue="lobster", symbol=symbols.pop(), tick_size=_TICK, lot_size=1.0)
        self._trade = 0
        self._halted = False

    def batches(self) -> Iterator[Batch]:
        """Read all days (see `recording.Recording.batches`)."""
        for number, (messages, book) in enumerate(self.pairs):
            _, day, levels = _parts(messages)
            midnight = int(datetime.fromisoformat(day).replace(tzinfo=_NEW_YORK).timestamp()) * _NS
            ladders = Ladders(levels)
            columns = [
                f"{side}_{what}_{k}" for k in range(levels) for side in ("ask", "bid") for what in ("price", "size")
            ]
            if number:
                yield self._gap(midnight)
            books = _Lines(book, columns)
            for table in read_tables(messages, _MESSAGE, self.ledger, header=False):
                yield self._batch(table, books.next(table), ladders, midnight)
            books.finish(self.ledger)

    def _gap(self, local: int) -> Batch:
        row = np.zeros(1, ROW_DTYPE)
        row["kind"], row["flags"], row["local_time"] = GAP, END, local
        return Batch(_events(row), np.zeros(1, np.int64))

    def _batch(self, table: Table, book: Table, ladders: Ladders, midnight: int) -> Batch:
        seconds = table.numbers("time")
        if (seconds >= _DAY_S).any():
            raise table.error(int(np.argmax(seconds >= _DAY_S)), "time: not seconds after midnight")
        kinds = table.integers("type", 1, 8)
        sizes = table.numbers("size")
        price = table.integers("price", -1, 2**45)
        direction = table.integers("direction", -1, 2)
        local = midnight + np.rint(seconds * _NS).astype(np.int64)
        levels = book.frame.width // 4
        prices, amounts, counts = _ladder(book, levels)
        halts = np.where(kinds == _HALT, np.where(price == -1, 1, -1), 0)
        rows, owners = self._cut_at_halts(halts, (prices, amounts, counts), local, ladders, table.place)
        traded = np.flatnonzero((kinds == 4) | (kinds == _HIDDEN))
        self.ledger.depth_messages += int(np.count_nonzero(kinds <= 4))
        self.ledger.trades += len(traded)
        for at in np.flatnonzero(kinds == _AUCTION):
            self.ledger.aside(Reason.NO_BOOK_TRADE, table.place + int(at), int(local[at]))
        odd = traded[(price[traded] % (_PRICE // 100) != 0) | (sizes[traded] <= 0) | (price[traded] <= 0)]
        for at in odd:
            # Hidden orders may trade at a fraction of a tick.
            self.ledger.aside(Reason.NO_BOOK_TRADE, table.place + int(at), int(local[at]))
        traded = np.setdiff1d(traded, odd)
        trades = np.zeros(len(traded), ROW_DTYPE)
        trades["local_time"] = trades["exchange_time"] = local[traded]
        trades["kind"], trades["flags"] = TRADE, END
        trades["side"] = np.where(direction[traded] == 1, ASK, BID)
        trades["price"], trades["size"] = price[traded] // (_PRICE // 100), sizes[traded]
        trades["sequence"] = self._trade + 1 + np.arange(len(traded))
        self._trade += len(traded)
        # A trade stands before the change of the book that it makes.
        order = np.argsort(np.concatenate([2 * traded, 2 * owners + 1]), kind="stable")
        places = table.place + np.concatenate([traded, owners])[order]
        return Batch(_events(np.concatenate([trades, rows])[order]), places)

    def _cut_at_halts(
        self,
        halts: npt.NDArray[np.int64],
        ladder: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]],
        local: npt.NDArray[np.int64],
        ladders: Ladders,
        place: int,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Turn ladders into updates; a halt is a `GAP`, and what follows it is set aside until the resumption.

        Args:
            halts: int64 [N], 1 where a halt begins, -1 where it ends, else 0.
            ladder: prices, sizes and counts of each line.
            local: int64 [N], ns.
            ladders: what was shown last.
            place: of the first line.
        """
        parts, owners = [np.zeros(0, ROW_DTYPE)], [np.zeros(0, np.int64)]
        start = 0
        for at in [*np.flatnonzero(halts).tolist(), len(halts)]:
            if self._halted:
                self.ledger.all_aside(Reason.HALT, range(place + start, place + at), local[start:at])
            elif at > start:
                prices, sizes, counts = ladder
                part = slice(start, at)
                rows, of = ladders.push(prices[part], sizes[part], counts[part], local[part], local[part])
                parts.append(rows)
                owners.append(of + start)
            if at == len(halts):
                break
            start = at
            if halts[at] > 0 and not self._halted:
                gap = np.zeros(1, ROW_DTYPE)
                gap["kind"], gap["flags"], gap["local_time"] = GAP, END, local[at]
                parts.append(gap)
                owners.append(np.array([at]))
                self.ledger.fault(Reason.HALT)
                ladders.forget()
                start = at + 1  # the indicator itself is kept: it is the gap
            self._halted = bool(halts[at] > 0)
        return np.concatenate(parts), np.concatenate(owners)


class _Lines:
    """The order book's lines, handed out as many at a time as there are messages."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._own = Ledger()  # its lines are not records of their own
        self._tables = read_tables(path, columns, self._own, header=False)
        self._path = path
        self._waiting: Table | None = None

    def next(self, messages: Table) -> Table:
        """Return the lines that belong to messages."""
        need = messages.frame.height
        while self._waiting is None or self._waiting.frame.height < need:
            more = next(self._tables, None)
            if more is None:
                held = 0 if self._waiting is None else self._waiting.frame.height
                raise messages.error(
                    held, f"{self._path} has no line for this message; the files do not belong together"
                )
            self._waiting = (
                more if self._waiting is None else self._waiting._replace(frame=self._waiting.frame.vstack(more.frame))
            )
        taken = self._waiting._replace(frame=self._waiting.frame.head(need))
        self._waiting = self._waiting._replace(frame=self._waiting.frame.slice(need), place=self._waiting.place + need)
        return taken

    def finish(self, ledger: Ledger) -> None:
        """Refuse lines that no message belongs to."""
        if (self._waiting is not None and self._waiting.frame.height) or next(self._tables, None) is not None:
            raise CaptureError(self._path, f"more lines than {ledger.files[-1]}; the files do not belong together")


def _ladder(book: Table, levels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return prices in ticks and sizes, [N, 2, K], and how many levels each side has, [N, 2]."""
    count = book.frame.height
    prices = np.zeros((count, 2, levels), np.int64)
    sizes = np.zeros((count, 2, levels))
    for s, side in enumerate(("bid", "ask")):
        for k in range(levels):
            raw = book.integers(f"{side}_price_{k}", -_EMPTY, _EMPTY + 1)
            size = book.numbers(f"{side}_size_{k}")
            empty = np.abs(raw) == _EMPTY
            wrong = ~empty & ((raw % (_PRICE // 100) != 0) | (raw <= 0))
            if wrong.any():
                at = int(np.argmax(wrong))
                raise book.error(at, f"{side} price {k + 1}: {raw[at]} is no whole cent")
            prices[:, s, k] = np.where(empty, 0, raw // (_PRICE // 100))
            sizes[:, s, k] = np.where(empty, 0.0, size)
    return prices, sizes, (sizes > 0).sum(axis=2)


def _events(rows: npt.NDArray[Any]) -> Events:
    return Events(*(np.ascontiguousarray(rows[name]) for name in DTYPES))


def _parts(path: Path) -> tuple[str, str, int]:
    found = _NAME.fullmatch(path.name.removesuffix(".gz"))
    if not found:
        raise CaptureError(path, "a LOBSTER file's name must say TICKER_YYYY-MM-DD_START_END_message_LEVELS.csv")
    return found[1], found[2], int(found[6])


def _beside(path: Path, which: str) -> Path:
    _parts(path)
    return path.with_name(re.sub(r"_(message|orderbook)_", f"_{which}_", path.name))


def _key(path: Path) -> str:
    return f"lobster:{_parts(path)[0]}"


def _sniff(line: bytes) -> bool:
    """Six numbers: seconds with decimals, a type; or an order book's multiple of four whole numbers."""
    cells = line.strip().split(b",")
    if len(cells) == len(_MESSAGE):
        return re.fullmatch(rb"\d{1,5}(\.\d+)?,[1-7],\d+,\d+,-?\d+,-?1", line.strip()) is not None
    return len(cells) % 4 == 0 and all(re.fullmatch(rb"-?\d+", cell) for cell in cells)


FORMAT = Format("LOBSTER (message and orderbook CSV)", _sniff, LobsterRecording, _key)
