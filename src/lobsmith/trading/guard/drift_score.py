"""The client's own drift score: blocks of its last thinned raw rows against the reference window."""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lobsmith.errors import RequestError, ServingError
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.params import GuardParams
from lobsmith.trading.transport.base import DriftScore, Float32, Transport
from lobsmith.units import NS_PER_MS

_BLOCKS = 4
"""Blocks in the ring: a reader must copy one before the writer overwrites it."""
_NAMED = 3


class RawBlock:
    """The last `rows` rows of a stream, at most one an interval: see `lobsmith.drift.reference`.

    One thread appends, any may read; neither waits.
    """

    def __init__(self, width: int, rows: int, every_ms: int, shortest: int) -> None:
        """Begin empty.

        Args:
            width: F.
            rows: length of a block.
            every_ms: interval.
            shortest: rows of a stream's first block.
        """
        self._ring = np.empty((_BLOCKS * rows, width), np.float32)
        self._block_rows = rows
        self._shortest = shortest
        self._interval_ns = every_ms * NS_PER_MS
        self._interval: int | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Rows taken so far."""
        return self._count

    def append(self, raw: Float32, time_ns: int) -> bool:
        """Take the next raw row, unless its interval has one.

        Args:
            raw: float32 [F].
            time_ns: local receive time, UTC.

        Returns:
            Whether the row is finite; others are not taken.

        Raises:
            RequestError: wrong shape or type.
        """
        if raw.shape != self._ring.shape[1:] or raw.dtype != np.float32:
            raise RequestError(f"raw: expected float32 [{self._ring.shape[1]}], got {raw.dtype} {list(raw.shape)}")
        finite = bool(np.isfinite(raw).all())
        interval = time_ns // self._interval_ns
        if finite and interval != self._interval:
            self._ring[self._count % len(self._ring)] = raw
            # The row before the count: a reader counts no row that is not written.
            self._interval, self._count = interval, self._count + 1
        return finite

    def last(self) -> tuple[int, Float32 | None]:
        """Return the count, and a copy of the block ending there, float32 [<= rows, F]; None while too short."""
        while True:
            count = self._count
            if count < self._shortest:
                return count, None
            rows = self._ring[np.arange(max(0, count - self._block_rows), count) % len(self._ring)]
            # The writer may be writing the row after the last counted one.
            if self._count - count < len(self._ring) - self._block_rows:
                return count, rows


class LocalStatus(StrEnum):
    """Status by the client's own rows."""

    CALM = "calm"
    ALARM = "alarm"
    UNKNOWN = "unknown"
    """There is no drift score."""


@dataclass(frozen=True)
class LocalReading:
    """Status by the client's own rows, and why."""

    status: LocalStatus
    detail: str


class Hysteresis:
    """Alarms once `alarms` of the last `of` scores exceed 1; ends after `calm_blocks` scores in a row below `calm`."""

    def __init__(self, params: GuardParams) -> None:
        self._params = params
        self._above: deque[bool] = deque(maxlen=params.of)
        self._calm = 0
        self.alarm = False

    def push(self, score: float) -> None:
        """Take the next score; NaN exceeds 1."""
        self._above.append(not score <= 1)
        self._calm = self._calm + 1 if score < self._params.calm else 0
        if sum(self._above) >= self._params.alarms:
            self.alarm = True
        elif self._calm >= self._params.calm_blocks:
            self.alarm = False


class ScoreWatch:
    """Scores the last rows of a stream whenever enough have come; of one thread.

    Attributes:
        tried_at: rows at the last request, None before the first.
        scored_blocks: number of blocks scored.
        failures: failed requests.
    """

    def __init__(self, model: str, params: GuardParams, deadline_s: float) -> None:
        self._model = model
        self._params = params
        self._deadline_s = deadline_s
        self._hysteresis = Hysteresis(params)
        self._version: int | None = None
        self._block: RawBlock | None = None
        self._scored = False
        self.tried_at: int | None = None
        self._detail = ""
        self.scored_blocks = 0
        self.failures = 0

    def measure(self, transport: Transport, version: int | None, block: RawBlock) -> LocalReading:
        """Score the last rows if enough have come; an alarm outlasts failed requests, not the version.

        Args:
            transport: to the server.
            version: in use, if any.
            block: the stream's last rows; a new object after a gap.
        """
        if version != self._version:
            self._version, self._block = version, None
            self._hysteresis = Hysteresis(self._params)
        if block is not self._block:
            self._block, self._scored, self.tried_at = block, False, None
        count, rows = block.last()
        if version is None:
            self._detail = "no version is in use yet"
        elif rows is None:
            self._detail = f"only {count} thinned rows since the stream began"
        elif not self._scored or self.tried_at is None or count - self.tried_at >= self._params.every_rows:
            self._scored, self.tried_at = self._score(transport, version, rows), count
        if self._hysteresis.alarm:
            return LocalReading(LocalStatus.ALARM, self._detail)
        return LocalReading(LocalStatus.CALM if self._scored else LocalStatus.UNKNOWN, self._detail)

    def _score(self, transport: Transport, version: int, rows: Float32) -> bool:
        try:
            score = transport.score(self._model, version, rows, self._deadline_s)
        except ServingError as error:
            self.failures += 1
            self._detail = f"no score: {error}"
            return False
        self.scored_blocks += 1
        # A NaN score of finite rows is far outside of the reference.
        value = score.score if np.isfinite(score.contributions).all() else math.nan
        self._hysteresis.push(value)
        self._detail = f"score {value:.2f} of the last {len(rows)} thinned rows{_named(score)}"
        return True


def _named(score: DriftScore) -> str:
    if len(score.contributions) != COUNT or not score.score > 1:
        return ""
    most = np.argsort(-score.contributions)[:_NAMED]
    return f", most of it by {', '.join(NAMES[index] for index in most)}"
