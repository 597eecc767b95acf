"""Measures of predicted probabilities, and of the outputs beside the direction.

p is float [N, C], y int [N]; no label is unknown and N > 0."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.results import Head, ReliabilityPoint
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN

CLIP = 1e-7
"""Smallest probability that a logarithm is taken of: a wrong certainty costs 16 nats."""
BINS = 15
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
OUTPUTS = ("significant", "bid_withdrawal", "ask_withdrawal", "move", "volatility")
"""The heads beside the direction, in the order of the outlook; the first three are probabilities."""
_PROBABILITIES = 3


def log_losses(p: Floats, y: Ints) -> npt.NDArray[np.float64]:
    """Return each row's -ln of the true class's probability, float64 [N], nats."""
    said = p[np.arange(len(y)), y].astype(np.float64)
    return np.asarray(-np.log(np.clip(said, CLIP, 1.0)), np.float64)


def confusion(p: Floats, y: Ints) -> npt.NDArray[np.int64]:
    """Count rows by true class, then by likeliest class, int64 [C, C]; of equally likely ones the first counts."""
    classes = p.shape[1]
    cell = y.astype(np.int64) * classes + p.argmax(axis=1)
    return np.bincount(cell, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def _ratio(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide; 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def macro_f1(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the mean of the classes' F1 of confusion matrices [..., C, C], float64 [...].

    A class that is neither true nor predicted anywhere has F1 = 0.
    """
    table = np.asarray(counts, np.float64)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    return np.asarray(_ratio(2.0 * hits, table.sum(axis=-1) + table.sum(axis=-2)).mean(axis=-1), np.float64)


def mcc(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the correlation R_K of confusion matrices [..., C, C], float64 [...] (Gorodkin 2004).

    It is 0 where all rows have one class, or all predictions.
    """
    table = np.asarray(counts, np.float64)
    true, said, rows = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-2, -1))
    hits = np.trace(table, axis1=-2, axis2=-1)
    covariance = hits * rows - (true * said).sum(axis=-1)
    spread = (rows**2 - (true**2).sum(axis=-1)) * (rows**2 - (said**2).sum(axis=-1))
    return np.clip(_ratio(covariance, np.sqrt(np.maximum(spread, 0.0))), -1.0, 1.0)


def average_precision(score: Floats, hit: npt.NDArray[np.bool_]) -> float:
    """Return the area under the precision-recall curve, as a sum of steps; rows of equal score are one step.

    Args:
        score: float [N], higher is likelier.
        hit: bool [N]. Without any hit the result is 0.
    """
    if not hit.any():
        return 0.0
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(hit[order], dtype=np.float64)[ends]
    return float((hits / (ends + 1.0) * np.diff(hits, prepend=0.0)).sum() / hits[-1])


def top_bins(confidence: npt.NDArray[np.float64], bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the bin, of `bins` equally wide ones over [0, 1], of each probability of a likeliest class, int64 [N]."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def reliability(p: Floats, y: Ints, bins: int = BINS) -> list[ReliabilityPoint]:
    """Compare what the likeliest class was said to be with how often it came true, in the bins that hold rows."""
    confidence = p.max(axis=1).astype(np.float64)
    bin_of = top_bins(confidence, bins)
    rows = np.bincount(bin_of, minlength=bins)
    said = np.bincount(bin_of, confidence, bins)
    true = np.bincount(bin_of[p.argmax(axis=1) == y], minlength=bins)
    return [
        ReliabilityPoint(float(said[one] / rows[one]), float(true[one] / rows[one]), int(rows[one]))
        for one in np.flatnonzero(rows)
    ]


def expected_calibration_error(p: Floats, y: Ints, bins: int = BINS) -> float:
    """Return the mean over rows of |said - came true| of their bin (Naeini, Cooper & Hauskrecht 2015)."""
    points = reliability(p, y, bins)
    rows = sum(point.rows for point in points)
    return sum(point.rows * abs(point.said - point.came_true) for point in points) / max(rows, 1)


def measure_heads(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    h: int,
    outlook: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
) -> list[Head]:
    """Measure the outputs at one horizon; rows without a finite output or a known truth do not count.

    Args:
        dataset: all rows with their targets.
        rows: int64 [N], those that are measured.
        h: which horizon.
        outlook: float32 [N, 5], `OUTPUTS`.
        reference: float32 [5], means over the training rows.

    Returns:
        One for each output; `mean` is that of what came true. Without a row all figures are 0.
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
        said, true = outlook[:, index].astype(np.float64), truths[:, index]
        known = np.isfinite(said) & (true != UNKNOWN if binary else np.isfinite(true))
        said, true = said[known], true[known]
        mean = np.full(len(true), float(reference[index]))
        measure = _binary_losses if binary else _squares
        heads.append(
            Head(
                output=output,
                horizon_ms=dataset.horizons_ms[h],
                rows=len(true),
                mean=_mean(true),
                loss=_mean(measure(said, true)),
                reference=_mean(measure(mean, true)),
                pr_auc=average_precision(said, true == 1) if binary else None,
            )
        )
    return heads


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _squares(said: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((said - true) ** 2, np.float64)


def _binary_losses(said: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    right = np.where(true == 1, said, 1.0 - said)
    return np.asarray(-np.log(np.clip(right, CLIP, 1.0)), np.float64)
