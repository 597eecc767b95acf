"""Hit rates of confident answers, by bucket of confidence: the table behind conservative mode."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.monitoring.live_evaluation import LIVE, Sources, sessions_by_instrument
from lobsmith.monitoring.log.reader import PredictionLog, answers, newest_ns, newest_sessions
from lobsmith.monitoring.log.writer import Role, log_path
from lobsmith.online.answers import Answers
from lobsmith.params import ModeParams
from lobsmith.units import NS_PER_MS
from lobsmith.workspace import Workspace

_LEAST = 1 / 3
"""Least probability of the likeliest of three directions."""
_DOWN, _UP = 0, 2
Counts = tuple[tuple[int, ...], ...]


class HitRates(Struct, frozen=True, kw_only=True):
    """Answers counted by horizon and confidence.

    Attributes:
        version: of the answers.
        edges: bounds of the B buckets of confidence, B + 1 numbers from 1/3 to 1.
        counts: [H][B], answers for a direction whose outcome is known.
        wins: [H][B], those that came true.
    """

    version: int
    horizons_ms: tuple[int, ...]
    edges: tuple[float, ...]
    counts: Counts
    wins: Counts

    def __post_init__(self) -> None:
        """Refuse tables of another shape."""
        horizons, buckets = len(self.horizons_ms), len(self.edges) - 1
        for table in (self.counts, self.wins):
            if buckets < 1 or [len(row) for row in table] != [buckets] * horizons:
                raise ValueError(f"counts and wins must have {horizons} horizons of {buckets} buckets each")

    def plus(self, other: "HitRates") -> "HitRates":
        """Return the sum of both: of the same version, horizons and buckets."""
        same = ("version", "horizons_ms", "edges")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            raise ValueError(f"hit rates of other versions, horizons or buckets: {self.version}, {other.version}")
        counts, wins = (np.add(getattr(self, name), getattr(other, name)).tolist() for name in ("counts", "wins"))
        return HitRates(
            version=self.version,
            horizons_ms=self.horizons_ms,
            edges=self.edges,
            counts=tuple(map(tuple, counts)),
            wins=tuple(map(tuple, wins)),
        )


def hit_rates(answers: Answers, buckets: int) -> HitRates:
    """Count the answers of one instrument, in buckets of equal width."""
    tables = [_of_horizon(answers, horizon, buckets) for horizon in range(len(answers.horizons_ms))]
    return HitRates(
        version=answers.version,
        horizons_ms=answers.horizons_ms,
        edges=tuple(np.linspace(_LEAST, 1.0, buckets + 1).tolist()),
        counts=tuple(tuple(counts.tolist()) for counts, _ in tables),
        wins=tuple(tuple(wins.tolist()) for _, wins in tables),
    )


def allowed(rates: HitRates, params: ModeParams) -> list[list[bool]]:
    """Return the buckets with a hit rate above `win_rate` over at least `minimum_count` answers; [H][B]."""
    return [
        [count >= params.minimum_count and won > params.win_rate * count for count, won in zip(*row, strict=True)]
        for row in zip(rates.counts, rates.wins, strict=True)
    ]


class ActTable:
    """Answers that conservative mode acts on: built once from hit rates, then looked up at each tick.

        table = ActTable.of(published.win_rates, version, horizons_ms, params.modes)
        table.actionable(answer.probabilities)

    Args:
        allowed: [H][B], whether a bucket's answers are actionable.
    """

    def __init__(self, allowed: Sequence[Sequence[bool]]) -> None:
        self._horizons = [(_least_confidence(row), len(row), tuple(row)) for row in allowed]

    @classmethod
    def of(cls, rates: HitRates | None, version: int, horizons_ms: tuple[int, ...], params: ModeParams) -> "ActTable":
        """Allow buckets as `allowed`; missing rates, or those of another version or other horizons, allow nothing."""
        if rates is None or (rates.version, rates.horizons_ms) != (version, horizons_ms):
            return cls([[False]] * len(horizons_ms))
        return cls(allowed(rates, params))

    def actionable(self, probabilities: npt.NDArray[np.float32]) -> tuple[bool, ...]:
        """Return for each horizon whether its answer is actionable; never where it is no direction, or NaN.

        Args:
            probabilities: float32 [H, 3], of down, unchanged and up.
        """
        actionable = []
        # Plain numbers: on so few, NumPy's calls take ten times as long.
        for (down, unchanged, up), (least, buckets, row) in zip(probabilities.tolist(), self._horizons, strict=True):
            confidence = down if down > up else up
            if confidence >= least and confidence > unchanged and (down > up or up > down):
                bucket = int((min(confidence, 1.0) - _LEAST) * buckets / (1 - _LEAST))
                actionable.append(row[min(bucket, buckets - 1)])
            else:
                actionable.append(False)
        return tuple(actionable)


def _least_confidence(allowed: Sequence[bool]) -> float:
    """Return the least actionable confidence, less a margin for rounding of sums."""
    places = np.flatnonzero(allowed)
    return _LEAST + (1 - _LEAST) * int(places[0]) / len(allowed) - 1e-9 if len(places) else float("inf")


def _of_horizon(answers: Answers, horizon: int, buckets: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    # In float64, as `ActTable` computes: both must put an answer into the same bucket.
    down, unchanged, up = answers.probabilities[:, horizon].astype(np.float64).T
    label = answers.labels[:, horizon]
    confidence = np.maximum(down, up)
    counts = (confidence > unchanged) & ((down > up) | (up > down)) & (label >= 0)
    predicted = np.where(down > up, _DOWN, _UP)[counts]
    bucket = (
        ((confidence[counts].clip(max=1.0) - _LEAST) * buckets / (1 - _LEAST)).astype(np.int64).clip(0, buckets - 1)
    )
    time_ns = answers.time_ns[counts]
    interval = time_ns // (answers.horizons_ms[horizon] * NS_PER_MS)
    # Sessions of several clients may hold the same rows, or arrive in another order than their times.
    order = np.lexsort((time_ns, interval, bucket))
    first = order[(np.diff(bucket[order], prepend=-1) != 0) | (np.diff(interval[order], prepend=-1) != 0)]
    won = first[predicted[first] == label[counts][first]]
    return np.bincount(bucket[first], minlength=buckets), np.bincount(bucket[won], minlength=buckets)


def count_hits(
    workspace: Workspace, params: ModeParams, model: str, version: int, sources: Sources = LIVE
) -> HitRates | None:
    """Count the answers of a version as the active one; None where no row was put to it.

    Of each instrument the newest `win_rows` rows count, over as many sessions as needed, one instrument after the other
    to bound memory.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not log_path(workspace, model).exists():
        return None
    rates = []
    with PredictionLog.of(workspace, model) as log:
        for sessions in sessions_by_instrument(log, sources).values():
            names = newest_sessions(log, model, version, Role.PRIMARY, sessions, params.win_rows)
            since_ns = newest_ns(log, model, version, Role.PRIMARY, names, params.win_rows)
            answered = answers(log, model, version, since_ns=since_ns, sessions=names, role=Role.PRIMARY)
            if len(answered.time_ns):
                rates.append(hit_rates(answered, params.buckets))
    return reduce(HitRates.plus, rates) if rates else None
