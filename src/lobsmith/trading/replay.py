"""Replays a captured session through a stream: accuracy and latency of its predictions."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.evaluation.metrics import log_losses
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.models.split import runs
from lobsmith.trading.guard.guarded_client import GatedPrediction
from lobsmith.trading.recorder.recorder import RecorderSummary
from lobsmith.trading.session import Stream
from lobsmith.units import NS_PER_US

_WARM_ROWS = 2048
"""Rows before the first that prime the stream."""
_PROGRESS_ROWS = 256
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


class HorizonQuality(Struct, frozen=True, kw_only=True):
    """Quality at one horizon, beside the base rate of the same rows: log-loss in nats a row.

    Attributes:
        base_accuracy: of the rows' most frequent direction, for every row.
        base_log_loss: of the rows' shares of the directions, for every row.
    """

    horizon_ms: int
    rows: int
    accuracy: float
    log_loss: float
    base_accuracy: float
    base_log_loss: float


class ActionSummary(Struct, frozen=True, kw_only=True):
    """Rows by what may be done with their predictions.

    Attributes:
        acted: actionable at some horizon.
        in_full: actionable at all horizons.
        modes: rows by mode.
        abstained: rows not `in_full`, by reason.
        last: detail of the last of these.
    """

    acted: int
    in_full: int
    modes: dict[str, int]
    abstained: dict[str, int]
    last: str | None


class ReplayResult(Struct, frozen=True, kw_only=True):
    """The outcome of a replay; `latency_us` from a row's hand-over to its prediction.

    Attributes:
        quality: by horizon.
        recorded: None without a recorder.
        actions: None without a guard.
        not_trained: see `Stream.not_trained`.
    """

    rows: int
    answered: int
    reasons: dict[str, int]
    versions: list[int]
    quality: list[HorizonQuality] = msgspec.field(name="scores")
    latency_us: dict[str, float]
    recorded: RecorderSummary | None = None
    actions: ActionSummary | None = msgspec.field(default=None, name="acting")
    not_trained: str | None = msgspec.field(default=None, name="not_learnt")


def replay(
    stream: Stream,
    dataset: Dataset,
    first: int = 0,
    *,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Predict a dataset's rows from `first` on and evaluate the predictions.

    The stream is reset at each gap. Rows before `first` prime it and do not count.

    Args:
        stream: of the dataset's instrument; not closed here.
        dataset: rows and labels.
        first: index of the first predicted row.
        limit: predicted rows at most.
        on_progress: called with predicted rows and their total.

    Raises:
        DataError: the dataset has other features or labels than the stream.
    """
    if dataset.definitions_sha256 != stream.definitions_sha256:
        raise DataError(
            f"the rows were made with other features or labels (definitions {dataset.definitions_sha256[:12]}) than "
            f"the stream's ({stream.definitions_sha256[:12]}); build the dataset with the same parameters"
        )
    rows = replayed_rows(dataset, first, limit)
    answers = _Collected(np.full((len(rows), dataset.labels.shape[1], 3), np.nan, np.float32))
    for begin, stop in runs(dataset, np.asarray([0, int(rows[-1])])) if len(rows) else ():
        start = max(begin, int(rows[0]))
        if start >= stop:
            continue
        stream.reset()
        if start > begin:
            stream.prime(dataset.rows.slice(max(begin, start - _WARM_ROWS), start))
        for row in dataset.rows.slice(start, stop):
            count = answers.add(stream.step(row))
            if on_progress is not None and (count % _PROGRESS_ROWS == 0 or count == len(rows)):
                on_progress(count, len(rows))
    latencies = np.array(answers.latencies_ns, np.int64)
    answered = ~np.isnan(answers.probabilities).any(axis=(1, 2))
    return ReplayResult(
        rows=len(rows),
        answered=int(answered.sum()),
        reasons=dict(answers.reasons),
        versions=sorted(answers.versions),
        quality=quality_by_horizon(answers.probabilities, dataset.labels[rows], dataset.horizons_ms),
        latency_us={
            name: float(np.percentile(latencies[answered], q)) / NS_PER_US
            for name, q in _PERCENTILES.items()
            if answered.any()
        },
        actions=None if stream.guard is None else answers.actions(),
        not_trained=stream.not_trained,
    )


@dataclass
class _Collected:
    """Predictions by row; `probabilities` float32 [N, H, 3] are NaN where there is none."""

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

    def actions(self) -> ActionSummary:
        return ActionSummary(
            acted=self.acted,
            in_full=self.in_full,
            modes=dict(self.modes),
            abstained=dict(self.abstained),
            last=self.last,
        )


def replayed_rows(dataset: Dataset, first: int, limit: int | None = None) -> npt.NDArray[np.int64]:
    """Return int64 indices of complete rows from `first` on, at most `limit`."""
    rows = first + np.flatnonzero(dataset.rows.complete[first:])
    return rows[:limit].astype(np.int64)


def quality_by_horizon(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], horizons_ms: tuple[int, ...]
) -> list[HorizonQuality]:
    """Return accuracy and log-loss by horizon, of rows with prediction and label.

    Args:
        probabilities: float32 [N, H, 3]; NaN without a prediction.
        labels: int8 [N, H]; -1 unknown.
        horizons_ms: H.
    """
    by_horizon = []
    for h, horizon in enumerate(horizons_ms):
        known = (labels[:, h] != UNKNOWN) & np.isfinite(probabilities[:, h]).all(axis=1)
        p, y = probabilities[known, h], labels[known, h].astype(np.int64)
        shares = np.bincount(y, minlength=3) / max(len(y), 1)
        seen = shares[shares > 0]
        by_horizon.append(
            HorizonQuality(
                horizon_ms=horizon,
                rows=len(y),
                accuracy=float(np.mean(p.argmax(axis=1) == y)) if len(y) else float("nan"),
                log_loss=float(log_losses(p, y).mean()) if len(y) else float("nan"),
                base_accuracy=float(shares.max()) if len(y) else float("nan"),
                base_log_loss=-float((seen * np.log(seen)).sum()) if len(y) else float("nan"),
            )
        )
    return by_horizon
