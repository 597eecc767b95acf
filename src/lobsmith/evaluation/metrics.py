"""Metrics of predicted probabilities and of the auxiliary outputs.

p is float [N, C], y int [N]; no label is unknown and N > 0.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.results import Head, ReliabilityPoint
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN

CLIP = 1e-7
"""Smallest probability that a logarithm is taken of: 16 nats."""
BINS = 15
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
OUTPUTS = ("significant", "bid_withdrawal", "ask_withdrawal", "move", "volatility")
"""The auxiliary heads in the order of the outlook; the first three are probabilities."""
_PROBABILITIES = 3


def log_losses(p: Floats, y: Ints) -> npt.NDArray[np.float64]:
    """Return each row's -ln of the true class's probability, float64 [N], nats."""
    chosen = p[np.arange(len(y)), y].astype(np.float64)
    return np.asarray(-np.log(np.clip(chosen, CLIP, 1.0)), np.float64)


def confusion(p: Floats, y: Ints) -> npt.NDArray[np.int64]:
    """Count rows by true class, then by likeliest class, int64 [C, C]; of equally likely classes the first counts."""
    classes = p.shape[1]
    cell = y.astype(np.int64) * classes + p.argmax(axis=1)
    return np.bincount(cell, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def _ratio(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide; 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def macro_f1(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the mean of the classes' F1 of confusion matrices [..., C, C], float64 [...].

    A class that is neither true nor predicted has F1 = 0.
    """
    table = np.asarray(counts, np.float64)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    return np.asarray(_ratio(2.0 * hits, table.sum(axis=-1) + table.sum(axis=-2)).mean(axis=-1), np.float64)


def mcc(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the correlation R_K of confusion matrices [..., C, C], float64 [...] (Gorodkin 2004).

    0 where all rows, or all predictions, are of one class.
    """
    table = np.asarray(counts, np.float64)
    true, predicted, rows = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-2, -1))
    hits = np.trace(table, axis1=-2, axis2=-1)
    covariance = hits * rows - (true * predicted).sum(axis=-1)
    spread = (rows**2 - (true**2).sum(axis=-1)) * (rows**2 - (predicted**2).sum(axis=-1))
    return np.clip(_ratio(covariance, np.sqrt(np.maximum(spread, 0.0))), -1.0, 1.0)


def average_precision(probability: Floats, hit: npt.NDArray[np.bool_]) -> float:
    """Return the area under the precision-recall curve as a sum over ranks; equal probabilities share a rank.

    `probability` is float [N], `hit` bool [N]; without any hit the result is 0.
    """
    if not hit.any():
        return 0.0
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(hit[order], dtype=np.float64)[ends]
    return float((hits / (ends + 1.0) * np.diff(hits, prepend=0.0)).sum() / hits[-1])


def top_bins(confidence: npt.NDArray[np.float64], bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each probability of a likeliest class, int64 [N]; `bins` equally wide ones over [0, 1]."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def reliability(p: Floats, y: Ints, bins: int = BINS) -> list[ReliabilityPoint]:
    """Compare the mean probability of the likeliest class with its hit rate, in the bins that hold rows."""
    confidence = p.max(axis=1).astype(np.float64)
    bin_of = top_bins(confidence, bins)
    rows = np.bincount(bin_of, minlength=bins)
    predicted = np.bincount(bin_of, confidence, bins)
    true = np.bincount(bin_of[p.argmax(axis=1) == y], minlength=bins)
    return [
        ReliabilityPoint(float(predicted[index] / rows[index]), float(true[index] / rows[index]), int(rows[index]))
        for index in np.flatnonzero(rows)
    ]


def expected_calibration_error(p: Floats, y: Ints, bins: int = BINS) -> float:
    """Return the mean over rows of |probability - hit rate| of their bin (Naeini, Cooper & Hauskrecht 2015)."""
    points = reliability(p, y, bins)
    rows = sum(point.rows for point in points)
    return sum(point.rows * abs(point.predicted - point.came_true) for point in points) / max(rows, 1)


def measure_heads(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    h: int,
    outlook: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
) -> list[Head]:
    """Measure the auxiliary outputs at horizon `h`; rows without a finite output or a known truth do not count.

    Args:
        dataset: all rows with their targets.
        rows: int64 [N].
        h: index of the horizon.
        outlook: float32 [N, 5], `OUTPUTS`.
        reference: float32 [5], means over the training rows.

    Returns:
        One for each output, `mean` of the truth; without a row all figures are 0.
    """
    targets = dataset.targets
    truths = np.stack(
        [
            targets.significant[rows, h],
            targets.withdrawal[rows, h, 0],
            targets.withdrawal[rows, h, 1],
            targets.move[rows, h],
            targets.volatility[rows, h],
        ],
        axis=1,
    ).astype(np.float64)
    heads = []
    for index, output in enumerate(OUTPUTS):
        binary = index < _PROBABILITIES
        predicted, true = outlook[:, index].astype(np.float64), truths[:, index]
        known = np.isfinite(predicted) & (true != UNKNOWN if binary else np.isfinite(true))
        predicted, true = predicted[known], true[known]
        mean = np.full(len(true), float(reference[index]))
        measure = _binary_losses if binary else _squares
        heads.append(
            Head(
                output=output,
                horizon_ms=dataset.horizons_ms[h],
                rows=len(true),
                mean=_mean(true),
                loss=_mean(measure(predicted, true)),
                reference=_mean(measure(mean, true)),
                pr_auc=average_precision(predicted, true == 1) if binary else None,
            )
        )
    return heads


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _squares(predicted: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((predicted - true) ** 2, np.float64)


def _binary_losses(predicted: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    right = np.where(true == 1, predicted, 1.0 - predicted)
    return np.asarray(-np.log(np.clip(right, CLIP, 1.0)), np.float64)
