"""A recorded session through the trading client, one row at a time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lobsmith.trading.client.stream import Prediction

Float32 = NDArray[np.float32]

_PROGRESS_ROWS = 256


class Stepping(Protocol):
    """What a replay needs of a client: see `lobsmith.trading.client.stream.StreamClient`."""

    def step(self, row: Float32) -> Prediction:
        """Ask about the next row, float32 [F]."""

    def predict(self, rows: Float32) -> list[Prediction]:
        """Ask about the next rows, float32 [T, F]."""


@dataclass(frozen=True)
class ReplayResult:
    """What came of each row.

    `probabilities` float32 [N, H, 3], NaN where there is no answer (H is 0 where there is none at all); `versions`
    int64 [N], the version asked, 0 where none was known; `latencies_ns` int64 [N]; `reasons` counts rows without an
    answer.
    """

    probabilities: Float32
    versions: NDArray[np.int64]
    latencies_ns: NDArray[np.int64]
    reasons: dict[str, int]


def replay(
    rows: Float32,
    client: Stepping,
    *,
    prime: Float32 | None = None,
    stop_after: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Step the client through rows.

    Args:
        rows: float32 [N, F], oldest first.
        client: whatever state it holds is carried on.
        prime: float32 [P, F], the rows before the first, fed beforehand; their answers are not kept.
        stop_after: ask about this many rows at most.
        on_progress: told how many rows are done, of how many.

    Raises:
        RequestError: the rows have the wrong width or type.
    """
    if prime is not None:
        client.predict(prime)
    total = len(rows) if stop_after is None else min(len(rows), stop_after)
    predictions: list[Prediction] = []
    for done, row in enumerate(rows[:total], start=1):
        predictions.append(client.step(row))
        if on_progress is not None and (done % _PROGRESS_ROWS == 0 or done == total):
            on_progress(done, total)
    return _collect(predictions)


def _collect(predictions: list[Prediction]) -> ReplayResult:
    horizons, classes = next((p.probabilities.shape for p in predictions if p.probabilities is not None), (0, 3))
    probabilities = np.full((len(predictions), horizons, classes), np.nan, np.float32)
    for place, prediction in enumerate(predictions):
        if prediction.probabilities is not None:
            probabilities[place] = prediction.probabilities
    return ReplayResult(
        probabilities=probabilities,
        versions=np.array([p.version or 0 for p in predictions], np.int64),
        latencies_ns=np.array([p.latency_ns for p in predictions], np.int64),
        reasons=dict(Counter(p.reason.value for p in predictions if p.reason is not None)),
    )
