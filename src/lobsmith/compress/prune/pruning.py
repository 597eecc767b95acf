"""Structured pruning: channels and hidden units are removed, then the rest is distilled from the whole network.

The result is an ordinary network of smaller sizes.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from msgspec import structs
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from lobsmith.compress.prune.sampling import epoch_batches, outputs_after, sample_batches
from lobsmith.compress.prune.units import importances, keep_units, unit_counts
from lobsmith.errors import TrainingError
from lobsmith.models.inference import mean_validation_loss
from lobsmith.models.loss import mass
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.outputs import CLASSES
from lobsmith.models.networks.registry import build
from lobsmith.models.train import Trained, calibrate_outputs, make_repeatable
from lobsmith.models.trainer import Epoch, OnEpoch
from lobsmith.models.training_data import Part, make_training_data
from lobsmith.params import ModelParams, Params

_VECTOR = 4
"""Layer sizes are multiples of this, float32 numbers of the narrowest vector register: others cost as much as the next
multiple."""
_OTHERS = 0.05
"""Weight of the outputs besides the directions."""


@dataclass(frozen=True)
class Pruned:
    """A smaller, calibrated network and the parameters that build it."""

    trained: Trained
    model: ModelParams


def prune(
    trained: Trained, parts: Sequence[Part], params: Params, share: float, *, on_epoch: OnEpoch | None = None
) -> Pruned:
    """Remove a share of a network's units, distil the whole network into the rest, and calibrate it.

    Validation rows calibrate, but choose neither epoch nor learning rate: candidates are compared on them later.

    Args:
        trained: the network of `params.model`, which is the teacher; not changed.
        parts: the rows it was trained on.
        share: of each convolution's channels and each LSTM layer's units, between 0 and 1.
        on_epoch: called after each epoch of distillation.

    Raises:
        TrainingError: the network has no prunable units, the share removes none, or a loss is not finite.
    """
    make_repeatable(params.train)
    network, model = shrink(trained.network, parts, params, share)
    history = distil(network, trained.network, parts, params, on_epoch)
    uncalibrated = calibrate_outputs(network, parts, params.train.calibration_prior)
    return Pruned(Trained(network.eval(), tuple(history), tuple(uncalibrated)), model)


def shrink(network: Network, parts: Sequence[Part], params: Params, share: float) -> tuple[Network, ModelParams]:
    """Return a network without the least important units, before distillation, and the parameters that build it.

    All layers of a kind keep the same number, as `model.channels` and `model.hidden` require.

    Raises:
        TrainingError: the network has no prunable units, or the share removes none.
    """
    counts = unit_counts(network)
    sizes = {layer: _pruned_size(count, share) for layer, count in counts.items()}
    if sizes == counts:
        raise TrainingError(
            f"pruning a share of {share} takes nothing from {params.model.channels} channels and "
            f"{params.model.hidden} hidden units, which are pruned in multiples of {_VECTOR}; raise compress.pruning"
        )
    # On a copy, which keeps the gradients.
    importance = importances(copy.deepcopy(network), parts, params)
    kept = {layer: torch.topk(values, sizes[layer]).indices.sort().values for layer, values in importance.items()}
    channels, hidden = (_pruned_size(size, share) for size in (params.model.channels, params.model.hidden))
    model = structs.replace(params.model, channels=channels, hidden=hidden)
    smaller = build(model, network.features, parts[0].dataset.horizons_ms)
    smaller.load_state_dict(keep_units(network, kept))
    return smaller.eval(), model


def _pruned_size(count: int, share: float) -> int:
    return min(count, max(_VECTOR, _VECTOR * round(count * (1.0 - share) / _VECTOR)))


def distil(
    student: Network, teacher: Network, parts: Sequence[Part], params: Params, on_epoch: OnEpoch | None = None
) -> list[Epoch]:
    """Train a network, in place, towards another's outputs on training rows, to the last epoch's weights.

    The loss is the Kullback-Leibler divergence of the directions (Hinton, Vinyals & Dean 2015, arXiv:1503.02531, at
    temperature 1) and the squared difference of the other outputs (Ba & Caruana 2014), horizons weighted equally.
    Labels are unused; the validation loss is only reported. Both networks are on the CPU, with equal input scaling.

    Raises:
        TrainingError: no run of rows is long enough, or a loss is not finite.
    """
    settings, count = params.train, epoch_batches(params.train)
    data = make_training_data(teacher, parts, sequence=settings.sequence, burn_in=settings.burn_in)
    batches = sample_batches(data, settings)
    optimiser = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    history = []
    for number in range(1, params.compress.fine_tune_epochs + 1):
        student.train()
        losses = []
        for index, weight in islice(batches, count):
            inputs, direction = data.inputs[index], data.direction[index[:, settings.burn_in :]]
            with torch.no_grad():
                target = outputs_after(teacher, inputs, settings.burn_in)
            outputs = outputs_after(student, inputs, settings.burn_in)
            distance = _distance(outputs, target) * (direction >= 0) * weight[:, None, None]
            loss = distance.sum() / mass(direction, weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), settings.gradient_clip)
            optimiser.step()
            losses.append(loss.item())
        epoch = Epoch(
            epoch=number,
            train_loss=float(np.mean(losses)),
            validation_loss=mean_validation_loss(student, parts, settings.horizon_weights),
            learning_rate=settings.learning_rate,
        )
        if not math.isfinite(epoch.train_loss + epoch.validation_loss):
            raise TrainingError(f"distillation, epoch {number}: the loss is not finite; lower train.learning_rate")
        history.append(epoch)
        if on_epoch:
            on_epoch(epoch)
    return history


def _distance(outputs: Tensor, target: Tensor) -> Tensor:
    """Return the loss between outputs and target outputs [B, T, H, 8], as [B, T, H]."""
    student, teacher = (log_softmax(logits[..., :CLASSES], dim=3) for logits in (outputs, target))
    directions = kl_div(student, teacher, reduction="none", log_target=True).sum(dim=3)
    return directions + _OTHERS * (outputs[..., CLASSES:] - target[..., CLASSES:]).square().mean(dim=3)
