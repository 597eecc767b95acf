"""A recorded session through a stream, row by row: accuracy against the labels, and how long each answer took."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.evaluation.metrics import log_losses
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.models.split import runs
from lobsmith.trading.guard.guarded_client import GatedPrediction
from lobsmith.trading.recorder.recorder import Recorded
from lobsmith.trading.session import Stream
from lobsmith.units import NS_PER_US

_WARM_ROWS = 2048
"""Rows before the first that prime the stream, if the run holds as many."""
_PROGRESS_ROWS = 256
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


class HorizonQuality(Struct, frozen=True, kw_only=True):
    """Quality of the answers at one horizon: log-loss in nats a row."""

    horizon_ms: int
    rows: int
    accuracy: float
    log_loss: float


class ActionSummary(Struct, frozen=True, kw_only=True):
    """Rows by what may be done with their answers.

    Attributes:
        acted: rows of which some horizon's answer may be acted on.
        in_full: rows of which all may be.
        modes: rows by mode.
        abstained: rows of which not all may be, by reason code.
        last: the last such reason, one line for people.
    """

    acted: int
    in_full: int
    modes: dict[str, int]
    abstained: dict[str, int]
    last: str | None


class ReplayResult(Struct, frozen=True, kw_only=True):
    """The outcome of a replay; latencies in microseconds, each from the row's hand-over to its answer.

    `recorded` says what went into the prediction log, None where nothing was to; `acting` what might have been done
    with the answers, None where there was no guard; `not_learnt` that the version has not learnt the instrument.
    """

    rows: int
    answered: int
    reasons: dict[str, int]
    versions: list[int]
    scores: list[HorizonQuality]
    latency_us: dict[str, float]
    recorded: Recorded | None = None
    acting: ActionSummary | None = None
    not_learnt: str | None = None


def replay(
    stream: Stream,
    dataset: Dataset,
    first: int = 0,
    *,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Step a stream through a dataset's rows from row `first` on and score its answers.

    The stream is reset at each gap. Rows that come before the first prime it; their answers do not count.

    Args:
        stream: of the dataset's instrument; it is not closed here.
        dataset: rows and labels.
        first: index of the first row to ask about.
        limit: ask about this many rows at most.
        on_progress: called with how many rows are done, of how many.

    Raises:
        DataError: the dataset has other features or labels than the stream.
    """
    if dataset.definitions_sha256 != stream.definitions_sha256:
        raise DataError(
            f"the rows were made with other features or labels (definitions {dataset.definitions_sha256[:12]}) than "
            f"the stream's ({stream.definitions_sha256[:12]}); build the dataset with the same parameters"
        )
    rows = replayed_rows(dataset, first, limit)
    answers = _Answers(np.full((len(rows), dataset.labels.shape[1], 3), np.nan, np.float32))
    for begin, stop in runs(dataset, np.asarray([0, int(rows[-1])])) if len(rows) else ():
        start = max(begin, int(rows[0]))
        if start >= stop:
            continue
        stream.reset()
        if start > begin:
            stream.prime(dataset.rows.slice(max(begin, start - _WARM_ROWS), start))
        run = dataset.rows.slice(start, stop)
        about = run.time.tolist(), run.segment.tolist(), run.mid.tolist()
        for row, raw, time_ns, segment, mid in zip(run.features, run.raw, *about, strict=True):
            done = answers.add(stream.step(row, raw, time_ns, segment, mid))
            if on_progress is not None and (done % _PROGRESS_ROWS == 0 or done == len(rows)):
                on_progress(done, len(rows))
    latencies = np.array(answers.latencies_ns, np.int64)
    answered = ~np.isnan(answers.probabilities).any(axis=(1, 2))
    return ReplayResult(
        rows=len(rows),
        answered=int(answered.sum()),
        reasons=dict(answers.reasons),
        versions=sorted(answers.versions),
        scores=score(answers.probabilities, dataset.labels[rows], dataset.horizons_ms),
        latency_us={
            name: float(np.percentile(latencies[answered], q)) / NS_PER_US
            for name, q in _PERCENTILES.items()
            if answered.any()
        },
        acting=None if stream.guard is None else answers.acting(),
        not_learnt=stream.not_learnt,
    )


@dataclass
class _Answers:
    """What came of each row; `probabilities` float32 [N, H, 3] are NaN where there is no answer."""

    probabilities: npt.NDArray[np.float32]
    latencies_ns: list[int] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    acted: int = 0
    in_full: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    abstained: Counter[str] = field(default_factory=Counter)
    last: str | None = None

    def add(self, gated: GatedPrediction) -> int:
        """Take the next row's answer; return how many there are."""
        prediction = gated.prediction
        if prediction.probabilities is not None:
            self.probabilities[len(self.latencies_ns)] = prediction.probabilities
        self.latencies_ns.append(prediction.latency_ns)
        if prediction.version is not None:
            self.versions.add(prediction.version)
        if prediction.reason is not None:
            self.reasons[prediction.reason.value] += 1
        self.acted += any(gated.actionable)
        self.in_full += all(gated.actionable)
        self.modes[gated.mode.value] += 1
        if gated.abstain is not None:
            self.abstained[gated.abstain.value] += 1
            self.last = gated.detail
        return len(self.latencies_ns)

    def acting(self) -> ActionSummary:
        """Return the counts of what might have been acted on."""
        return ActionSummary(
            acted=self.acted,
            in_full=self.in_full,
            modes=dict(self.modes),
            abstained=dict(self.abstained),
            last=self.last,
        )


def replayed_rows(dataset: Dataset, first: int, limit: int | None = None) -> npt.NDArray[np.int64]:
    """Return the indices, int64, of the complete rows from `first` on, at most `limit` of them."""
    rows = first + np.flatnonzero(dataset.rows.complete[first:])
    return rows[:limit].astype(np.int64)


def score(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], horizons_ms: tuple[int, ...]
) -> list[HorizonQuality]:
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
            HorizonQuality(
                horizon_ms=horizon,
                rows=len(y),
                accuracy=float(np.mean(p.argmax(axis=1) == y)) if len(y) else float("nan"),
                log_loss=float(log_losses(p, y).mean()) if len(y) else float("nan"),
            )
        )
    return scores
