"""Batches of training sequences, sampled as in training."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lobsmith.models.networks.network import Network
from lobsmith.models.training_data import Sampler, TrainingData
from lobsmith.params import TrainParams


def epoch_batches(settings: TrainParams) -> int:
    """Return the number of batches of an epoch."""
    return -(-settings.sequences_per_epoch // settings.batch)


def sample_batches(data: TrainingData, settings: TrainParams) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches endlessly: rows of sequences, int64 [B, burn-in + T], and their weights, float32 [B]."""
    sampler = Sampler(
        data,
        sequence=settings.sequence,
        burn_in=settings.burn_in,
        priority=settings.priority,
        uniform_share=settings.uniform_share,
        generator=np.random.default_rng(settings.seed),
    )
    offsets = torch.arange(settings.burn_in + settings.sequence)
    while True:
        starts, weight = sampler.draw(settings.batch)
        yield torch.from_numpy(starts).unsqueeze(1) + offsets, torch.from_numpy(weight)


def outputs_after(network: Network, inputs: Tensor, burn_in: int) -> Tensor:
    """Return a cold network's outputs before calibration, [B, T, H, 8], after `burn_in` standardised rows."""
    state = network.warm(inputs[:, :burn_in], network.cold_state(len(inputs)))
    outputs: Tensor = network.step(inputs[:, burn_in:], state)[0]
    return outputs
