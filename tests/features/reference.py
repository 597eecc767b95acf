"""A slow, readable second opinion on the kernel: dictionaries for the book, NumPy for the features."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lobsmith.market.events import BID, CLEAR, END, GAP, LEVEL, TICKER, TRADE, Events
from lobsmith.params import FeatureParams


@dataclass
class ReferenceBook:
    depth: dict[int, dict[int, float]] = field(default_factory=lambda: {1: {}, -1: {}})
    depth_sequence: int = 0
    ticker_sequence: int = 0
    ticker: dict[int, tuple[int, float]] = field(default_factory=dict)
    synchronised: bool = False

    def levels(self, side: int, count: int = 10) -> list[tuple[int, float]]:
        """Best first, the ticker overriding the touch."""
        prices = sorted(self.depth[side], key=lambda price: -side * price)
        table = [(price, self.depth[side][price]) for price in prices]
        if side in self.ticker:
            price, size = self.ticker[side]
            table = [(price, size)] + [level for level in table if side * level[0] < side * price]
        return table[:count]


def rows(events: Events, lot: float, params: FeatureParams) -> Iterator[tuple[int, list[float]]]:
    """Yield (local time, raw features) for each row of a feed whose every message is good."""
    book, previous = ReferenceBook(), None
    trades: list[tuple[int, float, int]] = []
    flows: list[tuple[int, float, float]] = []
    returns: list[tuple[int, float]] = []
    queues: list[tuple[int, float]] = []
    moves: list[tuple[int, int]] = []
    for n in range(len(events)):
        time, kind, side = int(events.local_time[n]), int(events.kind[n]), int(events.side[n])
        price, size, sequence = int(events.price[n]), float(events.size[n]), int(events.sequence[n])
        if kind == TRADE:
            trades.append((time, side * size, price))
        elif kind in (CLEAR, GAP):
            book.depth = {1: {}, -1: {}}
            book.ticker = {}
            book.synchronised = kind == CLEAR
            book.depth_sequence = sequence if kind == CLEAR else book.depth_sequence
        elif kind == LEVEL and book.synchronised:
            book.depth_sequence = sequence
            if sequence >= book.ticker_sequence:
                book.ticker = {}
            if size > 0:
                book.depth[side][price] = size
            else:
                book.depth[side].pop(price, None)
        elif kind == TICKER and book.synchronised and sequence > book.depth_sequence:
            book.ticker_sequence = sequence
            book.ticker[side] = (price, size)
            if not events.flags[n] & END:
                continue
            bids, asks = book.levels(BID), book.levels(-BID)
            new = (time, bids, asks)
            flows.append((time, flow(previous, new, 1), flow(previous, new, 5)))
            queues.append((time, (bids[0][1] + asks[0][1]) / 2))
            mid = (bids[0][0] + asks[0][0]) / 2
            if previous is not None:
                old_mid = (previous[1][0][0] + previous[2][0][0]) / 2
                returns.append((time, 1e4 * math.log(mid / old_mid)))
                if mid != old_mid:
                    moves.append((time, round(2 * (mid - old_mid))))
            yield time, features(previous, new, trades, flows, returns, queues, moves, lot, params)
            previous = new


def flow(previous, new, depth: int) -> float:
    """Cont, Kukanov & Stoikov's e, summed over levels."""
    if previous is None:
        return 0.0
    total = 0.0
    for level in range(depth):
        for sign, side in ((1, 1), (-1, 2)):
            old = previous[side][level] if level < len(previous[side]) else None
            now = new[side][level] if level < len(new[side]) else None
            better = sign * (now[0] - old[0]) if old and now else 0
            e = 0.0
            if now and better >= 0:
                e += now[1]
            if old and better <= 0:
                e -= old[1]
            total += sign * e
    return total


def slog(x: float) -> float:
    return math.copysign(math.log1p(abs(x)), x) if x else 0.0


def usual_size(queues: list[tuple[int, float]], tau: float) -> float:
    """Return the mean queue: each holds until the next, weighted by exp(-age / tau); the first stands for the past."""
    now = queues[-1][0]
    age = [math.exp(-(now - time) / 1e9 / tau) for time, _ in queues]
    total = age[0] * queues[0][1]
    for i in range(len(queues) - 1):
        total += (age[i + 1] - age[i]) * queues[i][1]
    return total


def features(previous, new, trades, flows, returns, queues, moves, lot: float, params: FeatureParams) -> list[float]:
    time, bids, asks = new
    mid = (bids[0][0] + asks[0][0]) / 2
    vector = []
    for level in range(10):
        for side in (bids, asks):
            known = side[min(level, len(side) - 1)]
            vector.append(1e4 * abs(known[0] - mid) / mid)
            vector.append(math.log1p(side[level][1] / lot) if level < len(side) else 0.0)
    for depth in (1, 5, 10):
        b, a = sum(q for _, q in bids[:depth]), sum(q for _, q in asks[:depth])
        vector.append((b - a) / (b + a))
    (bid, bid_size), (ask, ask_size) = bids[0], asks[0]
    micro = (ask * bid_size + bid * ask_size) / (bid_size + ask_size)
    vector.append(1e4 * (micro - mid) / mid)
    vector.append(1e4 * (ask - bid) / mid)
    vector.append(returns[-1][1] if previous is not None else 0.0)

    def decayed(values: list[tuple[int, float]], tau: float) -> float:
        return sum(value * math.exp(-(time - then) / 1e9 / tau) for then, value in values)

    squares = [(t, r * r) for t, r in returns]
    short = decayed(squares, params.volatility_short_s) / params.volatility_short_s
    long = decayed(squares, params.volatility_long_s) / params.volatility_long_s
    vector.append(math.sqrt(short / long) if long > 0 else 0.0)
    for side in (bids, asks):
        x = [1e4 * abs(p - mid) / mid for p, _ in side]
        y = np.log1p(np.cumsum([q for _, q in side]) / lot)
        vector.append(float(np.polyfit(x, y, 1)[0]) if len(side) > 1 else 0.0)
    vector.append(math.log1p((time - previous[0]) / 1e6) if previous is not None else 0.0)
    slow = params.flow_decays_s[-1]
    vector.append(math.log1p(decayed([(t, 1.0) for t, _, _ in flows], slow) / slow))

    usual = usual_size(queues, params.size_decay_s)
    bid_log, ask_log, usual_log = (math.log1p(q / lot) for q in (bid_size, ask_size, usual))
    vector += [bid_log - ask_log, bid_log - usual_log, ask_log - usual_log, math.log(ask - bid)]
    moved, move = moves[-1] if moves else (time - 100 * 10**9, 0)
    age = (time - moved) / 1e9
    vector += [slog(move), math.log1p(1e3 * age), (move > 0) * math.exp(-age / 0.1) - (move < 0) * math.exp(-age / 0.1)]
    traded, volume, price = trades[-1] if trades else (time - 100 * 10**9, 0.0, mid)
    age = (time - traded) / 1e9
    sign = (volume > 0) - (volume < 0)
    vector += [slog(price - mid), math.log1p(1e3 * age), sign * math.exp(-age / 0.1)]

    touch = [(t, touch) for t, touch, _ in flows]
    volumes = [(t, v) for t, v, _ in trades]
    vector.append(slog(touch[-1][1] / usual))
    vector.append(slog(decayed([(t, near) for t, _, near in flows], slow) / usual))
    vector += [slog(decayed(touch, tau) / usual) for tau in params.flow_decays_s]
    vector += [slog(decayed(volumes, tau) / usual) for tau in params.flow_decays_s]
    vector += [math.log1p(decayed([(t, 1.0) for t, _ in volumes], tau) / tau) for tau in params.flow_decays_s]
    return vector


def z_scores(raw: np.ndarray, window: int, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Return z-scores over the last `window` rows, each computed from scratch, and where a column hardly moves."""
    out, border = np.zeros(raw.shape), np.zeros(raw.shape, bool)
    for row in range(len(raw)):
        recent = raw[max(0, row + 1 - window) : row + 1].astype(np.float64)
        mean, deviation = recent.mean(axis=0), recent.std(axis=0)
        moving = deviation > 1e-5 * np.abs(mean)
        border[row] = (deviation > 1e-6 * np.abs(mean)) & (deviation < 1e-4 * np.abs(mean))
        out[row, moving] = np.clip((raw[row] - mean)[moving] / deviation[moving], -clip, clip)
    return out, border
