"""Compiled parser of prices (integers in 10**-8) and sizes (correctly rounded floats) in JSON payloads.

It keeps the greatest common divisors of all prices and of all sizes, to infer tick and lot. An item locates raw JSON
values in a text:

| op          | values                                | events |
|-------------|---------------------------------------|--------|
| `DEPTH`     | bids, asks: `[["price", "size"], …]`  | `LEVEL` each |
| `SNAPSHOT`  | bids, asks                            | `CLEAR`, then `LEVEL` each |
| `TICKER`    | bid, bid size, ask, ask size          | `TICKER` bid and ask, none if a side is empty |
| `BUY`, `SELL` | price, size                         | `TRADE`, none if either is 0 |
| `LOST`      | none                                  | `GAP` |
"""

import numpy as np
from numba import njit

from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, GAP, LEVEL, TICKER, TRADE

OP_DEPTH, OP_SNAPSHOT, OP_TICKER, OP_BUY, OP_SELL, OP_LOST = range(6)

PRICE_DECIMALS = 8
PRICE_SCALE = 10**PRICE_DECIMALS

ROW_DTYPE = np.dtype([(name, dtype) for name, dtype in DTYPES.items()])
ITEM_DTYPE = np.dtype(
    [
        *((name, np.int64) for name in ("op", "local_time", "exchange_time", "sequence", "place")),
        ("values", np.int64, (4, 2)),  # start and stop in the text
    ]
)

ERRORS = {
    -1: "a level, price or size of the wrong shape",
    -2: "a price or size that is no decimal number",
    -3: "a negative price or size",
    -4: "a price or size with more digits than can be held exactly",
    -5: "a level with a price of 0",
    -6: "a message without its update id or trade id",
}

_QUOTE, _OPEN, _CLOSE, _COMMA, _MINUS, _POINT = (ord(sign) for sign in '"[],-.')
_ZERO, _NINE = ord("0"), ord("9")
_EXACT = 1 << 53
_POWERS = 10 ** np.arange(19, dtype=np.int64)


def new_divisors() -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Return int64 [2, 2]: divisor and its decimals, of prices and of sizes; zeros."""
    return np.zeros((2, 2), np.int64)


@njit(cache=True, error_model="numpy")
def _skip(text, at):  # type: ignore[no-untyped-def]
    while text[at] == 32 or text[at] == 9 or text[at] == 13:
        at += 1
    return at


@njit(cache=True, error_model="numpy")
def _number(text, at):  # type: ignore[no-untyped-def]
    """Parse a quoted decimal; return (position after it or an error, digits as an integer, decimals), zeros dropped."""
    at = _skip(text, at)
    if text[at] != _QUOTE:
        return -1, 0, 0
    at += 1
    if text[at] == _MINUS and _ZERO <= text[at + 1] <= _NINE:
        return -3, 0, 0
    start = at
    digits = np.int64(0)
    while _ZERO <= text[at] <= _NINE:
        digits = digits * 10 + (np.int64(text[at]) - _ZERO)
        if digits > _EXACT:
            return -4, 0, 0
        at += 1
    if at == start:
        return -2, 0, 0
    decimals = 0
    if text[at] == _POINT:
        at += 1
        start = at
        while _ZERO <= text[at] <= _NINE:
            if text[at] != _ZERO:
                shift = at - start + 1 - decimals
                if shift > 16 or digits > _EXACT // _POWERS[shift]:
                    return -4, 0, 0
                digits = digits * _POWERS[shift] + (np.int64(text[at]) - _ZERO)
                decimals += shift
                if digits > _EXACT or decimals > 15:
                    return -4, 0, 0
            at += 1
        if at == start:
            return -2, 0, 0
    if text[at] != _QUOTE:
        return -2, 0, 0
    return at + 1, digits, decimals


@njit(cache=True, error_model="numpy")
def _common(a, b):  # type: ignore[no-untyped-def]
    while b != 0:
        a, b = b, a % b
    return a


@njit(cache=True, error_model="numpy")
def _divide(divisors, which, digits, decimals):  # type: ignore[no-untyped-def]
    """Fold a number into the divisor, modulo to avoid overflow."""
    common, places = divisors[which, 0], divisors[which, 1]
    if digits == 0 or (common == 1 and places >= decimals):
        return
    if common == 0:
        divisors[which, 0] = digits
        divisors[which, 1] = decimals
        return
    if decimals > places:
        rest = common % digits
        for _ in range(decimals - places):
            rest = rest * 10 % digits
        divisors[which, 0] = _common(digits, rest)
        divisors[which, 1] = decimals
    else:
        rest = digits % common
        for _ in range(places - decimals):
            rest = rest * 10 % common
        divisors[which, 0] = _common(common, rest)


@njit(cache=True, error_model="numpy")
def _scaled(price, price_decimals, size, size_decimals, divisors):  # type: ignore[no-untyped-def]
    """Return (0 or an error, price in 10**-8, size)."""
    if price_decimals > PRICE_DECIMALS or price > (1 << 61) // _POWERS[PRICE_DECIMALS - price_decimals]:
        return -4, 0, 0.0
    _divide(divisors, 0, price, price_decimals)
    _divide(divisors, 1, size, size_decimals)
    # Exact operands: the quotient is correctly rounded.
    return 0, price * _POWERS[PRICE_DECIMALS - price_decimals], size / np.float64(_POWERS[size_decimals])


@njit(cache=True, error_model="numpy")
def _two_values(text, values, which, divisors):  # type: ignore[no-untyped-def]
    at, price, price_decimals = _number(text, values[which, 0])
    if at < 0:
        return at, 0, 0.0
    if at != values[which, 1]:
        return -1, 0, 0.0
    at, size, size_decimals = _number(text, values[which + 1, 0])
    if at < 0:
        return at, 0, 0.0
    if at != values[which + 1, 1]:
        return -1, 0, 0.0
    return _scaled(price, price_decimals, size, size_decimals, divisors)


@njit(cache=True, error_model="numpy")
def _write(rows, n, item, kind, side, price, size):  # type: ignore[no-untyped-def]
    row = rows[n]
    row.exchange_time = item.exchange_time
    row.local_time = item.local_time
    row.kind = kind
    row.side = side
    row.flags = 0
    row.price = price
    row.size = size
    row.sequence = item.sequence


@njit(cache=True, error_model="numpy")
def _levels(text, at, stop, rows, n, item, side, divisors):  # type: ignore[no-untyped-def]
    if text[at] != _OPEN:
        return -1, n
    at = _skip(text, at + 1)
    while text[at] == _OPEN:
        at, price, price_decimals = _number(text, at + 1)
        if at < 0:
            return at, n
        at = _skip(text, at)
        if text[at] != _COMMA:
            return -1, n
        at, size, size_decimals = _number(text, at + 1)
        if at < 0:
            return at, n
        error, price, amount = _scaled(price, price_decimals, size, size_decimals, divisors)
        if error:
            return error, n
        if price == 0:
            return -5, n
        at = _skip(text, at)
        if text[at] != _CLOSE:
            return -1, n
        _write(rows, n, item, LEVEL, side, price, amount)
        n += 1
        at = _skip(text, at + 1)
        if text[at] == _COMMA:
            at = _skip(text, at + 1)
            if text[at] != _OPEN:
                return -1, n
    if text[at] != _CLOSE or at + 1 != stop:
        return -1, n
    return 0, n


@njit(cache=True, error_model="numpy")
def parse(text, items, rows, places, divisors, unusable):  # type: ignore[no-untyped-def]
    """Parse items in order into rows.

    Args:
        text: uint8 [bytes]; no value may end at its very end.
        items: `ITEM_DTYPE` [I].
        rows: `ROW_DTYPE` [R], written, prices in 10**-8; R at least a quarter of the quotes in the values plus 2 I.
        places: int64 [R], written: each row's item's place.
        divisors: int64 [2, 2], updated.
        unusable: bool [I], set for tickers with an empty side and trades of price or size 0.

    Returns:
        (rows written, error, item): error is 0, or a key of `ERRORS` caused by item number `item`.
    """
    n = 0
    for i in range(len(items)):
        item = items[i]
        first = n
        error = 0
        if item.sequence < 0:
            return n, -6, i
        if item.op == OP_DEPTH or item.op == OP_SNAPSHOT:
            if item.op == OP_SNAPSHOT:
                _write(rows, n, item, CLEAR, 0, 0, 0.0)
                n += 1
            error, n = _levels(text, item.values[0, 0], item.values[0, 1], rows, n, item, BID, divisors)
            if error == 0:
                error, n = _levels(text, item.values[1, 0], item.values[1, 1], rows, n, item, ASK, divisors)
        elif item.op == OP_TICKER:
            error, bid, bid_size = _two_values(text, item.values, 0, divisors)
            ask, ask_size = 0, 0.0
            if error == 0:
                error, ask, ask_size = _two_values(text, item.values, 2, divisors)
            if bid > 0 and ask > 0 and bid_size > 0.0 and ask_size > 0.0:
                _write(rows, n, item, TICKER, BID, bid, bid_size)
                _write(rows, n + 1, item, TICKER, ASK, ask, ask_size)
                n += 2
            else:
                unusable[i] = True
        elif item.op == OP_BUY or item.op == OP_SELL:
            error, price, size = _two_values(text, item.values, 0, divisors)
            if price > 0 and size > 0.0:
                _write(rows, n, item, TRADE, BID if item.op == OP_BUY else ASK, price, size)
                n += 1
            else:
                unusable[i] = True
        else:
            _write(rows, n, item, GAP, 0, 0, 0.0)
            n += 1
        if error:
            return n, error, i
        if n > first:
            rows[n - 1].flags = END
            places[first:n] = item.place
    return n, 0, 0
