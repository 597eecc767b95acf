"""Distillation: a smaller network learns to say what the larger one says."""

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from lobsmith.compress.draws import draws, epoch_batches, outputs_after
from lobsmith.errors import TrainingError
from lobsmith.models.descent import Epoch, OnEpoch
from lobsmith.models.loss import mass
from lobsmith.models.material import Part, material
from lobsmith.models.network import Network
from lobsmith.models.outputs import CLASSES
from lobsmith.models.score import mean_validation_loss
from lobsmith.params import Params

_OTHERS = 0.05
"""Weight of the outputs beside the directions, as training weighs expected moves."""


def distil(
    student: Network, teacher: Network, parts: Sequence[Part], params: Params, on_epoch: OnEpoch | None = None
) -> list[Epoch]:
    """Train a network, in place, towards another's outputs on training rows, and keep the last epoch's weights.

    The loss is the Kullback-Leibler divergence of the directions (Hinton, Vinyals & Dean 2015, arXiv:1503.02531, at
    temperature 1) and the squared difference of the other outputs (Ba & Caruana 2014), all horizons counted alike.
    Labels are not looked at, and validation rows are only reported on.

    Args:
        student: with the teacher's location and scale of inputs; on the CPU.
        teacher: the network to imitate; on the CPU.
        parts: all instruments.
        params: all of `params.yaml`.
        on_epoch: told of each epoch.

    Raises:
        TrainingError: no run of rows is long enough, or a loss is not finite.
    """
    settings, count = params.train, epoch_batches(params.train)
    rows = material(teacher, parts, sequence=settings.sequence, burn_in=settings.burn_in)
    batches = draws(rows, settings)
    optimiser = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    history = []
    for number in range(1, params.compress.fine_tune_epochs + 1):
        student.train()
        losses = []
        for index, weight in islice(batches, count):
            inputs, known = rows.inputs[index], rows.direction[index[:, settings.burn_in :]]
            with torch.no_grad():
                aim = outputs_after(teacher, inputs, settings.burn_in)
            found = outputs_after(student, inputs, settings.burn_in)
            error = (_distance(found, aim) * (known >= 0) * weight[:, None, None]).sum() / mass(known, weight)
            optimiser.zero_grad()
            error.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), settings.gradient_clip)
            optimiser.step()
            losses.append(error.item())
        epoch = Epoch(
            epoch=number,
            train_loss=float(np.mean(losses)),
            validation_loss=mean_validation_loss(student, parts, settings.horizon_weights),
            learning_rate=settings.learning_rate,
        )
        if not math.isfinite(epoch.train_loss + epoch.validation_loss):
            raise TrainingError(f"tuning, epoch {number}: the loss is not finite; lower train.learning_rate")
        history.append(epoch)
        if on_epoch:
            on_epoch(epoch)
    return history


def _distance(found: Tensor, aim: Tensor) -> Tensor:
    """Return how far outputs [B, T, H, 8] are from those aimed at, [B, T, H]."""
    mine, theirs = (log_softmax(one[..., :CLASSES], dim=3) for one in (found, aim))
    directions = kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=3)
    return directions + _OTHERS * (found[..., CLASSES:] - aim[..., CLASSES:]).square().mean(dim=3)
