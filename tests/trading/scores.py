"""Drift scores and modes as the test sets them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lobsmith.monitoring.mode.machine import Mode, PublishedMode
from lobsmith.trading.transport.base import DriftScore

NOW_NS = 1_772_000_000_000_000_000


def record(mode: Mode = Mode.NORMAL, *, version: int = 1, looked_ns: int = NOW_NS, since_ns: int = 0) -> PublishedMode:
    return PublishedMode(
        model="lob", version=version, mode=mode, since_ns=since_ns, looked_ns=looked_ns, reason="by the test"
    )


@dataclass
class Modes:
    """A source of modes that returns what the test sets."""

    says: PublishedMode | Exception | None = None

    def read(self) -> PublishedMode | None:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@dataclass
class Scores:
    """Scores blocks as the test sets; by default all alike. Requests stay in `asked`."""

    says: float | BaseException = 0.5
    then: Sequence[float | BaseException] = ()
    asked: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def score(self, model: str, version: int, rows: np.ndarray, deadline_s: float) -> DriftScore:
        value = self.then[len(self.asked)] if len(self.asked) < len(self.then) else self.says
        self.asked.append((version, rows))
        if isinstance(value, BaseException):
            raise value
        return DriftScore(value, np.full(rows.shape[1], value, np.float32))

    def close(self) -> None: ...
