"""What a live session reports each second."""

import time
from datetime import UTC, datetime

import numpy as np
from msgspec import Struct

from lobsmith import clock
from lobsmith.trading.live.stream import LiveStream, StreamPhase
from lobsmith.units import NS_PER_S, NS_PER_US

_BEHIND_S = 1.0
"""Least delay that is reported, machine time."""


class Second(Struct, frozen=True, kw_only=True):
    """One second of one instrument; None where there is nothing to report.

    Attributes:
        time_ns: workspace time, UTC.
        instrument: `venue:symbol`.
        detail: why the stream waits, or not all predictions are actionable.
        price: the last mid.
        horizon_ms: of `up` and `down`.
        up: probability of a higher mid.
        down: probability of a lower mid.
        mode: of the last gated prediction.
        abstain: why not all predictions are actionable.
        version: asked last.
        rows_per_s: since the last second, machine time.
        p50_us: median from a message's receipt to its answer over ten seconds, machine time.
        p99_us: 99th percentile of the same.
        behind_s: delay of the last answer, machine time.
        unanswered: rows so far with a reason instead of an answer.
        drops: see `LiveStream.drops`.
        faults: unreadable lines so far.
    """

    time_ns: int
    instrument: str
    state: StreamPhase
    detail: str | None
    price: float | None
    horizon_ms: int
    up: float | None
    down: float | None
    mode: str | None
    abstain: str | None
    version: int | None
    rows_per_s: float
    p50_us: float | None
    p99_us: float | None
    behind_s: float
    unanswered: int
    drops: int
    faults: int

    def __str__(self) -> str:
        time_utc = datetime.fromtimestamp(self.time_ns // NS_PER_S, UTC)
        parts = [f"{time_utc:%H:%M:%S}  {self.instrument}"]
        if self.price is not None:
            parts.append(f"{self.price:,.10g}")
        if self.up is not None:
            parts.append(f"up {self.up:.2f} down {self.down:.2f} in {self.horizon_ms:g} ms")
        parts.append(self.state if self.mode is None else f"{self.mode}  {self.version or 'no version'}")
        parts.append(f"{self.rows_per_s:,.0f} rows/s")
        if self.p50_us is not None and self.p99_us is not None:
            parts.append(f"p50 {self.p50_us / 1e3:.1f} p99 {self.p99_us / 1e3:.1f} ms")
        counts = {"unanswered": self.unanswered, "drops": self.drops, "faults": self.faults}
        parts += [f"{name} {count:,}" for name, count in counts.items() if count]
        if self.behind_s > _BEHIND_S:
            parts.append(f"behind by {self.behind_s:.1f} s")
        return "  ".join(parts)


class StreamMeter:
    """Measures one stream once a second."""

    def __init__(self, stream: LiveStream, horizons_ms: tuple[int, ...], horizon_ms: int) -> None:
        """Report the probabilities of one of the H horizons."""
        self._stream = stream
        self._h = horizons_ms.index(horizon_ms)
        self._horizon_ms = horizon_ms
        self._rows = 0
        self._at = time.monotonic()

    def read(self, late_ns: int, unreadable: int) -> Second:
        """Return the second since the last call.

        Args:
            late_ns: delay of the feed's last line, workspace time.
            unreadable: messages that did not decode.
        """
        stream = self._stream
        with stream.lock:
            counts = stream.counts
            last, rows, mid, behind_ns = counts.last, counts.rows, counts.mid, counts.behind_ns
            unanswered = sum(counts.reasons.values())
            latencies = np.concatenate([block for _, block in counts.latencies]) if counts.latencies else None
        now = time.monotonic()
        rate = (rows - self._rows) / max(now - self._at, 1e-9)
        idle = rows == self._rows
        self._rows, self._at = rows, now
        probabilities = None if last is None else last.prediction.probabilities
        p50, p99 = (None, None) if latencies is None else np.percentile(latencies, (50, 99)) / NS_PER_US
        return Second(
            time_ns=clock.now_ns(),
            instrument=str(stream.instrument),
            state=stream.state,
            detail=stream.detail or (None if last is None else last.detail),
            price=mid * stream.instrument.tick_size / 2 if mid else None,
            horizon_ms=self._horizon_ms,
            up=None if probabilities is None else float(probabilities[self._h, 2]),
            down=None if probabilities is None else float(probabilities[self._h, 0]),
            mode=None if last is None else last.mode.value,
            abstain=None if last is None or last.abstain is None else last.abstain.value,
            version=None if last is None else last.prediction.version,
            rows_per_s=round(rate, 1),
            p50_us=None if p50 is None else round(float(p50), 1),
            p99_us=None if p99 is None else round(float(p99), 1),
            behind_s=0.0 if idle else round(max(behind_ns, late_ns) / clock.speed() / NS_PER_S, 3),
            unanswered=unanswered,
            drops=stream.drops,
            faults=stream.faults + unreadable,
        )
