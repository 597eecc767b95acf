"""A client's own look for drift: blocks of its last rows, scored against what the version in use has learnt from."""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lobsmith.errors import ServingError
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.params import GuardParams
from lobsmith.trading.answer import Float32, Score
from lobsmith.trading.raw_block import RawBlock
from lobsmith.trading.transports import ScoringTransport

_NAMED = 3


class Own(StrEnum):
    """What a client's own rows say."""

    CALM = "calm"
    ALARM = "alarm"
    UNKNOWN = "unknown"
    """There is no score to be had."""


@dataclass(frozen=True)
class OwnWord:
    """What a client's own rows say, and why, one line."""

    own: Own
    detail: str


class Hysteresis:
    """An alarm once `alarms` of the last `of` scores are above 1; calm again after `calm_blocks` low ones in a row."""

    def __init__(self, params: GuardParams) -> None:
        self._params = params
        self._above: deque[bool] = deque(maxlen=params.of)
        self._calm = 0
        self.alarm = False

    def push(self, score: float) -> None:
        """Take the next score; one that is not a number is no calm one."""
        self._above.append(not score <= 1)
        self._calm = self._calm + 1 if score < self._params.calm else 0
        if sum(self._above) >= self._params.alarms:
            self.alarm = True
        elif self._calm >= self._params.calm_blocks:
            self.alarm = False


class ScoreWatch:
    """Scores the last rows of a stream each time that enough have come; belongs to one thread.

    Attributes:
        tried_at: how many rows the stream had when a score was last asked for; None where none was yet.
        scores: how many blocks were scored.
        failures: how many could not be.
    """

    def __init__(self, model: str, params: GuardParams, deadline_s: float) -> None:
        """Begin without a score.

        Args:
            model: the production model.
            params: when a block is scored, and what the scores lead to.
            deadline_s: of one request.
        """
        self._model = model
        self._params = params
        self._deadline_s = deadline_s
        self._hysteresis = Hysteresis(params)
        self._version: int | None = None
        self._block: RawBlock | None = None
        self._known = False
        self.tried_at: int | None = None
        self._detail = ""
        self.scores = 0
        self.failures = 0

    def look(self, transport: ScoringTransport, version: int | None, block: RawBlock) -> OwnWord:
        """Score the last rows if it is time to.

        An alarm is not over because no score can be had; it is with another version, which has learnt from other rows.

        Args:
            transport: what scores.
            version: the version in use; None while there is none.
            block: the stream's last rows; another one than before after a gap.
        """
        if version != self._version:
            self._version, self._block = version, None
            self._hysteresis = Hysteresis(self._params)
        if block is not self._block:
            self._block, self._known, self.tried_at = block, False, None
        count, rows = block.last()
        if version is None:
            self._detail = "no version is in use yet"
        elif rows is None:
            self._detail = f"only {count} thinned rows since the stream began"
        elif not self._known or self.tried_at is None or count - self.tried_at >= self._params.every_rows:
            self._known, self.tried_at = self._score(transport, version, rows), count
        if self._hysteresis.alarm:
            return OwnWord(Own.ALARM, self._detail)
        return OwnWord(Own.CALM if self._known else Own.UNKNOWN, self._detail)

    def _score(self, transport: ScoringTransport, version: int, rows: Float32) -> bool:
        try:
            score = transport.score(self._model, version, rows, self._deadline_s)
        except ServingError as error:
            self.failures += 1
            self._detail = f"no score: {error}"
            return False
        self.scores += 1
        # Finite rows whose score is no number are far outside of what it was made for.
        value = score.score if np.isfinite(score.contributions).all() else math.nan
        self._hysteresis.push(value)
        self._detail = f"score {value:.2f} of the last {len(rows)} thinned rows{_named(score)}"
        return True


def _named(score: Score) -> str:
    """Name the features that contribute most."""
    if len(score.contributions) != COUNT or not score.score > 1:
        return ""
    most = np.argsort(-score.contributions)[:_NAMED]
    return f", most of it by {', '.join(NAMES[place] for place in most)}"
