"""Scripted markets, and the alerts a crash detector must raise, recomputed from scratch at every message."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lobsmith.market.events import ASK, BID, CLEAR, END, GAP, LEVEL, TICKER, TRADE, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.params import CrashParams
from lobsmith.surveillance import CrashAlert

INSTRUMENT = Instrument(venue="script", symbol="S", tick_size=0.1, lot_size=0.001)
START = 1_700_000_000_000_000_000
MS = 1_000_000
LEVELS = 12


def events_of(rows: Sequence[tuple[int, int, int, int, int, float, int]]) -> Events:
    """Make events of (local time, kind, side, flags, price, lots, sequence)."""
    time, kind, side, flags, price, lots, sequence = zip(*rows, strict=True)
    return Events(
        np.array(time, np.int64),
        np.array(time, np.int64),
        np.array(kind, np.uint8),
        np.array(side, np.int8),
        np.array(flags, np.uint8),
        np.array(price, np.int64),
        np.array(lots, np.float64) * INSTRUMENT.lot_size,
        np.array(sequence, np.int64),
    )


def scripted(
    time_ms: np.ndarray, mid: np.ndarray, lots: np.ndarray, depth: np.ndarray, side: np.ndarray | int = ASK
) -> Events:
    """Return a market with, at each time, a snapshot, one trade and a ticker.

    Args:
        time_ms: int [K], rising, since the start.
        mid: int [K], ticks.
        lots: int [K], of the trade.
        depth: int [K], lots at each level, or [K, 2, LEVELS].
        side: of the trades' aggressors.
    """
    steps = len(time_ms)
    width = 1 + 2 * LEVELS + 1 + 2
    sizes = (
        np.broadcast_to(np.asarray(depth).reshape(steps, 1, 1), (steps, 2, LEVELS)) if np.ndim(depth) == 1 else depth
    )
    away = 1 + np.arange(LEVELS)
    kind = np.empty((steps, width), np.uint8)
    kind[:] = [CLEAR] + [LEVEL] * (2 * LEVELS) + [TRADE] + [TICKER] * 2
    sides = np.empty((steps, width), np.int8)
    sides[:] = [0] + [BID] * LEVELS + [ASK] * LEVELS + [0, BID, ASK]
    sides[:, -3] = side
    flags = np.zeros((steps, width), np.uint8)
    flags[:, [2 * LEVELS, 2 * LEVELS + 1, -1]] = END
    price = np.zeros((steps, width), np.int64)
    price[:, 1 : 1 + LEVELS] = mid[:, None] - away
    price[:, 1 + LEVELS : 1 + 2 * LEVELS] = mid[:, None] + away
    price[:, -3] = mid
    price[:, -2], price[:, -1] = mid - 1, mid + 1
    size = np.zeros((steps, width))
    size[:, 1 : 1 + 2 * LEVELS] = sizes.reshape(steps, -1)
    size[:, -3] = lots
    size[:, -2], size[:, -1] = sizes[:, 0, 0], sizes[:, 1, 0]
    sequence = np.repeat(2 * np.arange(1, steps + 1, dtype=np.int64), width).reshape(steps, width)
    sequence[:, -2:] += 1
    time = np.repeat(START + np.asarray(time_ms, np.int64) * MS, width)
    columns = (array.ravel() for array in (kind, sides, flags, price, size * INSTRUMENT.lot_size, sequence))
    return Events(time, time, *columns)


def crash_market(
    seed: int,
    *,
    fall: float,
    fall_s: float,
    volume: float = 6.0,
    thin: float = 0.6,
    before_s: float = 1500.0,
    after_s: float = 400.0,
    back: float = 0.3,
) -> Events:
    """Return a noisy market that falls by `fall` in `fall_s`, then takes back a share `back` of the fall.

    While it falls, volume is `volume` times as large and depth thins out by a share `thin`.
    """
    random = np.random.default_rng(seed)
    gaps = random.integers(100, 500, int((before_s + fall_s + after_s) / 0.3))
    time = np.cumsum(gaps)
    seconds = time / 1000
    into = np.clip((seconds - before_s) / fall_s, 0, 1)
    later = np.clip((seconds - before_s - fall_s) / 120, 0, 1)
    level = 1 - fall * into + back * fall * later
    noise = np.cumsum(random.normal(0, 2e-5, len(time)))
    mid = np.rint(600_000 * level * np.exp(noise)).astype(np.int64)
    falling = (into > 0) & (into < 1)
    hectic = falling | ((later > 0) & (later < 0.5))
    lots = np.rint(random.gamma(4, 250, len(time)) * np.where(hectic, volume, 1) * gaps / 300)
    depth = random.gamma(20, 100, (len(time), 2, LEVELS)) * (1 - thin * into * (1 - later))[:, None, None]
    return scripted(time, mid, lots, np.rint(depth) + 1, np.where(random.random(len(time)) < 0.5, BID, ASK))


@dataclass
class _Message:
    time: int
    gap: bool
    mid: int
    """Twice the mid after it; 0 unknown."""
    depth: float
    """Lots of the ten best bids after it; NaN unknown."""
    lots: float


def _messages(events: Events, lot: float) -> list[_Message]:
    """Read events with a book of dictionaries."""
    sides: dict[int, dict[int, float]] = {BID: {}, ASK: {}}
    ticker: dict[int, tuple[int, float]] = {}
    depth_sequence = ticker_sequence = 0
    live = False
    mid, depth, lots = 0, float("nan"), 0.0
    messages = []
    for time, kind, side, flags, price, size, sequence in zip(
        *(
            getattr(events, name).tolist()
            for name in ("local_time", "kind", "side", "flags", "price", "size", "sequence")
        ),
        strict=True,
    ):
        if kind == TRADE:
            lots += round(size / lot)
        elif kind == GAP:
            live, mid, depth = False, 0, float("nan")
        elif kind == CLEAR:
            live, sides, ticker, depth_sequence = True, {BID: {}, ASK: {}}, {}, sequence
        elif kind == LEVEL and live:
            depth_sequence = sequence
            if sequence >= ticker_sequence:
                ticker = {}
            sides[side].pop(price, None)
            if size > 0:
                sides[side][price] = size
        elif kind == TICKER and live and sequence > depth_sequence:
            ticker_sequence = sequence
            ticker.pop(side, None)
            if size > 0:
                ticker[side] = (price, size)
        if not flags & END:
            continue
        if live and kind != TRADE:
            bids, asks = dict(sides[BID]), dict(sides[ASK])
            if BID in ticker:
                bids = {p: q for p, q in bids.items() if p < ticker[BID][0]} | {ticker[BID][0]: ticker[BID][1]}
            if ASK in ticker:
                asks = {p: q for p, q in asks.items() if p > ticker[ASK][0]} | {ticker[ASK][0]: ticker[ASK][1]}
            if bids and asks and max(bids) < min(asks):
                mid = max(bids) + min(asks)
            depth = float(sum(round(bids[p] / lot) for p in sorted(bids)[-10:]))
        messages.append(_Message(time, kind == GAP, mid, depth, lots))
        lots = 0.0
    return messages


def expected_alerts(events: Events, p: CrashParams, lot: float = INSTRUMENT.lot_size) -> list[CrashAlert]:
    """Return the alerts by the definition: windows are cut out and summed anew at every message."""
    messages = _messages(events, lot)
    gap = np.array([m.gap for m in messages])
    messages = [m for m in messages if not m.gap]
    after_gap = np.concatenate([[False], gap])[:-1][~gap]  # the message before it was a gap
    time = np.array([m.time for m in messages], np.int64)
    mid = np.array([m.mid for m in messages], np.int64)
    depth = np.array([m.depth for m in messages])
    lots = np.array([m.lots for m in messages])
    ended = np.append(np.where(after_gap[1:], time[:-1], time[1:]), time[-1:])  # until when a mid was the mid
    cut_depth = np.where(np.append(after_gap[1:], False), np.nan, depth)
    bucket_ns = p.bucket_ms * MS
    alerts: list[CrashAlert] = []
    era, clock = 0, np.zeros(len(time), np.int64)
    episode: tuple[int, int] | None = None
    for k in range(len(time)):
        elapsed = time[k] // MS - time[k - 1] // MS if k else 0
        first_mid = era
        if k and (time[k] < time[k - 1] or elapsed > p.average_s * 1000):
            era, clock[k], episode = k, 0, None
            first_mid = k
            if not after_gap[k] and time[k] > time[k - 1]:
                first_mid = k - 1
            kept = first_mid
        else:
            clock[k] = clock[k - 1] + (0 if after_gap[k] else elapsed) if k else 0
            first_mid = kept if k else 0
            kept = first_mid
        if mid[k] == 0:
            continue
        # Price: the highest mid that was the mid at any time of the window.
        opens = (time[k] // bucket_ns - round(p.window_s * 1000 / p.bucket_ms)) * bucket_ns
        low = first_mid + np.searchsorted(ended[first_mid:k], opens)
        window_mids, window_ends = np.append(mid[low:k], mid[k]), np.append(ended[low:k], time[k])
        peak = int(window_mids.max())
        peak_time = int(window_ends[window_mids == peak].max())
        if episode:
            since, from_peak = episode
            if from_peak - int(mid[k]) < p.recovery * p.drop * from_peak or time[k] - since >= p.rearm_s * 1e9:
                episode = None
            else:
                continue
        drop = (peak - int(mid[k])) / peak
        now = clock[k]
        if drop < p.drop or now < p.minimum_average_s * 1000:
            continue

        # Volume: lots a second over both windows.
        def opens_at(seconds: float, now: int = now) -> int:
            return max((now // p.bucket_ms - round(seconds * 1000 / p.bucket_ms)) * p.bucket_ms, 0)

        times = clock[era : k + 1]
        short, long = (lots[era : k + 1][times >= opens_at(s)].sum() for s in (p.volume_window_s, p.average_s))
        if long == 0:
            continue
        ratio = short * (now - opens_at(p.average_s)) / (long * (now - opens_at(p.volume_window_s)))
        # Depth: its mean over the time that it was known.
        spans = np.diff(np.maximum(times, opens_at(p.window_s)))
        held = cut_depth[era:k]
        known = ~np.isnan(held)
        if not known.any() or (held[known] * spans[known]).sum() == 0:
            continue
        whole = (held[known] * spans[known]).sum()
        impact = (whole - depth[k] * spans[known].sum()) / whole
        if ratio >= p.volume and impact >= p.impact:
            episode = (int(time[k]), peak)
            alerts.append(
                CrashAlert(
                    time_ns=int(time[k]),
                    price=int(mid[k]) / 2,
                    drop=drop,
                    volume_ratio=float(ratio),
                    impact=float(impact),
                    since_peak_s=(int(time[k]) - peak_time) / 1e9,
                )
            )
    return alerts


__all__ = ["INSTRUMENT", "MS", "START", "concatenate", "crash_market", "events_of", "expected_alerts", "scripted"]
