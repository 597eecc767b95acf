"""Accumulation patterns: price impact, dominant aggressors, layering.

Public data names no participants: every measure is a proxy (formulas and sources in docs/surveillance.md). There is a
report per window of `window_s` on the local clock, and a shorter one at a gap.
"""

import math

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.market.book import new_book
from lobsmith.market.events import Events
from lobsmith.market.instrument import Instrument
from lobsmith.params import AccumulationParams
from lobsmith.surveillance.accumulation_loop import FORGET, REPORT_DTYPE, STATE_DTYPE, close, run
from lobsmith.units import NS_PER_MS

_REPORT_ROOM = 64


class AccumulationReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measures of one window; sizes in base units."""

    start_ns: int
    """Local time: the window's border, or the first event within it."""
    end_ns: int
    """The window's border, or the last event before a gap or the end."""
    complete: bool
    """Whether the window has no gap."""
    trades: int
    volume: float
    net_volume: float
    """Bought less sold, by aggressor."""
    kyle_lambda: float
    """Basis points of mid return per base unit of signed volume; 0 if undefined."""
    t_value: float
    """Of `kyle_lambda`; infinite for a perfect fit."""
    samples: int
    """Sampling intervals in the estimate."""
    market_share: float
    """Volume share of the longest run of one aggressor side."""
    capitalisation_impact: float
    """Net volume times its estimated impact, as a share of the tradable value."""
    layering_bid: float
    """Share of bid depth at levels 2 to 10 that comes and goes around trades at the ask, per interval."""
    layering_ask: float
    cancelled: float
    """Depth removed from the ten best levels without a trade."""
    cancel_to_trade: float
    """`cancelled` over `volume`; infinite if only cancelled."""
    risk: float
    """Manipulation risk, 0 to 1."""


class AccumulationMonitor:
    """Reports on one instrument's stream, however it is cut."""

    def __init__(self, instrument: Instrument, params: AccumulationParams) -> None:
        self._params = params
        self._lot = instrument.lot_size
        self._book = new_book()
        self._state = np.zeros(1, STATE_DTYPE)
        constants = {
            "lot": instrument.lot_size,
            "interval_ns": params.step_ms * NS_PER_MS,
            "intervals": round(params.window_s * 1000 / params.step_ms),
            "lifetime_ns": params.lifetime_ms * NS_PER_MS,
            "added_time": -FORGET,
            "opposite_time": -FORGET,
        }
        for name, value in constants.items():
            self._state[name] = value
        self._reports: npt.NDArray[np.void] = np.zeros(_REPORT_ROOM, REPORT_DTYPE)

    def push(self, events: Events) -> list[AccumulationReport]:
        """Process whole messages in the order of arrival; return completed windows' reports."""
        reports: list[AccumulationReport] = []
        start = 0
        while start < len(events):
            start, count = run(
                self._state,
                self._book,
                self._reports,
                start,
                events.local_time,
                events.kind,
                events.side,
                events.flags,
                events.price,
                events.size,
                events.sequence,
            )
            reports += [self._report(row) for row in self._reports[:count]]
        return reports

    def finish(self) -> list[AccumulationReport]:
        """Return the incomplete window's report, if any."""
        return [self._report(self._reports[0])] if close(self._state, self._reports[0]) else []

    def _report(self, row: np.void) -> AccumulationReport:
        p = self._params
        volume, net = float(row["volume"]), float(row["net"])
        slope, t_value = _fit(int(row["samples"]), float(row["cxx"]), float(row["cxr"]), float(row["crr"]))
        supply = p.supply or float(row["depth"])
        bid, ask = (min(float(share), 1.0) for share in row["layering"])
        cancelled = float(row["cancelled"])
        ratio = cancelled / volume if volume else math.inf if cancelled else 0.0
        one_sided = abs(bid - ask)
        layering = one_sided / (one_sided + p.layering_half)
        cancelling = ratio / (ratio + p.cancel_half) if math.isfinite(ratio) else 1.0
        return AccumulationReport(
            start_ns=int(row["start"]),
            end_ns=int(row["end"]),
            complete=bool(row["complete"]),
            trades=int(row["trades"]),
            volume=volume * self._lot,
            net_volume=net * self._lot,
            kyle_lambda=slope / self._lot,
            t_value=t_value,
            samples=int(row["samples"]),
            market_share=float(row["longest"]) / volume if volume else 0.0,
            capitalisation_impact=slope * net * net * self._lot * 1e-4 / supply if supply else 0.0,
            layering_bid=bid,
            layering_ask=ask,
            cancelled=cancelled * self._lot,
            cancel_to_trade=ratio,
            risk=p.layering_weight * layering + (1.0 - p.layering_weight) * cancelling,
        )


def _fit(samples: int, cxx: float, cxr: float, crr: float) -> tuple[float, float]:
    """Return slope and t value of least squares on centred sums; zeros if undefined."""
    if samples < 3 or cxx <= 0.0:
        return 0.0, 0.0
    slope = cxr / cxx
    residual = crr - slope * cxr
    if residual <= 1e-12 * crr:
        return slope, math.copysign(math.inf, slope) if slope else 0.0
    return slope, slope / math.sqrt(residual / (samples - 2) / cxx)
