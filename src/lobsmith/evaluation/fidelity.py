"""Losses of a compression candidate against the network it was made of, on the same rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.evaluation.bootstrap import block_length, block_sums, blocks, bootstrap_intervals, correlation_time
from lobsmith.evaluation.metrics import log_losses, mcc
from lobsmith.evaluation.results import Interval
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import DIRECTIONS
from lobsmith.units import NS_PER_MS

_MINIMUM_BLOCK_S = 1.0
_CELLS = len(DIRECTIONS) ** 2


class Fidelity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Losses of a candidate, each with its 95 % interval; horizons weigh as in training.

    Attributes:
        rows: rows compared.
        delta_log_loss: rise of the log-loss as a share of the reference's: 0.005 is half a percent worse.
        delta_mcc: MCC less that of the reference.
        agreement: share of directions, of all rows and horizons, that are the reference's.
    """

    rows: int
    delta_log_loss: Interval
    delta_mcc: Interval
    agreement: Interval


def fidelity(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    candidate: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    horizon_weights: Sequence[float],
    *,
    seed: int = 0,
) -> Fidelity:
    """Compare two models' probabilities, float32 [N, H, 3], on rows whose labels are known.

    Args:
        dataset: of the rows.
        rows: int64 [N], rising, all usable.
        candidate, reference: the probabilities.
        horizon_weights: H of them, not all 0.
        seed: of the block bootstrap; both models share its draws.
    """
    weights = np.asarray(horizon_weights, np.float64)
    weights = weights / weights.sum()
    labels = dataset.labels[rows]
    losses = [_losses(p, labels, weights) for p in (candidate, reference)]
    agreed = (candidate.argmax(axis=2) == reference.argmax(axis=2)).mean(axis=1)
    columns = [
        losses[0] - losses[1],
        losses[1],
        agreed,
        np.ones(len(rows)),
        *_cells(candidate, labels),
        *_cells(reference, labels),
    ]
    horizon_ns = max(dataset.horizons_ms) * NS_PER_MS
    time, segment = dataset.rows.time[rows], dataset.rows.segment[rows]
    length = block_length(
        correlation_time(columns[0], time, segment, horizon_ns=horizon_ns), horizon_ns, _MINIMUM_BLOCK_S
    )
    sums = block_sums(np.stack(columns, axis=1), blocks(time, segment, length))

    def statistic(drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        tables = drawn[:, 4:].reshape(len(drawn), 2, len(weights), len(DIRECTIONS), len(DIRECTIONS))
        rises = np.matmul(mcc(tables[:, 0]) - mcc(tables[:, 1]), weights)
        return np.stack([drawn[:, 0] / drawn[:, 1], rises, drawn[:, 2] / drawn[:, 3]], axis=1)

    loss, correlation, agreement = bootstrap_intervals(sums, statistic, seed=seed)
    # The interval is widened for few blocks; no share is above 1.
    agreement = Interval(agreement.value, max(agreement.low, 0.0), min(agreement.high, 1.0))
    return Fidelity(rows=len(rows), delta_log_loss=loss, delta_mcc=correlation, agreement=agreement)


def _losses(
    p: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return each row's log-loss, horizons weighted, float64 [N]."""
    per_horizon = np.stack([log_losses(p[:, h], labels[:, h]) for h in range(len(weights))], axis=1)
    weighted: npt.NDArray[np.float64] = per_horizon @ weights
    return weighted


def _cells(p: npt.NDArray[np.float32], labels: npt.NDArray[np.int8]) -> list[npt.NDArray[Any]]:
    """Return indicators of each horizon's cells of the confusion matrix, each float64 [N]."""
    cell = labels.astype(np.int64) * len(DIRECTIONS) + p.argmax(axis=2)
    return [(cell[:, h] == index).astype(np.float64) for h in range(p.shape[1]) for index in range(_CELLS)]
