"""The simulated venue's messages: tickers at each change of the touch, changed levels every 100 ms, trades.

More than `RUSH` changed levels of a side are sent at once. Update ids order tickers and depth as Binance's do. Latency
is 3 ms plus exponential jitter, in order.
"""

import numpy as np
from numba import njit

from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL, TICKER, TRADE
from lobsmith.market.simulator.dynamics import (
    DEEP,
    DEPTH_EVERY,
    KINDS,
    LEVELS,
    RING,
    change_deep,
    change_touch,
    drift,
    open_market,
    queue_at,
    total_rate,
    uniform,
)

START_NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00:00Z
_LATENCY_NS, _JITTER_NS = 3_000_000, 300_000
_LOTS = 1000.0  # a size unit
RUSH = RING // 2
"""A price reuses a place in the ring only after the previous price's change was sent."""
MESSAGE_ROOM = 2 * RING + LEVELS + 16
"""Most rows of a simulated event."""


@njit(cache=True, error_model="numpy")
def _write(s, rows, n, kind, side, price, size, sequence, exchange):  # type: ignore[no-untyped-def]
    row = rows[n]
    row.exchange_time = exchange
    row.local_time = s.local
    row.kind = kind
    row.side = side
    row.flags = 0
    row.price = price
    row.size = np.float64(size) / _LOTS
    row.sequence = sequence
    return n + 1


@njit(cache=True, error_model="numpy")
def _receive(s, at):  # type: ignore[no-untyped-def]
    """Advance the local clock for a message of time `at`, s; return its exchange time, ns."""
    exchange = START_NS + np.int64(at * 1e9)
    latency = _LATENCY_NS - np.int64(_JITTER_NS * np.log(uniform(s)))
    s.local = max(s.local, exchange + latency)
    return exchange


@njit(cache=True, error_model="numpy")
def _write_depth(s, rows, n, exchange):  # type: ignore[no-untyped-def]
    for i in range(2):
        for k in range(s.changes[i]):
            price = s.changed[i, k]
            s.dirty[i, price & (RING - 1)] = 0
            n = _write(s, rows, n, LEVEL, BID if i == 0 else ASK, price, queue_at(s, i, price), s.update, exchange)
        s.changes[i] = 0
    rows[n - 1].flags = END
    return n


@njit(cache=True, error_model="numpy")
def _write_ticker(s, rows, n, exchange):  # type: ignore[no-untyped-def]
    for i in range(2):
        size = queue_at(s, i, s.best[i])
        n = _write(s, rows, n, TICKER, BID if i == 0 else ASK, s.best[i], size, s.update, exchange)
    rows[n - 1].flags = END
    s.tickers += 1
    return n


@njit(cache=True, error_model="numpy")
def run(state, dynamics, rows, until, tickers):  # type: ignore[no-untyped-def]
    """Run the market; stopping and resuming changes nothing.

    Args:
        state: `STATE` [1], changed; all zeros but `random` before the opening.
        dynamics: a named tuple.
        rows: `ROW_DTYPE` [R], written; R more than `MESSAGE_ROOM`.
        until: seconds since the start.
        tickers: stop after this many since the start.

    Returns:
        (rows written, whether the end was reached); if not, call again.
    """
    s = state[0]
    d = dynamics
    n = 0
    fills = np.empty((LEVELS // 2, 2), np.int64)
    if s.update == 0:
        open_market(s, d)
        exchange = _receive(s, 0.0)
        n = _write(s, rows, n, CLEAR, 0, 0, 0, s.update, exchange)
        n = _write_depth(s, rows, n, exchange)
        s.next_depth = DEPTH_EVERY
        s.regime_until = d.regime_s
    while n < len(rows) - MESSAGE_ROOM:
        if s.tickers >= tickers:
            return n, True
        before = s.random
        rate = total_rate(s, d)
        wait = -np.log(uniform(s)) / rate
        if min(s.now + wait, s.next_depth) >= until:
            s.random = before
            return n, True
        if s.now + wait > s.next_depth:
            # Rates are memoryless: redraw from the depth message on.
            wait = s.next_depth - s.now
            s.now = s.next_depth
            if s.changes[0] + s.changes[1] > 0:
                n = _write_depth(s, rows, n, _receive(s, s.now))
            s.next_depth += DEPTH_EVERY
            drift(s, d, wait)
            continue
        s.now += wait
        draw = uniform(s) * rate
        chosen = 0
        while chosen < 2 * KINDS - 1 and draw > s.rates[chosen]:
            draw -= s.rates[chosen]
            chosen += 1
        drift(s, d, wait)
        side, what = chosen // KINDS, chosen % KINDS
        if what == DEEP:
            change_deep(s, d, side)
            continue
        exchange = _receive(s, s.now)
        for k in range(change_touch(s, d, side, what, fills)):
            s.trade += 1
            n = _write(s, rows, n, TRADE, ASK if side == 0 else BID, fills[k, 0], fills[k, 1], s.trade, exchange)
            rows[n - 1].flags = END
        n = _write_ticker(s, rows, n, exchange)
        if max(s.changes[0], s.changes[1]) > RUSH:
            n = _write_depth(s, rows, n, exchange)
    return n, False


@njit(cache=True, error_model="numpy")
def direction_after(state, dynamics, rows, horizons, counts):  # type: ignore[no-untyped-def]
    """Run one continuation and count the mid's directions.

    Args:
        state: `STATE` [1] right after a ticker; changed.
        dynamics: a named tuple.
        rows: `ROW_DTYPE` [R], scratch.
        horizons: int64 [H], ns of local time, rising.
        counts: int64 [H, 3], incremented: down, unchanged, up.
    """
    s = state[0]
    row_local = s.local
    now = s.best[0] + s.best[1]
    mid = now
    h = 0
    bid = np.int64(0)
    finished = False
    end = s.now + (horizons[-1] + 20 * _LATENCY_NS) * 1e-9
    while not finished:
        n, finished = run(state, dynamics, rows, end, np.int64(2**62))
        for i in range(n):
            if rows[i].kind != TICKER:
                continue
            if rows[i].side == BID:
                bid = rows[i].price
                continue
            while h < len(horizons) and rows[i].local_time > row_local + horizons[h]:
                counts[h, 1 + np.sign(mid - now)] += 1
                h += 1
            mid = bid + rows[i].price
    while h < len(horizons):
        counts[h, 1 + np.sign(mid - now)] += 1
        h += 1
