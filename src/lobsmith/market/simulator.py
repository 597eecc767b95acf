"""A seeded market: the same events as a venue's, with something to learn in them.

One order book of `LEVELS` contiguous levels a side lives in continuous time (Gillespie). Limit orders, cancellations
and market orders arrive at the touch with rates that depend on the queue imbalance and on a latent direction that
drifts over seconds, so that imbalance and signed flow predict the mid; market orders excite their own side; a regime
that lasts about a minute scales all rates. When a queue is used up, the next price is uncovered and the spread is
closed again from either side.

It speaks like a venue: a ticker at each change of the touch, all changed levels every 100 ms, trades, update ids that
order tickers and depth. Randomness is a SplitMix64 sequence of the seed alone: the same seed gives the same bytes.
"""

import numpy as np
from numba import njit

from lobsmith.errors import DataError
from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, LEVEL, TICKER, TRADE, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.session import Session, account

INSTRUMENT = Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001)
START_NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00:00Z

LEVELS = 40
_OPENING = 600_000  # ticks
_RING = 256
_DEPTH_EVERY = 0.1  # s
_BLOCK = 1 << 18  # rows a compiled call writes
_MESSAGE_ROOM = 2 * _RING + 16

# Rates are per second and side at regime 1; sizes are in lots.
_LIMIT, _CANCEL, _MARKET, _INSIDE, _DEEP = 8.0, 7.5, 1.3, 14.0, 8.0
_ORDER, _QUEUE = 800.0, 2200.0
_EXCITEMENT, _EXCITEMENT_S = 0.5, 0.4  # each market order brings _MARKET * 0.5 * 0.4 more: below 1
_DIRECTION_S = 3.0
_REGIMES = np.array([0.7, 1.3, 2.0])
_REGIME_S = 60.0

_STATE = np.dtype(
    [
        ("random", np.uint64),
        ("now", np.float64),  # s since the start
        ("next_depth", np.float64),
        ("regime_until", np.float64),
        ("regime", np.float64),
        ("direction", np.float64),
        ("excitement", np.float64, (2,)),  # of market orders that hit [bid, ask]
        ("local", np.int64),
        ("update", np.int64),
        ("trade", np.int64),
        ("best", np.int64, (2,)),
        ("sizes", np.int64, (2, _RING)),
        ("dirty", np.int64, (2, _RING)),  # 1 + place in `changed`, 0 if unchanged
        ("changed", np.int64, (2, _RING)),
        ("changes", np.int64, (2,)),
    ],
    align=True,
)


@njit(cache=True, error_model="numpy")
def _uniform(state):  # type: ignore[no-untyped-def]
    """Return the next number of SplitMix64, as a float in (0, 1)."""
    state.random += np.uint64(0x9E3779B97F4A7C15)
    z = state.random
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (np.float64(z >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True, error_model="numpy")
def _lots(state, mean):  # type: ignore[no-untyped-def]
    return 1 + np.int64(-np.log(_uniform(state)) * mean)


@njit(cache=True, error_model="numpy")
def _set(state, s, price, size):  # type: ignore[no-untyped-def]
    slot = price & (_RING - 1)
    state.sizes[s, slot] = size
    state.update += 1
    if state.dirty[s, slot] == 0:
        state.changed[s, state.changes[s]] = price
        state.changes[s] += 1
        state.dirty[s, slot] = state.changes[s]
    else:
        state.changed[s, state.dirty[s, slot] - 1] = price


@njit(cache=True, error_model="numpy")
def _improve(state, s, size):  # type: ignore[no-untyped-def]
    """Put an order one tick inside the spread; the deepest level leaves the book."""
    sign = 1 - 2 * s
    state.best[s] += sign
    _set(state, s, state.best[s], size)
    _set(state, s, state.best[s] - sign * LEVELS, 0)


@njit(cache=True, error_model="numpy")
def _reduce(state, s, lots):  # type: ignore[no-untyped-def]
    """Take lots from the best level; one that is used up uncovers the next and lets a deepest level in."""
    sign = 1 - 2 * s
    price = state.best[s]
    left = state.sizes[s, price & (_RING - 1)] - lots
    _set(state, s, price, max(left, 0))
    if left <= 0:
        state.best[s] -= sign
        _set(state, s, state.best[s] - sign * (LEVELS - 1), _lots(state, _QUEUE))


@njit(cache=True, error_model="numpy")
def _write(state, rows, n, kind, side, price, size, sequence, exchange):  # type: ignore[no-untyped-def]
    row = rows[n]
    row.exchange_time = exchange
    row.local_time = state.local
    row.kind = kind
    row.side = side
    row.flags = 0
    row.price = price
    row.size = np.float64(size) / 1000.0
    row.sequence = sequence
    return n + 1


@njit(cache=True, error_model="numpy")
def _receive(state, at):  # type: ignore[no-untyped-def]
    """Advance the local clock to a message of time `at`, s; return its exchange time, ns."""
    exchange = START_NS + np.int64(at * 1e9)
    latency = 3_000_000 - np.int64(300_000 * np.log(_uniform(state)))
    state.local = max(state.local, exchange + latency)
    return exchange


@njit(cache=True, error_model="numpy")
def _write_depth(state, rows, n, exchange):  # type: ignore[no-untyped-def]
    for s in range(2):
        for i in range(state.changes[s]):
            slot = state.changed[s, i] & (_RING - 1)
            state.dirty[s, slot] = 0
            side = BID if s == 0 else ASK
            size = state.sizes[s, slot]
            n = _write(state, rows, n, LEVEL, side, state.changed[s, i], size, state.update, exchange)
        state.changes[s] = 0
    rows[n - 1].flags = END
    return n


@njit(cache=True, error_model="numpy")
def _begin(state, rows):  # type: ignore[no-untyped-def]
    state.best[0], state.best[1] = _OPENING, _OPENING + 1
    for s in range(2):
        for k in range(LEVELS):
            _set(state, s, state.best[s] - (1 - 2 * s) * k, _lots(state, _QUEUE))
    exchange = _receive(state, 0.0)
    n = _write(state, rows, 0, CLEAR, 0, 0, 0, state.update, exchange)
    return _write_depth(state, rows, n, exchange)


@njit(cache=True, error_model="numpy")
def _run(state, rows, seconds):  # type: ignore[no-untyped-def]
    """Simulate until `seconds` or until the rows are nearly full; return the rows written."""
    n = 0
    rates = np.zeros(10, np.float64)
    if state.update == 0:
        n = _begin(state, rows)
    while n < len(rows) - _MESSAGE_ROOM:
        bid_queue = np.float64(state.sizes[0, state.best[0] & (_RING - 1)])
        ask_queue = np.float64(state.sizes[1, state.best[1] & (_RING - 1)])
        pressure = 0.5 * state.direction + 0.6 * (bid_queue - ask_queue) / (bid_queue + ask_queue)
        room = np.float64(state.best[1] - state.best[0] - 1)
        for s in range(2):
            push = pressure if s == 0 else -pressure  # greater: good for this side's queue
            queue = bid_queue if s == 0 else ask_queue
            rates[5 * s] = _LIMIT * np.exp(0.25 * push)
            rates[5 * s + 1] = _CANCEL * np.minimum(queue / _QUEUE, 2.0) * np.exp(-0.25 * push)
            rates[5 * s + 2] = _MARKET * (np.exp(-push) + state.excitement[s])
            rates[5 * s + 3] = _INSIDE * room * np.exp(0.7 * push)
            rates[5 * s + 4] = _DEEP
        step = -np.log(_uniform(state)) / (rates.sum() * state.regime)
        if state.now + step > state.next_depth:
            # Rates are memoryless: begin anew at the depth message.
            step = state.next_depth - state.now
            state.now = state.next_depth
            if state.changes[0] + state.changes[1] > 0:
                n = _write_depth(state, rows, n, _receive(state, state.now))
            state.next_depth += _DEPTH_EVERY
            chosen = -1
        else:
            state.now += step
            draw = _uniform(state) * rates.sum()
            chosen = 0
            while chosen < 9 and draw > rates[chosen]:
                draw -= rates[chosen]
                chosen += 1
        if state.now >= seconds:
            break
        keep = np.exp(-step / _DIRECTION_S)
        normal = np.sqrt(-2.0 * np.log(_uniform(state))) * np.cos(2.0 * np.pi * _uniform(state))
        state.direction = keep * state.direction + np.sqrt(1.0 - keep * keep) * normal
        for s in range(2):
            state.excitement[s] *= np.exp(-step / _EXCITEMENT_S)
        if state.now >= state.regime_until:
            drawn = int(_uniform(state) * len(_REGIMES))
            state.regime = _REGIMES[min(drawn, len(_REGIMES) - 1)]
            state.regime_until = state.now - np.log(_uniform(state)) * _REGIME_S
        if chosen >= 0:
            n = _happen(state, rows, n, chosen // 5, chosen % 5)
    return n


@njit(cache=True, error_model="numpy")
def _happen(state, rows, n, s, what):  # type: ignore[no-untyped-def]
    """Let one order happen on side s and write the messages that follow; return the rows written."""
    sign = 1 - 2 * s
    best = state.best[s]
    if what == 4:
        price = best - sign * (1 + np.int64(_uniform(state) * (LEVELS - 1)))
        size = state.sizes[s, price & (_RING - 1)]
        # Small levels grow and large ones shrink; none empties, so that the book stays contiguous.
        change = _lots(state, _ORDER) if size < 2 * _QUEUE * _uniform(state) else -_lots(state, _ORDER)
        _set(state, s, price, max(size + change, 1))
        return n
    exchange = _receive(state, state.now)
    if what == 0:
        _set(state, s, best, state.sizes[s, best & (_RING - 1)] + _lots(state, _ORDER))
    elif what == 1:
        _reduce(state, s, _lots(state, _ORDER))
    elif what == 2:
        wanted = _lots(state, 1.5 * _ORDER)
        while wanted > 0 and sign * (best - state.best[s]) < LEVELS:
            price = state.best[s]
            filled = min(wanted, state.sizes[s, price & (_RING - 1)])
            _reduce(state, s, filled)
            wanted -= filled
            state.trade += 1
            side = ASK if s == 0 else BID
            n = _write(state, rows, n, TRADE, side, price, filled, state.trade, exchange)
            rows[n - 1].flags = END
        state.excitement[s] += _EXCITEMENT
    else:
        _improve(state, s, _lots(state, 1.5 * _ORDER))
    for t in range(2):
        price = state.best[t]
        size = state.sizes[t, price & (_RING - 1)]
        n = _write(state, rows, n, TICKER, BID if t == 0 else ASK, price, size, state.update, exchange)
    rows[n - 1].flags = END
    return n


def simulate(seed: int, seconds: int) -> Session:
    """Simulate a session of `seconds`, beginning 2024-01-01T00:00:00Z; the same seed gives the same events.

    Raises:
        DataError: `seconds` is not positive.
    """
    if seconds <= 0:
        raise DataError(f"cannot simulate {seconds} seconds; give a positive number")
    state = np.zeros(1, _STATE)
    state["random"], state["regime"] = seed % 2**64, 1.0
    state["next_depth"], state["regime_until"] = _DEPTH_EVERY, _REGIME_S
    rows = np.empty(_BLOCK, ROW_DTYPE)
    parts = []
    while state["now"][0] < seconds:
        count = _run(state[0], rows, float(seconds))
        parts.append(Events(*(np.ascontiguousarray(rows[name][:count]) for name in DTYPES)))
    events = concatenate(parts)
    return Session(INSTRUMENT, events, account(events), (f"simulator seed {seed}, {seconds} s",))
