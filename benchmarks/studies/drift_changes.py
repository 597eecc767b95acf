"""Regime changes of the simulated market, and the features that each of them truly shifts.

Shifts are measured without any detector, on hours of the market before and after the change, with seeds that no
detector is tried on.
"""

import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from lobsmith.drift.reference import RawRows, thinned
from lobsmith.features.definitions import NAMES
from lobsmith.features.stream import FeatureStream
from lobsmith.market.events import END
from lobsmith.market.simulator import INSTRUMENT, Dynamics, Market
from lobsmith.params import Params

Factors = dict[str, float]


def sizes(by: float) -> Factors:
    """Return larger orders and queues: the same market in other units."""
    return dict.fromkeys(("order", "queue"), by)


def activity(by: float) -> Factors:
    """Return more of everything a second."""
    return dict.fromkeys(("limit", "cancel", "market", "inside", "deep"), by)


def spread(by: float) -> Factors:
    """Return a spread that closes less fast."""
    return {"inside": 1 / by}


CHANGES: dict[str, Factors] = {
    "none": {},
    **{f"sizes x {by}": sizes(by) for by in (1.15, 1.3, 1.6)},
    **{f"activity x {by}": activity(by) for by in (1.15, 1.3, 1.6)},
    **{f"inside / {by}": spread(by) for by in (2, 4, 8)},
}
SIZES = ("small", "medium", "large")
MOVED = 0.1
"""Earth mover's distance between before and after, in deviations, of a shifted feature.

Not a distance of ranks (Kolmogorov-Smirnov): a spread of one tick is another share of another price, and by rank two
hours of the same market are as far apart as can be.
"""
_STEP_S = 600.0
_LONG_S = 24 * 3600.0
_BEFORE, _AFTER = 9001, 9002  # seeds


class Stretch(NamedTuple):
    """Output of a market in some time."""

    rows: RawRows
    """Complete, thinned."""
    all_rows: npt.NDArray[np.int64]
    """Receive times of all rows, UTC."""
    messages: npt.NDArray[np.int64]
    """Receive times of all messages, UTC."""


class Observed:
    """A market whose features are computed as it advances."""

    def __init__(self, seed: int, params: Params, dynamics: Dynamics | None = None) -> None:
        self._market = Market(seed, dynamics)
        self._stream = FeatureStream(INSTRUMENT, params.features)
        self._every_ms = params.drift.every_ms

    def changed(self, factors: Factors) -> "Observed":
        """Return a copy that continues with other constants."""
        other = copy.deepcopy(self)
        other._market.change(Dynamics().scaled(factors))
        return other

    def until(self, seconds: float) -> Stretch:
        """Advance to a time since the start, s."""
        parts: list[RawRows] = []
        times, messages = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while self._market.seconds < seconds - 1.0:
            events = self._market.advance(min(seconds, self._market.seconds + _STEP_S))
            rows = self._stream.push(events)
            kept = thinned(rows.time, self._every_ms)
            kept = kept[rows.complete[kept]]
            parts.append(RawRows(rows.time[kept], rows.segment[kept], rows.raw[kept]))
            times.append(rows.time)
            messages.append(events.local_time[(events.flags & END) != 0])
        return Stretch(joined(parts, self._every_ms), np.concatenate(times), np.concatenate(messages))


def joined(parts: list[RawRows], every_ms: int) -> RawRows:
    """Return rows end to end; a thinning interval in two parts counts once."""
    time_ns, segment, raw = (
        np.concatenate([getattr(part, name) for part in parts]) for name in RawRows.__annotations__
    )
    kept = thinned(time_ns, every_ms)
    return RawRows(time_ns[kept], segment[kept], raw[kept])


def truths(params: Params) -> dict[str, dict[str, float]]:
    """Return how far each change shifts each feature; the distances of "none" are by chance."""
    before = _hours(_BEFORE, {}, params)
    unit = before.std(axis=0, dtype=np.float64)
    unit[unit == 0] = 1.0
    distances = {}
    for change, factors in CHANGES.items():
        after = _hours(_AFTER, factors, params)
        distances[change] = {
            name: float(wasserstein_distance(before[:, at], after[:, at]) / unit[at]) for at, name in enumerate(NAMES)
        }
    return distances


def truly_moved(change: str, distances: dict[str, float]) -> set[str]:
    """Return the features that a change shifts.

    Larger orders and queues are the same market in larger lots: only the sizes shift, whatever a day shows.
    """
    if change.startswith("sizes"):
        return {name for name in NAMES if name.startswith(("bid_size_", "ask_size_"))}
    return {name for name, distance in distances.items() if distance >= MOVED}


def _hours(seed: int, factors: Factors, params: Params) -> npt.NDArray[np.float32]:
    return Observed(seed, params, Dynamics().scaled(factors)).until(_LONG_S).rows.raw
