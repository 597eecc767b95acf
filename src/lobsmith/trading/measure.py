"""What a replay shows: accuracy against the labels and how long each answer took."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.evaluation.metrics import log_losses
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.features.stream import Rows
from lobsmith.models.split import runs
from lobsmith.trading.acting import Acting, ActingCounter
from lobsmith.trading.client.ab import SplitClient
from lobsmith.trading.client.stream import Prediction, StreamClient
from lobsmith.trading.guard.guarded_client import GuardedClient
from lobsmith.trading.recorder.recorder import Recorded, Recorder
from lobsmith.trading.replay import Float32, ReplayResult, replay
from lobsmith.units import NS_PER_US

_WARM_ROWS = 2048
"""Rows before the first that are fed to the client, if the run holds as many."""
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


class Score(Struct, frozen=True, kw_only=True):
    """Quality of the answers at one horizon: log-loss in nats a row."""

    horizon_ms: int
    rows: int
    accuracy: float
    log_loss: float


class Measured(Struct, frozen=True, kw_only=True):
    """The outcome of a replay; latencies in microseconds, each from the row's hand-over to its answer.

    `recorded` says what went into the prediction log, None where nothing was to; `acting` what might have been done
    with the answers, None where there was no guard.
    """

    rows: int
    answered: int
    reasons: dict[str, int]
    versions: list[int]
    scores: list[Score]
    latency_us: dict[str, float]
    recorded: Recorded | None = None
    acting: Acting | None = None


def measure(
    dataset: Dataset,
    first: int,
    client: StreamClient | SplitClient | GuardedClient,
    *,
    recorder: Recorder | None = None,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Step a client through a dataset's rows from row `first` on and score its answers.

    The client forgets its state at each gap. Rows that come before the first prime it; their answers do not count.

    Args:
        dataset: rows and labels.
        first: index of the first row to ask about.
        client: a client of the model that serves; the replay waits for the scores of a guarded one.
        recorder: is told of every row, between two answers; the replay waits for it where it cannot keep up.
        limit: ask about this many rows at most.
        on_progress: told how many rows are done, of how many.
    """
    rows = replayed_rows(dataset, first, limit)
    results: list[ReplayResult] = []
    acting = ActingCounter() if isinstance(client, GuardedClient) else None
    done = 0
    for begin, stop in runs(dataset, np.asarray([0, len(dataset.rows) - 1])):
        inside = rows[(rows >= begin) & (rows < stop)]
        if len(inside) == 0:
            continue
        start = int(inside[0])
        client.reset()
        if recorder is not None:
            recorder.reset()
        earlier = dataset.rows.features[max(begin, start - _WARM_ROWS) : start]
        results.append(
            replay(
                dataset.rows.features[start : start + len(inside)],
                _Run(client, recorder, dataset.rows, start - len(earlier), acting),
                prime=earlier if len(earlier) else None,
                on_progress=None if on_progress is None else _shifted(on_progress, done, len(rows)),
            )
        )
        done += len(inside)
    horizons = dataset.labels.shape[1]
    probabilities = np.full((done, horizons, 3), np.nan, np.float32)
    place = 0
    reasons: dict[str, int] = {}
    for result in results:
        count = len(result.latencies_ns)
        if result.probabilities.shape[1]:
            probabilities[place : place + count] = result.probabilities
        place += count
        for reason, number in result.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + number
    latencies = np.concatenate([r.latencies_ns for r in results]) if results else np.zeros(0, np.int64)
    answered = ~np.isnan(probabilities).any(axis=(1, 2))
    return Measured(
        rows=done,
        answered=int(answered.sum()),
        reasons=reasons,
        versions=sorted({int(v) for r in results for v in np.unique(r.versions) if v}),
        scores=score(probabilities, dataset.labels[rows], dataset.horizons_ms),
        latency_us={
            name: float(np.percentile(latencies[answered], q)) / NS_PER_US
            for name, q in _PERCENTILES.items()
            if answered.any()
        },
        acting=None if acting is None else acting.result(),
    )


class _Run:
    """A run of a dataset's rows through a client: knows when each was received, and has it recorded."""

    def __init__(
        self,
        client: StreamClient | SplitClient | GuardedClient,
        recorder: Recorder | None,
        rows: Rows,
        first: int,
        acting: ActingCounter | None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._rows = rows
        self._next = first
        self._acting = acting

    def step(self, row: Float32) -> Prediction:
        """Ask about the next row, float32 [F]."""
        raw = self._rows.raw[self._next]
        time_ns, segment, mid = self._about()
        if isinstance(self._client, GuardedClient):
            advised = self._client.step(row, raw, time_ns)
            prediction = advised.prediction
            self._client.pace()
            if self._acting is not None:
                self._acting.add(advised)
        elif isinstance(self._client, SplitClient):
            prediction = self._client.step(row, time_ns)
        else:
            prediction = self._client.step(row)
        if self._recorder is not None:
            self._recorder.record(time_ns, segment, mid, row, prediction, raw)
            self._recorder.pace()
        return prediction

    def predict(self, rows: Float32) -> list[Prediction]:
        """Take rows, float32 [T, F], that only prime."""
        first = self._next
        for row in rows:
            about = self._about()
            if self._recorder is not None:
                self._recorder.prime(*about, row)
                self._recorder.pace()
        if isinstance(self._client, GuardedClient):
            primed = self._rows.slice(first, self._next)
            predictions = self._client.predict(rows, primed.raw, primed.time)
            self._client.pace()
            return predictions
        return self._client.predict(rows)

    def _about(self) -> tuple[int, int, int]:
        place, self._next = self._next, self._next + 1
        return int(self._rows.time[place]), int(self._rows.segment[place]), int(self._rows.mid[place])


def replayed_rows(dataset: Dataset, first: int, limit: int | None = None) -> npt.NDArray[np.int64]:
    """Return the indices, int64, of the complete rows from `first` on, at most `limit` of them."""
    rows = first + np.flatnonzero(dataset.rows.complete[first:])
    return rows[:limit].astype(np.int64)


def _shifted(on_progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _part: on_progress(before + done, total)


def score(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], horizons_ms: tuple[int, ...]
) -> list[Score]:
    """Score probabilities against labels at each horizon; a row without an answer or without a label is left out.

    Args:
        probabilities: float32 [N, H, 3]; NaN where there is no answer.
        labels: int8 [N, H]; -1 unknown.
        horizons_ms: the H horizons.
    """
    scores = []
    for h, horizon in enumerate(horizons_ms):
        known = (labels[:, h] != UNKNOWN) & np.isfinite(probabilities[:, h]).all(axis=1)
        p, y = probabilities[known, h], labels[known, h].astype(np.int64)
        scores.append(
            Score(
                horizon_ms=horizon,
                rows=len(y),
                accuracy=float(np.mean(p.argmax(axis=1) == y)) if len(y) else float("nan"),
                log_loss=float(log_losses(p, y).mean()) if len(y) else float("nan"),
            )
        )
    return scores
