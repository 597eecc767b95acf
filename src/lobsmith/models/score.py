"""What a network says of the rows of a dataset, its state carried over each gap-free run."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from lobsmith.features.dataset import Dataset
from lobsmith.models.network import Network, outputs_of
from lobsmith.models.outputs import COLUMNS
from lobsmith.models.split import runs

LEAD_ROWS = 512
"""Rows fed before the first one that is asked about, so that its state is warm."""


def outputs_at(network: Network, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Tensor:
    """Return outputs before calibration, float32 [N, H, 8], at the given rising rows; NaN where a row is not complete.

    Up to `LEAD_ROWS` rows before the first one, and the rows in between, warm the state.
    """
    first, last = max(int(rows[0]) - LEAD_ROWS, 0), int(rows[-1])
    out = torch.full((last + 1 - first, dataset.labels.shape[1], COLUMNS), math.nan)
    for start, stop in runs(dataset, np.asarray([first, last])):
        out[start - first : stop - first] = outputs_of(network, torch.from_numpy(dataset.rows.features[start:stop]))
    return out[torch.from_numpy(rows - first)]


def log_probabilities(network: Network, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Tensor:
    """Return calibrated log-probabilities of the directions, float32 [N, H, 3]."""
    return torch.log_softmax(network.calibration.cpu().logits(outputs_at(network, dataset, rows)), dim=2)


def validation_loss(
    network: Network, dataset: Dataset, rows: npt.NDArray[np.int64], horizon_weights: Sequence[float]
) -> float:
    """Return the mean cross-entropy of the directions over the given rows and weighted horizons, nats."""
    calibration = network.calibration
    logits = calibration.logits(outputs_at(network, dataset, rows).to(calibration.move_scale.device)).cpu()
    labels = torch.from_numpy(dataset.labels[rows].astype(np.int64))
    losses = nll_loss(torch.log_softmax(logits, dim=2).movedim(2, 1), labels, reduction="none").mean(dim=0)
    return float(np.average(losses.numpy(), weights=np.asarray(horizon_weights)))
