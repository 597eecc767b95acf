"""Flash crashes: price falls, volume bursts and bids vanish at one event.

An alert comes at the first event at which all three hold (see docs/surveillance.md):

- drop: (M - m) / M >= `drop`, m the mid and M the highest mid of the last `window_s`;
- volume: V / v >= `volume`, V lots traded a second over `volume_window_s` and v the same over `average_s`;
- impact: (D - d) / D >= `impact`, d the lots on the ten best bid levels and D its time-weighted mean over `window_s`.

A window of n buckets of `bucket_ms` is the n before the present one and its elapsed part. Price windows use the local
clock, the others *observed* time, without gaps. Bounded work per event, no allocation.
"""

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from numba import njit

from lobsmith.market import book as order_book
from lobsmith.market.events import ASK, BID, END, GAP, TICKER, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.params import CrashParams
from lobsmith.units import NS_PER_S

LEVELS = 10
"""Bid levels of the visible depth."""

_MS = 1_000_000
_ALERT_ROOM = 16

CRASH_DTYPE = np.dtype(
    [
        # Constants.
        ("lot", np.float64),
        ("bucket_ms", np.int64),
        ("peak_buckets", np.int64),
        ("short_buckets", np.int64),
        ("long_buckets", np.int64),
        ("minimum_ms", np.int64),
        ("rearm_ns", np.int64),
        ("drop", np.float64),
        ("volume", np.float64),
        ("impact", np.float64),
        ("recovery", np.float64),
        # Clocks.
        ("started", np.int64),
        ("gap", np.int64),  # 1 from a gap to the next event
        ("time", np.int64),  # local, of the last event, ns
        ("clock", np.int64),  # observed time, ms
        ("bucket", np.int64),  # of observed time
        # The price; `mid` is best bid plus best ask.
        ("mid", np.int64),  # 0: not known
        ("peak_first", np.int64),  # the queue: peak_first to peak_last - 1, modulo its length
        ("peak_last", np.int64),
        # Window sums, lots and lots times ms; integers, exact below 2^53.
        ("short_lots", np.float64),
        ("long_lots", np.float64),
        ("depth_lots_ms", np.float64),
        ("depth_ms", np.float64),
        ("depth", np.float64),  # lots
        ("depth_known", np.int64),
        ("stale", np.int64),  # bids may have changed since read
        ("prices", np.int64, (LEVELS,)),
        ("sizes", np.float64, (LEVELS,)),
        # The episode.
        ("alarmed", np.int64),
        ("alarm_time", np.int64),
        ("alarm_peak", np.int64),
    ],
    align=True,
)

PEAK_DTYPE = np.dtype([("bucket", np.int64), ("mid", np.int64), ("time", np.int64)])

BUCKET_DTYPE = np.dtype([("lots", np.float64), ("depth_lots_ms", np.float64), ("depth_ms", np.float64)])

ALERT_DTYPE = np.dtype(
    [
        ("time", np.int64),
        ("mid", np.int64),
        ("drop", np.float64),
        ("volume_ratio", np.float64),
        ("impact", np.float64),
        ("peak_time", np.int64),
    ]
)


class CrashAlert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A flash crash at the alert's event."""

    time_ns: int
    """The event's local time."""
    price: float
    """The mid, ticks."""
    drop: float
    """Fall as a share of the window's highest mid."""
    volume_ratio: float
    """Volume a second over its average."""
    impact: float
    """Missing share of the average bid depth."""
    since_peak_s: float
    """Local time since the highest mid ended."""


@njit(cache=True, error_model="numpy")
def _restart(s, buckets):  # type: ignore[no-untyped-def]
    s.clock = 0
    s.bucket = 0
    s.mid = 0
    s.peak_first = 0
    s.peak_last = 0
    s.short_lots = 0.0
    s.long_lots = 0.0
    s.depth_lots_ms = 0.0
    s.depth_ms = 0.0
    s.alarmed = 0
    for i in range(len(buckets)):
        buckets[i].lots = 0.0
        buckets[i].depth_lots_ms = 0.0
        buckets[i].depth_ms = 0.0


@njit(cache=True, error_model="numpy")
def _next_bucket(s, buckets):  # type: ignore[no-untyped-def]
    """Open a bucket; subtract those that leave a window."""
    s.bucket += 1
    room = len(buckets)
    oldest = s.bucket - s.short_buckets - 1
    if oldest >= 0:
        s.short_lots -= buckets[oldest % room].lots
    oldest = s.bucket - s.peak_buckets - 1
    if oldest >= 0:
        s.depth_lots_ms -= buckets[oldest % room].depth_lots_ms
        s.depth_ms -= buckets[oldest % room].depth_ms
    oldest = s.bucket - s.long_buckets - 1
    if oldest >= 0:
        s.long_lots -= buckets[oldest % room].lots
    slot = s.bucket % room
    buckets[slot].lots = 0.0
    buckets[slot].depth_lots_ms = 0.0
    buckets[slot].depth_ms = 0.0


@njit(cache=True, error_model="numpy")
def _observe(s, buckets, elapsed):  # type: ignore[no-untyped-def]
    """Advance observed time by `elapsed` ms of the present depth."""
    now = s.clock + elapsed
    room = len(buckets)
    while s.clock < now:
        border = (s.bucket + 1) * s.bucket_ms
        end = min(now, border)
        if s.depth_known:
            part = np.float64(end - s.clock)
            slot = s.bucket % room
            buckets[slot].depth_ms += part
            buckets[slot].depth_lots_ms += part * s.depth
            s.depth_ms += part
            s.depth_lots_ms += part * s.depth
        s.clock = end
        if end == border:
            _next_bucket(s, buckets)


@njit(cache=True, error_model="numpy")
def _pass_time(s, buckets, time):  # type: ignore[no-untyped-def]
    """Move the clocks to an event; restart if they went back or over a long silence."""
    if s.started == 0:
        s.started = 1
        s.gap = 0
        s.time = time
        return
    if time < s.time or time // _MS - s.time // _MS > s.long_buckets * s.bucket_ms:
        known = s.mid if s.gap == 0 else 0
        _restart(s, buckets)
        s.mid = known if time > s.time else 0
    elif s.gap == 0:
        _observe(s, buckets, time // _MS - s.time // _MS)
    s.gap = 0
    s.time = time


@njit(cache=True, error_model="numpy")
def _push_peak(s, peaks, mid, time):  # type: ignore[no-untyped-def]
    """Push a mid into the queue of falling peaks, at most one a bucket."""
    room = len(peaks)
    bucket = time // (s.bucket_ms * _MS)
    while s.peak_last > s.peak_first and peaks[(s.peak_last - 1) % room].mid <= mid:
        s.peak_last -= 1
    if s.peak_last == s.peak_first or peaks[(s.peak_last - 1) % room].bucket != bucket:
        place = peaks[s.peak_last % room]
        place.bucket = bucket
        place.mid = mid
        place.time = time
        s.peak_last += 1
    while peaks[s.peak_first % room].bucket < bucket - s.peak_buckets:
        s.peak_first += 1


@njit(cache=True, error_model="numpy")
def _read_book(s, book):  # type: ignore[no-untyped-def]
    """Read the mid, if valid, and the depth."""
    bid, bid_size, ask, ask_size = order_book.touch(book)
    if bid_size > 0.0 and ask_size > 0.0 and bid < ask:
        s.mid = bid + ask
    if s.stale:
        count = order_book.levels(book, BID, s.prices, s.sizes)
        lots = 0.0
        for i in range(count):
            lots += np.rint(s.sizes[i] / s.lot)
        s.depth = lots
        s.depth_known = 1
        s.stale = 0


@njit(cache=True, error_model="numpy")
def _detect(s, peaks, alert):  # type: ignore[no-untyped-def]
    """Write an alert if this event raises one; return whether it does."""
    peak = peaks[s.peak_first % len(peaks)]
    if s.alarmed:
        recovered = np.float64(s.alarm_peak - s.mid) < s.recovery * s.drop * s.alarm_peak
        if recovered or s.time - s.alarm_time >= s.rearm_ns:
            s.alarmed = 0
        else:
            return False
    drop = np.float64(peak.mid - s.mid) / peak.mid
    if drop < s.drop or s.clock < s.minimum_ms or s.long_lots <= 0.0 or s.depth_lots_ms <= 0.0:
        return False
    short_ms = s.clock - max((s.bucket - s.short_buckets) * s.bucket_ms, 0)
    long_ms = s.clock - max((s.bucket - s.long_buckets) * s.bucket_ms, 0)
    ratio = s.short_lots * long_ms / (s.long_lots * short_ms)
    if ratio < s.volume:
        return False
    impact = (s.depth_lots_ms - s.depth * s.depth_ms) / s.depth_lots_ms
    if impact < s.impact:
        return False
    alert.time = s.time
    alert.mid = s.mid
    alert.drop = drop
    alert.volume_ratio = ratio
    alert.impact = impact
    alert.peak_time = peak.time
    s.alarmed = 1
    s.alarm_time = s.time
    s.alarm_peak = peak.mid
    return True


@njit(cache=True, error_model="numpy")
def run(state, book, peaks, buckets, alerts, start, local_time, kind, side, flags, price, size, sequence):  # type: ignore[no-untyped-def]
    """Process events from `start` on.

    Args:
        state: `CRASH_DTYPE` [1].
        book: the detector's, `BOOK_DTYPE` [1].
        peaks: `PEAK_DTYPE` [P], P at least two more than the buckets of the price window.
        buckets: `BUCKET_DTYPE` [B], B at least two more than the buckets of the longest window.
        alerts: `ALERT_DTYPE` [A], written.
        start: the first event.
        local_time, kind, side, flags, price, size, sequence: event columns, [N].

    Returns:
        (next event, alerts written): stops early when `alerts` is full.
    """
    s = state[0]
    written = 0
    for n in range(start, len(kind)):
        what = kind[n]
        if what == GAP:
            order_book.apply(book, GAP, 0, 0, 0.0, 0, END)
            s.gap = 1
            s.mid = 0
            s.depth_known = 0
            s.stale = 0
            continue
        _pass_time(s, buckets, local_time[n])
        if what == TRADE:
            lots = np.rint(size[n] / s.lot)
            buckets[s.bucket % len(buckets)].lots += lots
            s.short_lots += lots
            s.long_lots += lots
        else:
            order_book.apply(book, what, side[n], price[n], size[n], sequence[n], flags[n])
            if side[n] != ASK or what != TICKER:
                s.stale = book[0].synchronised
        if flags[n] & END == 0:
            continue
        if s.mid > 0:
            _push_peak(s, peaks, s.mid, s.time)  # the mid until now
        if what != TRADE and book[0].synchronised:
            _read_book(s, book)
        if s.mid > 0:
            _push_peak(s, peaks, s.mid, s.time)
            if _detect(s, peaks, alerts[written]):
                written += 1
                if written == len(alerts):
                    return n + 1, written
    return len(kind), written


class CrashDetector:
    """Alerts on one instrument's stream, however it is cut."""

    def __init__(self, instrument: Instrument, params: CrashParams) -> None:
        def count(seconds: float) -> int:
            return round(seconds * 1000 / params.bucket_ms)

        self._book = order_book.new_book()
        self._state = np.zeros(1, CRASH_DTYPE)
        constants = {
            "lot": instrument.lot_size,
            "bucket_ms": params.bucket_ms,
            "peak_buckets": count(params.window_s),
            "short_buckets": count(params.volume_window_s),
            "long_buckets": count(params.average_s),
            "minimum_ms": round(params.minimum_average_s * 1000),
            "rearm_ns": round(params.rearm_s * NS_PER_S),
            "drop": params.drop,
            "volume": params.volume,
            "impact": params.impact,
            "recovery": params.recovery,
        }
        for name, value in constants.items():
            self._state[name] = value
        self._peaks = np.zeros(count(params.window_s) + 2, PEAK_DTYPE)
        self._buckets = np.zeros(count(params.average_s) + 2, BUCKET_DTYPE)
        self._alerts: npt.NDArray[np.void] = np.zeros(_ALERT_ROOM, ALERT_DTYPE)

    def push(self, events: Events) -> list[CrashAlert]:
        """Process whole messages in the order of arrival; return the alerts."""
        alerts: list[CrashAlert] = []
        start = 0
        while start < len(events):
            start, count = run(
                self._state,
                self._book,
                self._peaks,
                self._buckets,
                self._alerts,
                start,
                events.local_time,
                events.kind,
                events.side,
                events.flags,
                events.price,
                events.size,
                events.sequence,
            )
            alerts += [_alert(row) for row in self._alerts[:count]]
        return alerts


def _alert(row: np.void) -> CrashAlert:
    return CrashAlert(
        time_ns=int(row["time"]),
        price=int(row["mid"]) / 2,
        drop=float(row["drop"]),
        volume_ratio=float(row["volume_ratio"]),
        impact=float(row["impact"]),
        since_peak_s=(int(row["time"]) - int(row["peak_time"])) / NS_PER_S,
    )
