"""Outputs and losses of a network on a dataset's rows, with the state carried over gap-free runs."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from lobsmith.features.dataset import Dataset
from lobsmith.models.networks.network import Network, outputs_of
from lobsmith.models.networks.outputs import COLUMNS
from lobsmith.models.split import lead_runs
from lobsmith.models.training_data import Part


def outputs_at(network: Network, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Tensor:
    """Return outputs before calibration, float32 [N, H, 8], at rising rows; NaN at incomplete rows.

    Up to `LEAD_ROWS` earlier rows, and those in between, warm the state.
    """
    first, spans = lead_runs(dataset, rows)
    out = torch.full((int(rows[-1]) + 1 - first, dataset.labels.shape[1], COLUMNS), math.nan)
    for start, stop in spans:
        out[start - first : stop - first] = outputs_of(network, torch.from_numpy(dataset.rows.features[start:stop]))
    return out[torch.from_numpy(rows - first)]


def validation_loss(
    network: Network, dataset: Dataset, rows: npt.NDArray[np.int64], horizon_weights: Sequence[float]
) -> float:
    """Return the directions' mean cross-entropy over rows and weighted horizons, nats."""
    return float(np.average(horizon_losses(network, dataset, rows), weights=np.asarray(horizon_weights)))


def horizon_losses(network: Network, dataset: Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the directions' mean cross-entropy at each horizon, nats, float32 [H]."""
    calibration = network.calibration
    logits = calibration.logits(outputs_at(network, dataset, rows).to(calibration.move_scale.device)).cpu()
    labels = torch.from_numpy(dataset.labels[rows].astype(np.int64))
    losses: npt.NDArray[np.float32] = (
        nll_loss(torch.log_softmax(logits, dim=2).movedim(2, 1), labels, reduction="none").mean(dim=0).numpy()
    )
    return losses


def mean_validation_loss(network: Network, parts: Sequence[Part], horizon_weights: Sequence[float]) -> float:
    """Return `validation_loss` over the validation rows of all parts."""
    losses = [validation_loss(network, part.dataset, part.split.validation, horizon_weights) for part in parts]
    return float(np.average(losses, weights=_row_counts(parts)))


def mean_horizon_losses(network: Network, parts: Sequence[Part]) -> npt.NDArray[np.float64]:
    """Return `horizon_losses` over the validation rows of all parts, float64 [H]."""
    losses = [horizon_losses(network, part.dataset, part.split.validation) for part in parts]
    means: npt.NDArray[np.float64] = np.average(np.asarray(losses, np.float64), axis=0, weights=_row_counts(parts))
    return means


def _row_counts(parts: Sequence[Part]) -> list[int]:
    return [len(part.split.validation) for part in parts]
