"""The compiled part of `accumulation`: a window's sums, bounded work per event, no allocation.

State per price is in tables of `SLOTS` a side; prices that share a slot (modulo `SLOTS`) are never visible together.
"""

import numpy as np
from numba import njit

from lobsmith.market import book as order_book
from lobsmith.market.events import ASK, BID, CLEAR, END, GAP, LEVEL, RESTATED, TRADE

LEVELS = 10
SLOTS = 1 << 12
FORGET = 2**61
"""Its negative precedes all times."""

_BASIS_POINTS = 1e4

_SUMS = [
    ("trades", np.int64),
    ("volume", np.float64),  # lots, as all sizes here
    ("net", np.float64),
    ("longest", np.float64),
    ("samples", np.int64),
    ("cxx", np.float64),  # centred sums: x signed lots, r return in basis points
    ("cxr", np.float64),
    ("crr", np.float64),
    ("layering", np.float64, (2,)),
    ("cancelled", np.float64),
    ("depth", np.float64),  # both sides, base units, mean over the intervals
]

REPORT_DTYPE = np.dtype(
    [("start", np.int64), ("end", np.int64), ("complete", np.int64), *_SUMS],
    align=True,
)

STATE_DTYPE = np.dtype(
    [
        # Constants.
        ("lot", np.float64),
        ("interval_ns", np.int64),
        ("intervals", np.int64),  # per window
        ("lifetime_ns", np.int64),
        # Clocks.
        ("running", np.int64),  # 0 until the first event and after a gap
        ("whole", np.int64),  # whether the stream covers the window's start
        ("start", np.int64),
        ("time", np.int64),
        ("interval", np.int64),
        # The window.
        *_SUMS,
        ("mean_x", np.float64),
        ("mean_r", np.float64),
        ("run_side", np.int64),
        ("run", np.float64),
        ("depth_samples", np.int64),
        # The sampling interval.
        ("flow", np.float64),
        ("flicker", np.float64, (2,)),
        # The book: [bid, ask]; a mid is best bid plus best ask.
        ("mid", np.int64),
        ("interval_mid", np.int64),
        ("snapshot", np.int64),  # 1 within a snapshot's message
        ("count", np.int64, (2,)),
        ("best", np.int64, (2,)),
        ("last", np.int64, (2,)),
        ("visible", np.float64, (2,)),
        ("behind", np.float64, (2,)),  # visible without the best level
        ("prices", np.int64, (LEVELS,)),
        ("sizes", np.float64, (LEVELS,)),
        # State per price.
        ("opposite_time", np.int64, (2,)),  # of the last trade against the other side
        ("traded_price", np.int64, (2, SLOTS)),
        ("traded", np.float64, (2, SLOTS)),
        ("added_price", np.int64, (2, SLOTS)),
        ("added", np.float64, (2, SLOTS)),
        ("added_time", np.int64, (2, SLOTS)),
    ],
    align=True,
)


@njit(cache=True, error_model="numpy")
def _begin(s):  # type: ignore[no-untyped-def]
    s.trades = 0
    s.volume = 0.0
    s.net = 0.0
    s.longest = 0.0
    s.samples = 0
    s.cxx = 0.0
    s.cxr = 0.0
    s.crr = 0.0
    s.cancelled = 0.0
    s.depth = 0.0
    s.mean_x = 0.0
    s.mean_r = 0.0
    s.run_side = 0
    s.run = 0.0
    s.depth_samples = 0
    for i in range(2):
        s.layering[i] = 0.0


@njit(cache=True, error_model="numpy")
def _end_interval(s):  # type: ignore[no-untyped-def]
    """Sample flow, return and flickering depth."""
    if s.interval_mid > 0 and s.mid > 0:
        change = 0.0 if s.mid == s.interval_mid else _BASIS_POINTS * np.log(s.mid / s.interval_mid)
        s.samples += 1
        dx = s.flow - s.mean_x
        dr = change - s.mean_r
        s.mean_x += dx / s.samples
        s.mean_r += dr / s.samples
        s.cxx += dx * (s.flow - s.mean_x)
        s.cxr += dx * (change - s.mean_r)
        s.crr += dr * (change - s.mean_r)
    s.interval_mid = s.mid
    s.flow = 0.0
    s.depth_samples += 1
    s.depth += ((s.visible[0] + s.visible[1]) * s.lot - s.depth) / s.depth_samples
    for i in range(2):
        if s.flicker[i] > 0.0:
            s.layering[i] += s.flicker[i] / (s.flicker[i] + s.behind[i])
        s.flicker[i] = 0.0


@njit(cache=True, error_model="numpy")
def _write(s, report, end, complete):  # type: ignore[no-untyped-def]
    report.start = s.start
    report.end = end
    report.complete = complete
    report.trades = s.trades
    report.volume = s.volume
    report.net = s.net
    report.longest = s.longest
    report.samples = s.samples
    report.cxx = s.cxx
    report.cxr = s.cxr
    report.crr = s.crr
    report.cancelled = s.cancelled
    report.depth = s.depth
    for i in range(2):
        report.layering[i] = s.layering[i] / max(s.depth_samples, 1)


@njit(cache=True, error_model="numpy")
def _pass_time(s, time, report):  # type: ignore[no-untyped-def]
    """Move the clock to an event; return whether it completed a report."""
    interval = time // s.interval_ns
    if s.running == 0:
        s.running = 1
        s.start = time
        s.whole = 1 if time % (s.interval_ns * s.intervals) == 0 else 0
        s.interval = interval
        s.interval_mid = 0
        s.time = time
        _begin(s)
        return False
    s.time = max(time, s.time)
    border = (s.interval // s.intervals + 1) * s.intervals
    while s.interval < min(interval, border):
        _end_interval(s)
        s.interval += 1
    if interval < border:
        return False
    # Silent windows have no report.
    _write(s, report, border * s.interval_ns, s.whole)
    _begin(s)
    s.whole = 1
    s.start = interval // s.intervals * s.intervals * s.interval_ns
    s.interval = max(s.interval, s.start // s.interval_ns)
    while s.interval < interval:
        _end_interval(s)
        s.interval += 1
    return True


@njit(cache=True, error_model="numpy")
def _cut(s, report):  # type: ignore[no-untyped-def]
    """End the window early; return whether there is a report."""
    if s.running == 0:
        return False
    _end_interval(s)
    _write(s, report, s.time, 0)
    s.running = 0
    return True


@njit(cache=True, error_model="numpy")
def _trade(s, side, price, lots, time):  # type: ignore[no-untyped-def]
    s.trades += 1
    s.volume += lots
    s.net += side * lots
    s.flow += side * lots
    s.run = s.run + lots if side == s.run_side else lots
    s.run_side = side
    s.longest = max(s.longest, s.run)
    hit = 1 if side == BID else 0  # buyers take from the asks
    s.opposite_time[1 - hit] = time
    slot = price & (SLOTS - 1)
    if s.traded_price[hit, slot] != price:
        s.traded_price[hit, slot] = price
        s.traded[hit, slot] = 0.0
    s.traded[hit, slot] += lots


@njit(cache=True, error_model="numpy")
def _level(s, i, price, change, time):  # type: ignore[no-untyped-def]
    """Split a level's change, lots, into traded, added and cancelled."""
    slot = price & (SLOTS - 1)
    if s.traded_price[i, slot] == price:
        change += s.traded[i, slot]
        s.traded[i, slot] = 0.0
    if change == 0.0 or s.count[i] == 0:
        return
    sign = 1 - 2 * i
    if s.count[i] == LEVELS and sign * (price - s.last[i]) < 0:
        return  # not visible
    behind = sign * (s.best[i] - price) > 0
    fresh = s.added_price[i, slot] == price and time - s.added_time[i, slot] <= s.lifetime_ns
    if change > 0.0:
        if not behind:
            return
        if not fresh:
            s.added_price[i, slot] = price
            s.added_time[i, slot] = time
            s.added[i, slot] = 0.0
        s.added[i, slot] += change
        later = np.float64(time - s.added_time[i, slot])
        s.added_time[i, slot] += np.int64(later * change / s.added[i, slot])  # the mean, by lots
        return
    s.cancelled -= change
    if behind and fresh and s.opposite_time[i] >= s.added_time[i, slot]:
        gone = min(-change, s.added[i, slot])
        s.added[i, slot] -= gone
        s.flicker[i] += gone


@njit(cache=True, error_model="numpy")
def _forget_prices(s):  # type: ignore[no-untyped-def]
    """Clear the state per price: a new snapshot does not continue it."""
    for i in range(2):
        s.traded[i, :] = 0.0
        s.added[i, :] = 0.0


@njit(cache=True, error_model="numpy")
def _read_book(s, book):  # type: ignore[no-untyped-def]
    bid, bid_size, ask, ask_size = order_book.touch(book)
    if bid_size > 0.0 and ask_size > 0.0 and bid < ask:
        s.mid = bid + ask
    for i in range(2):
        count = order_book.levels(book, BID if i == 0 else ASK, s.prices, s.sizes)
        s.count[i] = count
        s.visible[i] = 0.0
        s.behind[i] = 0.0
        for k in range(count):
            lots = np.rint(s.sizes[k] / s.lot)
            s.visible[i] += lots
            if k > 0:
                s.behind[i] += lots
        if count > 0:
            s.best[i] = s.prices[0]
            s.last[i] = s.prices[count - 1]


@njit(cache=True, error_model="numpy")
def run(state, book, reports, start, local_time, kind, side, flags, price, size, sequence):  # type: ignore[no-untyped-def]
    """Process events from `start` on.

    Args:
        state: `STATE_DTYPE` [1].
        book: the monitor's, `BOOK_DTYPE` [1].
        reports: `REPORT_DTYPE` [R], written.
        start: the first event.
        local_time, kind, side, flags, price, size, sequence: event columns, [N].

    Returns:
        (next event, reports written): stops early when `reports` is full.
    """
    s = state[0]
    written = 0
    for n in range(start, len(kind)):
        if written == len(reports):
            return n, written
        what = kind[n]
        if what == GAP:
            order_book.apply(book, GAP, 0, 0, 0.0, 0, END)
            written += _cut(s, reports[written])
            s.mid = 0
            for i in range(2):
                s.count[i] = 0
                s.visible[i] = 0.0
                s.behind[i] = 0.0
                s.opposite_time[i] = -FORGET
            _forget_prices(s)
            continue
        written += _pass_time(s, local_time[n], reports[written])
        if what == TRADE:
            _trade(s, side[n], price[n], np.rint(size[n] / s.lot), local_time[n])
            continue
        if what == CLEAR:
            s.snapshot = 1
            if flags[n] & RESTATED == 0:
                _forget_prices(s)
        elif what == LEVEL and book[0].synchronised and s.snapshot == 0:
            i = 0 if side[n] == BID else 1
            change = np.rint(size[n] / s.lot) - np.rint(order_book.size_at(book, side[n], price[n]) / s.lot)
            _level(s, i, price[n], change, local_time[n])
        order_book.apply(book, what, side[n], price[n], size[n], sequence[n], flags[n])
        if flags[n] & END:
            s.snapshot = 0
            if book[0].synchronised:
                _read_book(s, book)
    return len(kind), written


@njit(cache=True, error_model="numpy")
def close(state, report):  # type: ignore[no-untyped-def]
    """End the last window; return whether there is a report."""
    return _cut(state[0], report)
