"""Items for the compiled parser, and the text of their values."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from lobsmith.market.payloads import ITEM_DTYPE, OP_BUY, OP_SELL, OP_TICKER
from lobsmith.market.venues.binance.depth import Value
from lobsmith.market.venues.binance.scan import PADDING, TICKER, TRADE

_PADDED = b"\0" * PADDING


@njit(cache=True, error_model="numpy")
def note_trade(trades, number):  # type: ignore[no-untyped-def]
    """Update `trades`, int64 [2] (newest id, skipped ids)."""
    if number > trades[0]:
        if trades[0] >= 0:
            trades[1] += number - trades[0] - 1
        trades[0] = number


@njit(cache=True, error_model="numpy")
def _add_lines(lines, start, stop, place, trades, tickers, items, count):  # type: ignore[no-untyped-def]
    for at in range(start, stop):
        line = lines[at]
        if line.kind == TRADE:
            note_trade(trades, line.last)
        elif line.kind != TICKER or not tickers:
            continue
        item = items[count]
        item.op = OP_TICKER if line.kind == TICKER else OP_SELL if line.sell else OP_BUY
        item.local_time = line.local
        item.exchange_time = line.exchange
        item.sequence = line.last
        item.place = place + at
        item.values[:, :] = line.values
        count += 1
    return count


class Items:
    """Items in order, the text, and values from elsewhere behind it."""

    def __init__(self) -> None:
        self.count = 0
        self.raw = b""
        self._room = np.empty(1 << 16, ITEM_DTYPE)
        self._text: npt.NDArray[np.uint8] = np.frombuffer(_PADDED, np.uint8)
        self._more: list[bytes] = []
        self._length = 0

    def begin(self, text: bytes) -> npt.NDArray[np.uint8]:
        """Take the next text; return it with `PADDING`."""
        kept, self._more = self._more, []
        self._text = np.frombuffer(text + _PADDED, np.uint8)
        shift = len(text) - len(self.raw)
        self.raw = text
        self._more = kept
        self._length += shift
        self._room["values"][: self.count] += shift
        return self._text

    def _span(self, value: Value) -> tuple[int, int]:
        if not isinstance(value, bytes):
            return value
        start = self._length
        self._more.append(value)
        self._length += len(value)
        return start, self._length

    def _reserve(self, more: int) -> None:
        if self.count + more > len(self._room):
            room = np.empty(2 * (self.count + more), ITEM_DTYPE)
            room[: self.count] = self._room[: self.count]
            self._room = room

    def add(self, op: int, local: int, exchange: int, sequence: int, place: int, *values: Value) -> None:
        """Add one item."""
        self._reserve(1)
        spans = [*map(self._span, values), *[(0, 0)] * (4 - len(values))]
        self._room[self.count] = (op, local, exchange, sequence, place, spans)
        self.count += 1

    def add_lines(
        self,
        lines: npt.NDArray[np.void],
        start: int,
        stop: int,
        place: int,
        trades: npt.NDArray[np.int64],
        *,
        tickers: bool,
    ) -> None:
        """Add the text's trades, and optionally tickers; `place` is line 0's."""
        self._reserve(stop - start)
        self.count = _add_lines(lines, start, stop, place, trades, tickers, self._room, self.count)

    def add_items(self, items: npt.NDArray[np.void]) -> None:
        """Add items that were cut off."""
        self._reserve(len(items))
        self._room[self.count : self.count + len(items)] = items
        self.count += len(items)

    def cut(self, start: int) -> npt.NDArray[np.void]:
        """Remove and return the items from `start` on."""
        rest = self._room[start : self.count].copy()
        self.count = start
        return rest

    def items(self, stop: int | None) -> npt.NDArray[np.void]:
        """Return the items before `stop`, or all, as a view."""
        return self._room[: self.count if stop is None else stop]

    def text(self) -> npt.NDArray[np.uint8]:
        """Return the text with all appended values."""
        if not self._more:
            return self._text
        return np.frombuffer(b"".join([self.raw, *self._more, _PADDED]), np.uint8)

    def keep(self, start: int | None = None) -> None:
        """Drop items before `start`, or all, and unused text."""
        rest = self.cut(self.count if start is None else start)
        text = self.text().tobytes() if len(rest) else b""
        self.count = 0
        self.raw, self._more, self._length = b"", [], 0
        self._text = np.frombuffer(_PADDED, np.uint8)
        fields: Any
        for *fields, values in rest.tolist():
            self.add(*fields, *(text[a:b] for a, b in values))
