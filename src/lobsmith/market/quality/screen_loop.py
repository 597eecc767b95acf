"""The screen's compiled loop (see `screen`)."""

import numpy as np
from numba import njit

from lobsmith.market.book import CROSSED as BOOK_CROSSED
from lobsmith.market.book import apply, every_level, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, END, GAP, LEVEL, RESTATED, TICKER, TRADE

__all__ = ["ASIDE_DTYPE", "STATE_DTYPE", "new_book", "run"]

PENDING, CROSSED, LOCKED, NEGATIVE, STALE, STEP, DUPLICATE, LATE, LOST = range(9)
CLOSES = 16
"""Added to the reason of an incident at its end."""

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_PARTS = 4
"""A lag is constant when the minima of this many parts of `settle` agree."""
_FOLLOW = 0.1
_SEEN = 1 << 13

STATE_DTYPE = np.dtype(
    [
        # Limits, ns.
        ("tolerance", np.int64),
        ("stale_after", np.int64),
        ("silent_after", np.int64),
        ("settle", np.int64),
        ("crossed_after", np.int64),
        ("ticker_feed", np.int64),
        # Clocks.
        ("started", np.int64),
        ("first", np.int64),
        ("local", np.int64),  # last in order
        ("day", np.int64),
        ("calibrated", np.int64),
        ("calibrate_until", np.int64),
        ("offset", np.int64),
        ("window_end", np.int64),
        ("window_lag", np.int64),
        # A possibly constant lag.
        ("part_end", np.int64),
        ("part_lag", np.int64),
        ("parts", np.int64),
        ("stepped", np.int64),
        ("low", np.int64),
        ("high", np.int64),
        # Incidents.
        ("incident", np.int64),  # the present one
        ("crossed_since", np.int64),
        ("open", np.int64),  # within a segment
        # Ids modulo _SEEN; [tickers, trades].
        ("newest", np.int64, (2,)),
        ("seen", np.int64, (2, _SEEN)),
        # The account.
        ("segments", np.int64),
        ("crossings", np.int64),
        ("mid_changes", np.int64),
        # The last written touch.
        ("bid", np.int64),
        ("bid_size", np.float64),
        ("ask", np.int64),
        ("ask_size", np.float64),
    ],
    align=True,
)

ASIDE_DTYPE = np.dtype([("reason", np.int64), ("place", np.int64), ("local_time", np.int64)])


@njit(cache=True, error_model="numpy")
def _write(rows, n, exchange, local, kind, side, flags, price, size, sequence):  # type: ignore[no-untyped-def]
    row = rows[n]
    row.exchange_time = exchange
    row.local_time = local
    row.kind = kind
    row.side = side
    row.flags = flags
    row.price = price
    row.size = size
    row.sequence = sequence
    return n + 1


@njit(cache=True, error_model="numpy")
def _leave(asides, n, reason, place, local):  # type: ignore[no-untyped-def]
    asides[n].reason = reason
    asides[n].place = place
    asides[n].local_time = local
    return n + 1


@njit(cache=True, error_model="numpy")
def _constant_lag(s, local, lag, begin):  # type: ignore[no-untyped-def]
    """Add a lag; return whether it has been constant over `settle`."""
    if begin:
        s.parts = 0
        s.part_end = local + s.settle // _PARTS
        s.part_lag = lag
        return False
    if local < s.part_end:
        s.part_lag = min(s.part_lag, lag)
        return False
    low = min(s.low, s.part_lag) if s.parts else s.part_lag
    high = max(s.high, s.part_lag) if s.parts else s.part_lag
    if high - low > s.tolerance:
        s.parts, low, high = 0, s.part_lag, s.part_lag
    s.parts += 1
    s.low, s.high = low, high
    s.part_end = local + s.settle // _PARTS
    s.part_lag = lag
    return s.parts >= _PARTS


@njit(cache=True, error_model="numpy")
def _follow(s, local, lag):  # type: ignore[no-untyped-def]
    if local < s.calibrate_until:
        s.offset = min(s.offset, lag)
        return
    if local < s.window_end:
        s.window_lag = min(s.window_lag, lag)
        return
    if s.window_lag - s.offset <= s.tolerance:
        s.offset += np.int64(_FOLLOW * np.float64(s.window_lag - s.offset))
        s.parts = 0
    else:
        # A whole second late but not stale: a small clock step if it lasts.
        s.low = min(s.low, s.window_lag) if s.parts else s.window_lag
        s.high = max(s.high, s.window_lag) if s.parts else s.window_lag
        s.parts = s.parts + 1 if s.high - s.low <= s.tolerance else 0
        if s.parts * _SECOND >= s.settle:
            s.stepped = 1
            s.offset = s.low
            s.parts = 0
    s.window_end = local + _SECOND
    s.window_lag = lag


@njit(cache=True, error_model="numpy")
def _begin_clock(s, local, lag):  # type: ignore[no-untyped-def]
    s.calibrated = 1
    s.offset = lag
    s.calibrate_until = local + _SECOND
    s.window_end = s.calibrate_until
    s.window_lag = lag


@njit(cache=True, error_model="numpy")
def _judge_clock(s, local, exchange):  # type: ignore[no-untyped-def]
    doubtful = s.incident == NEGATIVE or s.incident == STALE or s.incident == STEP
    wrong = STEP if local < s.local - s.tolerance else 0
    if exchange == 0:
        return s.incident if doubtful and wrong == 0 else wrong
    lag = local - exchange
    if s.calibrated == 0:
        _begin_clock(s, local, lag)
    latency = lag - s.offset
    if wrong == 0:
        if latency < -s.tolerance and local >= s.calibrate_until:
            wrong = NEGATIVE
        elif latency > s.stale_after:
            wrong = STALE
    if wrong == 0:
        _follow(s, local, lag)
        return 0
    if _constant_lag(s, local, lag, not doubtful) and wrong != STEP:
        s.incident = STEP
        _begin_clock(s, local, s.low)
        s.calibrate_until = local
        return 0
    return wrong


@njit(cache=True, error_model="numpy")
def _is_new(s, which, sequence):  # type: ignore[no-untyped-def]
    """Return 0 for an id above all before it, else DUPLICATE or LATE."""
    slot = sequence & (_SEEN - 1)
    if sequence > s.newest[which]:
        s.newest[which] = sequence
        s.seen[which, slot] = sequence
        return 0
    return DUPLICATE if s.seen[which, slot] == sequence else LATE


@njit(cache=True, error_model="numpy")
def _write_ticker(s, book, rows, n, exchange, local):  # type: ignore[no-untyped-def]
    """Derive a ticker if the touch is valid and has changed."""
    bid, bid_size, ask, ask_size = touch(book)
    if bid_size <= 0.0 or ask_size <= 0.0 or bid >= ask:
        return n
    if bid == s.bid and ask == s.ask and bid_size == s.bid_size and ask_size == s.ask_size:
        return n
    _note_mid(s, bid, ask)
    s.bid_size, s.ask_size = bid_size, ask_size
    sequence = book[0].depth_sequence + 1
    n = _write(rows, n, exchange, local, TICKER, BID, 0, bid, bid_size, sequence)
    return _write(rows, n, exchange, local, TICKER, ASK, END, ask, ask_size, sequence)


@njit(cache=True, error_model="numpy")
def _note_mid(s, bid, ask):  # type: ignore[no-untyped-def]
    if s.bid + s.ask not in (0, bid + ask):
        s.mid_changes += 1
    s.bid, s.ask = bid, ask


@njit(cache=True, error_model="numpy")
def _restate(book, rows, n, exchange, local, flag):  # type: ignore[no-untyped-def]
    """Write the whole book, and an overriding ticker."""
    b = book[0]
    n = _write(rows, n, exchange, local, CLEAR, 0, flag, 0, 0.0, b.depth_sequence)
    for i in range(2):
        count = b.inside[i] + b.outside[i]
        prices = np.empty(count, np.int64)
        sizes = np.empty(count, np.float64)
        side = BID if i == 0 else ASK
        every_level(book, side, prices, sizes)
        for k in range(count):
            n = _write(rows, n, exchange, local, LEVEL, side, flag, prices[k], sizes[k], b.depth_sequence)
    rows[n - 1].flags = END | flag
    if b.ticker_on[0] and b.ticker_on[1]:
        for i in range(2):
            side = BID if i == 0 else ASK
            n = _write(
                rows, n, exchange, local, TICKER, side, flag, b.ticker_price[i], b.ticker_size[i], b.ticker_sequence
            )
        rows[n - 1].flags = END | flag
    return n


@njit(cache=True, error_model="numpy")
def _spread(side, price, first, last):  # type: ignore[no-untyped-def]
    difference = price[last - 1] - price[first]
    return difference if side[first] == BID else -difference


@njit(cache=True, error_model="numpy")
def _is_crossed(b):  # type: ignore[no-untyped-def]
    return b.inside[0] > 0 and b.inside[1] > 0 and b.best[0] >= -b.best[1]


@njit(cache=True, error_model="numpy")
def _end_segment(s, rows, n):  # type: ignore[no-untyped-def]
    if s.open:
        n = _write(rows, n, 0, s.local, GAP, 0, END, 0, 0.0, 0)
        s.open = 0
        s.bid_size = 0.0  # the next segment begins with a ticker
    return n


@njit(cache=True, error_model="numpy")
def run(  # type: ignore[no-untyped-def]
    state,
    book,
    bounds,
    start,
    places,
    rows,
    asides,
    exchange_time,
    local_time,
    kind,
    side,
    flags,
    price,
    size,
    sequence,
):
    """Screen messages from `start` on.

    Args:
        state: `STATE_DTYPE` [1].
        book: the screen's, `BOOK_DTYPE` [1].
        bounds: int64 [M + 1] (see `Events.message_bounds`).
        start: the first message.
        places: int64 [N].
        rows: `ROW_DTYPE` [R], written: events that pass.
        asides: `ASIDE_DTYPE` [A], written: quarantined; A at least 4 M.
        exchange_time, local_time, kind, side, flags, price, size, sequence: event columns, [N].

    Returns:
        (next message, rows written, asides written, room): rows that the next message needs if `rows` is too short,
        else 0.
    """
    s = state[0]
    b = book[0]
    n = 0
    left = 0
    for m in range(start, len(bounds) - 1):
        first, last = bounds[m], bounds[m + 1]
        need = 2 * (b.inside[0] + b.inside[1] + b.outside[0] + b.outside[1] + last - first) + 16
        if n + need > len(rows):
            return m, n, left, need if n == 0 else 0
        what = kind[first]
        local, exchange, place = local_time[first], exchange_time[first], places[first]
        if what == GAP:
            n = _end_segment(s, rows, n)
            apply(book, GAP, 0, 0, 0.0, 0, END)
            s.crossed_since = 0
            if s.incident == CROSSED or s.incident == LOCKED:
                left = _leave(asides, left, CLOSES + s.incident, -1, local)
                s.incident = 0
            continue
        if s.started == 0:
            s.started, s.first, s.local, s.day = 1, local, local, local // _DAY
            s.newest[:] = -1
            s.seen[:, :] = -1
        before = s.incident
        wrong = _judge_clock(s, local, exchange)
        if wrong:
            if s.incident == 0:
                s.incident = wrong
                n = _end_segment(s, rows, n)
            if what in (LEVEL, CLEAR) or (what == TICKER and _spread(side, price, first, last) > 0):
                for i in range(first, last):
                    apply(book, kind[i], side[i], price[i], size[i], sequence[i], flags[i])
            left = _leave(asides, left, PENDING, place, local)
            continue
        if before in (NEGATIVE, STALE, STEP):
            left = _leave(asides, left, CLOSES + s.incident, -1, local)
            s.incident = 0
        elif s.open and local - s.local > s.silent_after:
            n = _end_segment(s, rows, n)
            left = _leave(asides, left, STALE, -1, local)
        if s.stepped:
            s.stepped = 0
            n = _end_segment(s, rows, n)
            left = _leave(asides, left, STEP, -1, local)
        local = max(local, s.local)
        s.local = local
        if local // _DAY != s.day:
            s.day = local // _DAY
            if s.open:
                n = _restate(book, rows, n, exchange, local, RESTATED)

        if what != TRADE and what != CLEAR and b.synchronised == 0:
            left = _leave(asides, left, LOST, place, local)
            continue
        if what in (TRADE, TICKER):
            known = 0
            if what == TRADE or s.ticker_feed:
                known = _is_new(s, 0 if what == TICKER else 1, sequence[first])
            if known == 0 and what == TICKER:
                spread = _spread(side, price, first, last)
                known = CROSSED if spread < 0 else LOCKED if spread == 0 else 0
                if known:
                    s.crossings += 1
            if known:
                left = _leave(asides, left, known, place, local)
                continue
            if what == TICKER:
                for i in range(first, last):
                    status = apply(book, kind[i], side[i], price[i], size[i], sequence[i], flags[i])
                if status:
                    _note_mid(s, b.ticker_price[0], b.ticker_price[1])
            if s.incident == 0 and s.open == 0 and _is_crossed(b):
                s.incident = CROSSED if b.best[0] > -b.best[1] else LOCKED
            if s.incident:
                left = _leave(asides, left, PENDING, place, local)
                continue
            if s.open == 0 and b.synchronised:
                n = _restate(book, rows, n, exchange, local, 0)
                s.open = 1
                s.segments += 1
                if not s.ticker_feed:
                    n = _write_ticker(s, book, rows, n, exchange, local)
                if what == TICKER:
                    continue
        else:
            if what == CLEAR and sequence[first] < b.depth_sequence:
                s.newest[0] = -1  # the venue restarted its ids
            for i in range(first, last):
                status = apply(book, kind[i], side[i], price[i], size[i], sequence[i], flags[i])
            if status & BOOK_CROSSED:
                s.crossings += 1
                if s.crossed_since == 0:
                    s.crossed_since = local
                if s.incident == 0 and (s.open == 0 or local - s.crossed_since >= s.crossed_after):
                    s.incident = CROSSED if b.best[0] > -b.best[1] else LOCKED
                    n = _end_segment(s, rows, n)
            else:
                s.crossed_since = 0
                if s.incident:
                    left = _leave(asides, left, CLOSES + s.incident, -1, local)
                    s.incident = 0
            if s.incident:
                left = _leave(asides, left, PENDING, place, local)
                continue
            if s.open == 0 and b.synchronised:
                s.open = 1
                s.segments += 1
                if what != CLEAR:
                    n = _restate(book, rows, n, exchange, local, 0)
                    if not s.ticker_feed:
                        n = _write_ticker(s, book, rows, n, exchange, local)
                    continue
        for i in range(first, last):
            n = _write(rows, n, exchange_time[i], local, kind[i], side[i], flags[i], price[i], size[i], sequence[i])
        if not s.ticker_feed and what != TRADE and b.synchronised:
            n = _write_ticker(s, book, rows, n, exchange, local)
    return len(bounds) - 1, n, left, 0
