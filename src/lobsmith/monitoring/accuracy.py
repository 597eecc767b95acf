"""Accuracy of a version's answers: loss, hits, share answered and latency, of a window or over time.

Unknown values are None, never zero and never left out.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.evaluation import metrics
from lobsmith.features.labels import UNKNOWN
from lobsmith.online.answers import Answers


class HorizonAccuracy(Struct, frozen=True):
    """A version at one horizon, over answered rows with a known outcome."""

    horizon_ms: int
    rows: int
    """Number of these rows; with none all else is None."""
    accuracy: float | None
    """Share of rows whose likeliest direction came true."""
    log_loss: float | None
    """Mean log-loss, nats."""
    base_log_loss: float | None
    """Entropy of the directions on the same rows, nats."""
    brier: float | None
    """Mean squared distance from the outcome, 0 to 2 (Brier 1950)."""
    calibration_error: float | None
    """Mean distance between the probability of the likeliest direction and its frequency, 0 to 1."""


class VersionAccuracy(Struct, frozen=True):
    """A version over a window or time bin."""

    model: str
    version: int
    from_ns: int | None
    """Receive time of the first row, or start of the time bin, UTC."""
    until_ns: int | None
    """Receive time of the last row, or end of the time bin."""
    rows: int
    """Rows put to the version."""
    answered: int
    reasons: dict[str, int]
    """Why other rows were not answered; empty for time bins."""
    latency_p50_ns: float | None
    """Of answered rows."""
    latency_p99_ns: float | None
    horizons: tuple[HorizonAccuracy, ...]


def accuracy_of(answers: Answers) -> VersionAccuracy:
    """Return the accuracy over all rows."""
    every = slice(0, len(answers.time_ns))
    known = len(answers.time_ns) > 0
    from_ns, until_ns = (int(answers.time_ns.min()), int(answers.time_ns.max())) if known else (None, None)
    return _accuracy_of(answers, every, from_ns, until_ns, answers.reasons)


def accuracy_over_time(answers: Answers, edges_ns: Sequence[int]) -> list[VersionAccuracy]:
    """Return the accuracy in each of K time bins by the rows' receive time.

    Args:
        edges_ns: K + 1 rising times, UTC ns; a bin holds its lower edge. Empty bins are included.
    """
    edges = np.asarray(edges_ns, np.int64)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError("edges_ns must be two or more rising times")
    bin_of = np.searchsorted(edges, answers.time_ns, side="right") - 1
    return [
        _accuracy_of(answers, np.flatnonzero(bin_of == index), int(edges[index]), int(edges[index + 1]), {})
        for index in range(len(edges) - 1)
    ]


def _accuracy_of(
    answers: Answers,
    chosen: slice | npt.NDArray[np.int64],
    from_ns: int | None,
    until_ns: int | None,
    reasons: dict[str, int],
) -> VersionAccuracy:
    probabilities, labels = answers.probabilities[chosen], answers.labels[chosen]
    answered = np.isfinite(probabilities).all(axis=(1, 2))
    latency = answers.latency_ns[chosen][answered]
    p50, p99 = np.percentile(latency, (50, 99)).tolist() if len(latency) else (None, None)
    return VersionAccuracy(
        answers.model,
        answers.version,
        from_ns,
        until_ns,
        len(labels),
        int(answered.sum()),
        reasons,
        p50,
        p99,
        tuple(
            _horizon_accuracy(horizon, probabilities[answered, index], labels[answered, index])
            for index, horizon in enumerate(answers.horizons_ms)
        ),
    )


def _horizon_accuracy(horizon_ms: int, p: npt.NDArray[np.float32], labels: npt.NDArray[np.int8]) -> HorizonAccuracy:
    known = labels != UNKNOWN
    p, y = p[known], labels[known].astype(np.int64)
    if not len(y):
        return HorizonAccuracy(horizon_ms, 0, None, None, None, None, None)
    share = np.bincount(y, minlength=p.shape[1]) / len(y)
    entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
    return HorizonAccuracy(
        horizon_ms,
        len(y),
        float((p.argmax(axis=1) == y).mean()),
        float(metrics.log_losses(p, y).mean()),
        entropy,
        float(((p - np.eye(p.shape[1], dtype=np.float32)[y]) ** 2).sum(axis=1, dtype=np.float64).mean()),
        metrics.expected_calibration_error(p, y),
    )
