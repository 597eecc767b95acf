"""The fast path through Binance's messages: a compiled pass over lines.

It reads the combined stream's messages as the venue formats them. Anything else is `SLOW`, left to the JSON decoder;
the result is the same.
"""

import numpy as np
from numba import njit

SLOW, TICKER, TRADE, DEPTH = range(4)

LINE_DTYPE = np.dtype(
    [
        ("start", np.int64),
        ("stop", np.int64),  # without the line feed
        ("kind", np.int64),
        ("local", np.int64),
        ("exchange", np.int64),
        ("first", np.int64),  # U
        ("last", np.int64),  # u, or a trade's id
        ("previous", np.int64),  # pu, -2 without
        ("paired", np.int64),  # COIN-M names the pair
        ("sell", np.int64),
        # Start and stop of bid, its size, ask, its size; or price, quantity; or bids, asks.
        ("values", np.int64, (4, 2)),
    ]
)

PADDING = 64
"""Bytes that may be read past a line's end."""

_NS_DIGITS, _US_DIGITS = 19, 16
_EARLIEST = 10**18
_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _LEFT, _RIGHT, _MINUS, _BACK = (ord(sign) for sign in '",:{}[]-\\')
_ZERO, _NINE, _LINE = ord("0"), ord("9"), 10
_KEYS = 1 << 14
_STREAM = np.frombuffer(b'{"stream":"', np.uint8)
_DATA = np.frombuffer(b'","data":{', np.uint8)
_PARTIAL = np.frombuffer(b"@depth", np.uint8)
_TICKER_NAME = np.frombuffer(b"bookTicker", np.uint8)
_TRADE_NAME = np.frombuffer(b"trade", np.uint8)
_DEPTH_NAME = np.frombuffer(b"depthUpdate", np.uint8)
_MARKET = np.frombuffer(b"MARKET", np.uint8)
_TRUE = np.frombuffer(b"true", np.uint8)
_FALSE = np.frombuffer(b"false", np.uint8)

_E, _e, _T, _s, _U, _u, _b, _B, _a, _A, _t, _p, _q, _X, _m = (ord(sign) for sign in "EeTsUubBaAtpqXm")
_PU = ord("p") << 7 | ord("u")
_PS = ord("p") << 7 | ord("s")


@njit(cache=True, error_model="numpy")
def _is(text, start, stop, word):  # type: ignore[no-untyped-def]
    if stop - start != len(word):
        return False
    for i in range(len(word)):  # noqa: SIM110 - Numba compiles no generator
        if text[start + i] != word[i]:
            return False
    return True


@njit(cache=True, error_model="numpy")
def _partial(text, start, stop):  # type: ignore[no-untyped-def]
    """Return whether a stream may be partial depth: `@depth` and a digit."""
    for i in range(start, stop - len(_PARTIAL)):
        if text[i] == _PARTIAL[0] and _is(text, i, i + len(_PARTIAL), _PARTIAL):
            return _ZERO <= text[i + len(_PARTIAL)] <= _NINE
    return False


@njit(cache=True, error_model="numpy")
def _string(text, at, stop):  # type: ignore[no-untyped-def]
    """Return the position after the string that opens at `at`; -1 without an end or with an escape."""
    at += 1
    while at < stop and text[at] != _QUOTE:
        if text[at] == _BACK:
            return -1
        at += 1
    return at + 1 if at < stop else -1


@njit(cache=True, error_model="numpy")
def _array(text, at, stop):  # type: ignore[no-untyped-def]
    depth = 0
    while at < stop:
        if text[at] == _LEFT:
            depth += 1
        elif text[at] == _RIGHT:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return -1


@njit(cache=True, error_model="numpy")
def _integer(text, at, stop):  # type: ignore[no-untyped-def]
    """Return (position after it or -1, value) of an integer of at most 18 digits."""
    negative = text[at] == _MINUS
    if negative:
        at += 1
    start = at
    value = np.int64(0)
    while at < stop and _ZERO <= text[at] <= _NINE:
        value = value * 10 + (np.int64(text[at]) - _ZERO)
        at += 1
    if at == start or at - start > 18 or (text[start] == _ZERO and at - start > 1):
        return -1, 0
    return at, -value if negative else value


@njit(cache=True, error_model="numpy")
def _fields(text, at, stop, line, spans, numbers):  # type: ignore[no-untyped-def]
    """Read an open object's fields; return the position after it, or -1."""
    while True:
        if text[at] != _QUOTE:
            return -1
        if text[at + 2] == _QUOTE:
            key = np.int64(text[at + 1])
            at += 3
        elif text[at + 3] == _QUOTE:
            key = np.int64(text[at + 1]) << 7 | np.int64(text[at + 2])
            at += 4
        else:
            return -1
        if text[at] != _COLON or key >= _KEYS or 128 <= key < 32 << 7:
            return -1
        at += 1
        first = text[at]
        start = at
        if first == _QUOTE:
            at = _string(text, at, stop) if key != _PU else -1
        elif first == _LEFT:
            at = _array(text, at, stop)
        elif first == _MINUS or _ZERO <= first <= _NINE:
            at, value = _integer(text, at, stop)
            if key < 128:
                numbers[key] = value
            elif key == _PU:
                line.previous = value
        elif _is(text, at, at + 4, _TRUE):
            at += 4
        elif _is(text, at, at + 5, _FALSE):
            at += 5
        else:
            return -1
        if at < 0 or at >= stop:
            return -1
        if key < 128:
            if spans[key, 1] > 0:
                return -1  # repeated key
            spans[key, 0] = start
            spans[key, 1] = at
        elif key == _PS:
            line.paired = 1
        if text[at] == _CLOSE:
            return at + 1
        if text[at] != _COMMA:
            return -1
        at += 1


@njit(cache=True, error_model="numpy")
def _is_text(text, spans, key):  # type: ignore[no-untyped-def]
    return spans[key, 1] > 0 and text[spans[key, 0]] == _QUOTE


@njit(cache=True, error_model="numpy")
def _is_number(text, spans, key):  # type: ignore[no-untyped-def]
    return spans[key, 1] > 0 and (text[spans[key, 0]] == _MINUS or _ZERO <= text[spans[key, 0]] <= _NINE)


@njit(cache=True, error_model="numpy")
def _values(line, spans, a, b, c, d):  # type: ignore[no-untyped-def]
    line.values[0, 0], line.values[0, 1] = spans[a, 0], spans[a, 1]
    line.values[1, 0], line.values[1, 1] = spans[b, 0], spans[b, 1]
    line.values[2, 0], line.values[2, 1] = spans[c, 0], spans[c, 1]
    line.values[3, 0], line.values[3, 1] = spans[d, 0], spans[d, 1]


@njit(cache=True, error_model="numpy")
def _message(text, symbol, line, spans, numbers):  # type: ignore[no-untyped-def]
    at, stop = line.start, line.stop
    if stop - at < _NS_DIGITS + 40:
        return SLOW
    digits = _US_DIGITS if text[at + _US_DIGITS] == 32 else _NS_DIGITS
    if text[at + digits] != 32:
        return SLOW
    local = np.uint64(0)
    for i in range(at, at + digits):
        if not _ZERO <= text[i] <= _NINE:
            return SLOW
        local = local * np.uint64(10) + np.uint64(text[i] - _ZERO)
    if digits == _US_DIGITS:
        local *= np.uint64(1000)
    if local < np.uint64(_EARLIEST) or local >= np.uint64(2**63):
        return SLOW
    line.local = np.int64(local)
    at += digits + 1
    if not _is(text, at, at + len(_STREAM), _STREAM):
        return SLOW
    start = at + len(_STREAM) - 1
    at = _string(text, start, stop)
    if at < 0 or not _is(text, at - 1, at - 1 + len(_DATA), _DATA):
        return SLOW
    if _partial(text, start, at):
        return SLOW
    spans[:, :] = 0
    numbers[:] = 0
    line.previous = -2
    line.paired = 0
    at = _fields(text, at - 1 + len(_DATA), stop, line, spans, numbers)
    if at < 0 or at + 1 != stop or text[at] != _CLOSE:
        return SLOW
    if not _is_text(text, spans, _s) or not _is(text, spans[_s, 0] + 1, spans[_s, 1] - 1, symbol):
        return SLOW
    for key in (_E, _T):
        if spans[key, 1] > 0 and (not _is_number(text, spans, key) or numbers[key] < 0):
            return SLOW
    line.exchange = numbers[_T] if numbers[_T] else numbers[_E]
    name, name_end = spans[_e, 0] + 1, spans[_e, 1] - 1
    if spans[_e, 1] == 0 or _is(text, name, name_end, _TICKER_NAME):
        if not _is_number(text, spans, _u) or numbers[_u] < 0:
            return SLOW
        for key in (_b, _B, _a, _A):
            if not _is_text(text, spans, key):
                return SLOW
        line.last = numbers[_u]
        _values(line, spans, _b, _B, _a, _A)
        return TICKER
    if _is(text, name, name_end, _TRADE_NAME):
        if not (_is_number(text, spans, _t) and _is_text(text, spans, _p) and _is_text(text, spans, _q)):
            return SLOW
        if spans[_X, 1] > 0 and not _is(text, spans[_X, 0] + 1, spans[_X, 1] - 1, _MARKET):
            return SLOW
        true = text[spans[_m, 0]] == _TRUE[0]
        if spans[_m, 1] == 0 or numbers[_t] < 0 or not (true or text[spans[_m, 0]] == _FALSE[0]):
            return SLOW
        line.last = numbers[_t]
        line.sell = true
        _values(line, spans, _p, _q, _p, _q)
        return TRADE
    if _is(text, name, name_end, _DEPTH_NAME):
        if not (_is_number(text, spans, _U) and _is_number(text, spans, _u)):
            return SLOW
        if numbers[_U] < 0 or numbers[_u] < 0 or line.previous < -2:
            return SLOW
        for key in (_b, _a):
            if spans[key, 1] == 0 or text[spans[key, 0]] != _LEFT:
                return SLOW
        line.first, line.last = numbers[_U], numbers[_u]
        _values(line, spans, _b, _a, _b, _a)
        return DEPTH
    return SLOW


@njit(cache=True, error_model="numpy")
def scan(text, symbol, lines):  # type: ignore[no-untyped-def]
    """Read whole lines.

    Args:
        text: uint8 [bytes]: lines with line feeds, then `PADDING` bytes.
        symbol: uint8; another symbol's message is `SLOW`.
        lines: `LINE_DTYPE` [L], written; L the number of lines.
    """
    spans = np.zeros((128, 2), np.int64)
    numbers = np.zeros(128, np.int64)
    start = 0
    n = 0
    for at in range(len(text) - PADDING):
        if text[at] == _LINE:
            line = lines[n]
            line.start, line.stop = start, at
            line.kind = _message(text, symbol, line, spans, numbers)
            start = at + 1
            n += 1
