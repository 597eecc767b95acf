"""The order book, compiled with Numba, its state in one structured array.

Per side, a ring of `WINDOW` prices moves with the touch and contains the best level; other levels are in a hash table.
*Keys* are the price for bids, the negated price for asks: a greater key is a better level.

    >>> from lobsmith.market.book import apply, levels, new_book, touch
    >>> from lobsmith.market.events import BID, CLEAR, END, LEVEL
    >>> book = new_book()
    >>> apply(book, CLEAR, 0, 0, 0.0, 1, 0)
    0
    >>> apply(book, LEVEL, BID, 600_000, 2.5, 1, END)
    0
    >>> touch(book)
    (600000, 2.5, 0, 0.0)
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic

from lobsmith.errors import DataError
from lobsmith.market.events import BID, CLEAR, END, GAP, LEVEL, TICKER

ROW = 1
"""Status bit: an accepted ticker message is complete."""
CROSSED = 2
"""Status bit: after a message the best bid is at or above the best ask."""

WINDOW = 1 << 14
"""Prices in a side's window."""
TABLE = 1 << 16
"""Hash-table slots a side."""
TABLE_MAXIMUM = TABLE - TABLE // 8

_SLOT = WINDOW - 1
_FAR_SLOT = TABLE - 1
_FAR_SHIFT = np.uint64(64 - 16)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROOM = WINDOW // 4
"""Free keys above the best after a window move."""
_EDGE = WINDOW // 8
"""The best's least distance from the window's low end."""

BOOK_DTYPE = np.dtype(
    [
        ("synchronised", np.int64),  # 0 until a CLEAR, and after a GAP
        ("depth_sequence", np.int64),  # of the last depth message
        ("ticker_sequence", np.int64),  # of the last accepted ticker
        ("ticker_on", np.int64, (2,)),  # overrides the touch; [bid, ask] here and below
        ("ticker_price", np.int64, (2,)),
        ("ticker_size", np.float64, (2,)),
        ("base", np.int64, (2,)),  # lowest key, a multiple of 64
        ("best", np.int64, (2,)),  # undefined without levels
        ("inside", np.int64, (2,)),  # levels in the window
        ("outside", np.int64, (2,)),  # levels in the table
        ("bits", np.uint64, (2, WINDOW // 64)),
        ("sizes", np.float64, (2, WINDOW)),
        ("far_keys", np.int64, (2, TABLE)),
        ("far_sizes", np.float64, (2, TABLE)),  # 0: the slot is free
    ],
    align=True,
)

Book = npt.NDArray[np.void]


def new_book() -> Book:
    """Return an empty, unsynchronised book: `BOOK_DTYPE`, shape (1,)."""
    return np.zeros(1, BOOK_DTYPE)


@intrinsic
def _leading_zeros(typing_context: Any, word: Any) -> Any:  # noqa: ARG001
    """Count a non-zero uint64's leading zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.uint64), generate


@njit(cache=True, error_model="numpy")
def _far_home(key):  # type: ignore[no-untyped-def]
    return np.int64((np.uint64(key) * _GOLDEN) >> _FAR_SHIFT)


@njit(cache=True, error_model="numpy")
def _far_put(state, s, key, size):  # type: ignore[no-untyped-def]
    slot = _far_home(key)
    while state.far_sizes[s, slot] > 0.0:
        if state.far_keys[s, slot] == key:
            state.far_sizes[s, slot] = size
            return
        slot = (slot + 1) & _FAR_SLOT
    if state.outside[s] >= TABLE_MAXIMUM:
        raise DataError("the order book is full: more than 57344 levels of a side lie far from the touch")
    state.far_keys[s, slot] = key
    state.far_sizes[s, slot] = size
    state.outside[s] += 1


@njit(cache=True, error_model="numpy")
def _far_delete(state, s, hole):  # type: ignore[no-untyped-def]
    """Free a slot; close the gap in the probe sequence."""
    state.outside[s] -= 1
    slot = hole
    while True:
        slot = (slot + 1) & _FAR_SLOT
        if state.far_sizes[s, slot] == 0.0:
            break
        home = _far_home(state.far_keys[s, slot])
        if (slot - home) & _FAR_SLOT >= (slot - hole) & _FAR_SLOT:
            state.far_keys[s, hole] = state.far_keys[s, slot]
            state.far_sizes[s, hole] = state.far_sizes[s, slot]
            hole = slot
    state.far_sizes[s, hole] = 0.0


@njit(cache=True, error_model="numpy")
def _far_remove(state, s, key):  # type: ignore[no-untyped-def]
    slot = _far_home(key)
    while state.far_sizes[s, slot] > 0.0:
        if state.far_keys[s, slot] == key:
            _far_delete(state, s, slot)
            return
        slot = (slot + 1) & _FAR_SLOT


@njit(cache=True, error_model="numpy")
def _at_or_below(state, s, key):  # type: ignore[no-untyped-def]
    """Return the window's greatest occupied key not above `key`; base - 1 without one."""
    base = state.base[s]
    while key >= base:
        bit = key & 63
        word = state.bits[s, (key & _SLOT) >> 6] << np.uint64(63 - bit)
        if word != np.uint64(0):
            return key - _leading_zeros(word)
        key -= bit + 1
    return base - 1


@njit(cache=True, error_model="numpy")
def _window_put(state, s, key, size):  # type: ignore[no-untyped-def]
    slot = key & _SLOT
    bit = np.uint64(1) << np.uint64(key & 63)
    word = state.bits[s, slot >> 6]
    if word & bit == np.uint64(0):
        state.bits[s, slot >> 6] = word | bit
        state.inside[s] += 1
        if state.inside[s] == 1 or key > state.best[s]:
            state.best[s] = key
    state.sizes[s, slot] = size


@njit(cache=True, error_model="numpy")
def _window_take(state, s, key):  # type: ignore[no-untyped-def]
    state.bits[s, (key & _SLOT) >> 6] ^= np.uint64(1) << np.uint64(key & 63)
    state.inside[s] -= 1


@njit(cache=True, error_model="numpy")
def _move_window(state, s, key):  # type: ignore[no-untyped-def]
    """Move the window around `key`, the present or next best level."""
    old = state.base[s]
    # No word mixes both ends of the ring.
    new = (key + _ROOM - WINDOW) & ~np.int64(63)
    level = _at_or_below(state, s, old + WINDOW - 1)
    while level >= old:
        if level < new or level >= new + WINDOW:
            _window_take(state, s, level)
            _far_put(state, s, level, state.sizes[s, level & _SLOT])
        level = _at_or_below(state, s, level - 1)
    state.base[s] = new
    slot = 0
    left = state.outside[s]
    while left > 0 and slot < TABLE:
        if state.far_sizes[s, slot] > 0.0:
            far = state.far_keys[s, slot]
            if new <= far < new + WINDOW:
                size = state.far_sizes[s, slot]
                _far_delete(state, s, slot)
                _window_put(state, s, far, size)
                continue  # another entry may have moved into this slot
        slot += 1
    state.best[s] = _at_or_below(state, s, new + WINDOW - 1)


@njit(cache=True, error_model="numpy")
def _best_left(state, s):  # type: ignore[no-untyped-def]
    if state.inside[s] > 0:
        best = _at_or_below(state, s, state.best[s])
        state.best[s] = best
        if best - state.base[s] < _EDGE and state.outside[s] > 0:
            _move_window(state, s, best)
    elif state.outside[s] > 0:
        best = np.int64(-(2**63))
        for slot in range(TABLE):
            if state.far_sizes[s, slot] > 0.0 and state.far_keys[s, slot] > best:
                best = state.far_keys[s, slot]
        _move_window(state, s, best)


@njit(cache=True, error_model="numpy")
def _set_level(state, s, key, size):  # type: ignore[no-untyped-def]
    base = state.base[s]
    if base <= key < base + WINDOW:
        if size > 0.0:
            _window_put(state, s, key, size)
        elif (state.bits[s, (key & _SLOT) >> 6] >> np.uint64(key & 63)) & np.uint64(1) != np.uint64(0):
            _window_take(state, s, key)
            if key == state.best[s]:
                _best_left(state, s)
    elif size <= 0.0:
        _far_remove(state, s, key)
    elif state.inside[s] == 0 or key > state.best[s]:
        _move_window(state, s, key)
        _window_put(state, s, key, size)
    else:
        _far_put(state, s, key, size)


@njit(cache=True, error_model="numpy")
def _empty(state):  # type: ignore[no-untyped-def]
    for s in range(2):
        state.ticker_on[s] = 0
        state.inside[s] = 0
        state.bits[s, :] = 0
        if state.outside[s] > 0:
            state.far_sizes[s, :] = 0.0
            state.outside[s] = 0


@njit(cache=True, error_model="numpy")
def apply(book, kind, side, price, size, sequence, flags):  # type: ignore[no-untyped-def]
    """Apply one event to the book.

    A ticker newer than the last depth message overrides the touch until depth catches up. Levels and tickers are
    ignored before the first CLEAR and after a GAP, trades always.

    Args:
        book: `BOOK_DTYPE` [1], changed.
        kind, side, price, size, sequence, flags: the event (see `events`); |price| < 2**62.

    Returns:
        Bits: `ROW` after an accepted ticker message, `CROSSED` if the depth (after a depth message) or the effective
        touch (after a ticker) is crossed or locked.

    Raises:
        DataError: a side's hash table is full.
    """
    state = book[0]
    if kind == LEVEL:
        if state.synchronised == 0:
            return 0
        state.depth_sequence = sequence
        if sequence >= state.ticker_sequence:
            state.ticker_on[0] = 0
            state.ticker_on[1] = 0
        if side == BID:
            _set_level(state, 0, price, size)
        else:
            _set_level(state, 1, -price, size)
        if flags & END and state.inside[0] > 0 and state.inside[1] > 0 and state.best[0] >= -state.best[1]:
            return CROSSED
    elif kind == TICKER:
        if state.synchronised == 0 or sequence <= state.depth_sequence:
            return 0
        s = 0 if side == BID else 1
        state.ticker_sequence = sequence
        state.ticker_on[s] = 1 if size > 0.0 else 0
        state.ticker_price[s] = price
        state.ticker_size[s] = size
        if flags & END:
            bid, bid_size, ask, ask_size = touch(book)
            if bid_size > 0.0 and ask_size > 0.0 and bid >= ask:
                return ROW | CROSSED
            return ROW
    elif kind == CLEAR:
        _empty(state)
        state.synchronised = 1
        state.depth_sequence = sequence
    elif kind == GAP:
        _empty(state)
        state.synchronised = 0
    return 0


@njit(cache=True, error_model="numpy")
def touch(book):  # type: ignore[no-untyped-def]
    """Return effective best bid, size, best ask, size; zeros for an empty side."""
    state = book[0]
    bid, bid_size, ask, ask_size = np.int64(0), 0.0, np.int64(0), 0.0
    if state.ticker_on[0]:
        bid, bid_size = state.ticker_price[0], state.ticker_size[0]
    elif state.inside[0] > 0:
        bid = state.best[0]
        bid_size = state.sizes[0, bid & _SLOT]
    if state.ticker_on[1]:
        ask, ask_size = state.ticker_price[1], state.ticker_size[1]
    elif state.inside[1] > 0:
        ask = -state.best[1]
        ask_size = state.sizes[1, state.best[1] & _SLOT]
    return bid, bid_size, ask, ask_size


@njit(cache=True, error_model="numpy")
def levels(book, side, prices, sizes):  # type: ignore[no-untyped-def]
    """Write a side's effective levels, best first, without allocating.

    Args:
        book: `BOOK_DTYPE` [1].
        side: `BID` or `ASK`.
        prices: int64 [n], written: ticks.
        sizes: float64 [n], written: base units.

    Returns:
        Levels written, at most n.
    """
    state = book[0]
    s = 0 if side == BID else 1
    sign = np.int64(1) if side == BID else np.int64(-1)
    wanted = len(prices)
    count = 0
    highest = np.int64(2**62)
    if state.ticker_on[s] and wanted > 0:
        prices[0] = state.ticker_price[s]
        sizes[0] = state.ticker_size[s]
        highest = sign * state.ticker_price[s] - 1
        count = 1
    if state.inside[s] == 0:
        return count
    base = state.base[s]
    key = _at_or_below(state, s, min(highest, state.best[s]))
    while count < wanted and key >= base:
        prices[count] = sign * key
        sizes[count] = state.sizes[s, key & _SLOT]
        count += 1
        key = _at_or_below(state, s, key - 1)
    if count == wanted or state.outside[s] == 0:
        return count
    # A thin book: insert the table's levels in order.
    first = count
    left = state.outside[s]
    for slot in range(TABLE):
        if left == 0:
            break
        if state.far_sizes[s, slot] == 0.0:
            continue
        left -= 1
        key = state.far_keys[s, slot]
        if key > highest or (count == wanted and key < sign * prices[count - 1]):
            continue
        if count < wanted:
            count += 1
        place = count - 1
        while place > first and sign * prices[place - 1] < key:
            prices[place] = prices[place - 1]
            sizes[place] = sizes[place - 1]
            place -= 1
        prices[place] = sign * key
        sizes[place] = state.far_sizes[s, slot]
    return count


@njit(cache=True, error_model="numpy")
def size_at(book, side, price):  # type: ignore[no-untyped-def]
    """Return the depth's size at a price, without tickers; 0 without a level."""
    state = book[0]
    s = 0 if side == BID else 1
    key = price if side == BID else -price
    if state.base[s] <= key < state.base[s] + WINDOW:
        slot = key & _SLOT
        occupied = (state.bits[s, slot >> 6] >> np.uint64(key & 63)) & np.uint64(1)
        return state.sizes[s, slot] if occupied != np.uint64(0) else 0.0
    slot = _far_home(key)
    while state.far_sizes[s, slot] > 0.0:
        if state.far_keys[s, slot] == key:
            return state.far_sizes[s, slot]
        slot = (slot + 1) & _FAR_SLOT
    return 0.0


@njit(cache=True, error_model="numpy")
def every_level(book, side, prices, sizes):  # type: ignore[no-untyped-def]
    """Write all levels of a side's depth, without tickers: the window's best first, then the others unordered.

    Args:
        book: `BOOK_DTYPE` [1].
        side: `BID` or `ASK`.
        prices: int64 [n], written; n at least `inside + outside` of that side.
        sizes: float64 [n], written.

    Returns:
        Levels written.
    """
    state = book[0]
    s = 0 if side == BID else 1
    sign = np.int64(1) if side == BID else np.int64(-1)
    count = 0
    if state.inside[s] > 0:
        key = _at_or_below(state, s, state.best[s])
        while key >= state.base[s]:
            prices[count] = sign * key
            sizes[count] = state.sizes[s, key & _SLOT]
            count += 1
            key = _at_or_below(state, s, key - 1)
    left = state.outside[s]
    slot = 0
    while left > 0:
        if state.far_sizes[s, slot] > 0.0:
            prices[count] = sign * state.far_keys[s, slot]
            sizes[count] = state.far_sizes[s, slot]
            count += 1
            left -= 1
        slot += 1
    return count


@njit(cache=True, error_model="numpy")
def replay(book, kind, side, price, size, sequence, flags):  # type: ignore[no-untyped-def]
    """Apply event columns, each [N]; return the numbers of rows and of crossed states."""
    rows = 0
    crossed = 0
    for i in range(len(kind)):
        status = apply(book, kind[i], side[i], price[i], size[i], sequence[i], flags[i])
        rows += status & ROW
        crossed += (status & CROSSED) >> 1
    return rows, crossed
