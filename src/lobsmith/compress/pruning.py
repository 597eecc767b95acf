"""Structured pruning: channels and hidden units are taken out, and what is left learns to say what the whole one says.

What comes out is an ordinary network of smaller sizes, so that everything that takes a network takes a pruned one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from msgspec import structs

from lobsmith.compress.distil import distil
from lobsmith.compress.units import importances, unit_counts, without
from lobsmith.errors import TrainingError
from lobsmith.models.material import Part
from lobsmith.models.network import Network
from lobsmith.models.registry import build
from lobsmith.models.train import OnEpoch, Trained, calibrate_outputs, make_repeatable
from lobsmith.params import ModelParams, Params

_VECTOR = 4
"""Layers get a multiple of so many units: float32 numbers of the narrowest vector register. A matrix product over a
number in between pays for the next multiple, in a tail loop or in padding."""


@dataclass(frozen=True)
class Pruned:
    """A smaller network, calibrated, and the parameters that build it."""

    trained: Trained
    model: ModelParams


def prune(
    trained: Trained, parts: Sequence[Part], params: Params, share: float, *, on_epoch: OnEpoch | None = None
) -> Pruned:
    """Take a share of the units out of a network, distil the whole one into what is left and calibrate that again.

    The teacher is the network itself, so the smaller one agrees with it; trained on labels it would become another one.
    Validation rows calibrate, as they do after training. They choose neither epoch nor learning rate: candidates are
    compared on them later.

    Args:
        trained: the network that the parameters name; it is left as it is.
        parts: the rows that it was trained on.
        params: all of `params.yaml`.
        share: of the channels of each convolution and of the hidden units of each LSTM layer, between 0 and 1.
        on_epoch: told of each epoch of distillation.

    Raises:
        TrainingError: the network has no units to prune, the share takes none away, or a loss is not finite.
    """
    make_repeatable(params.train)
    network, model = shrink(trained.network, parts, params, share)
    history = distil(network, trained.network, parts, params, on_epoch)
    left = calibrate_outputs(network, parts, params.train.calibration_prior)
    return Pruned(Trained(network.eval(), tuple(history), tuple(left)), model)


def shrink(network: Network, parts: Sequence[Part], params: Params, share: float) -> tuple[Network, ModelParams]:
    """Return a network without the least important units, not distilled, and the parameters that build it.

    Every layer of a kind keeps as many, as `model.channels` and `model.hidden` want it.

    Raises:
        TrainingError: the network has no units to prune, or the share takes none away.
    """
    counts = unit_counts(network)
    left = {layer: _left(count, share) for layer, count in counts.items()}
    if left == counts:
        raise TrainingError(
            f"pruning a share of {share} takes nothing from {params.model.channels} channels and "
            f"{params.model.hidden} hidden units, which go in steps of {_VECTOR}; raise compress.pruning"
        )
    # Gradients are left on a copy.
    scores = importances(copy.deepcopy(network), parts, params)
    kept = {layer: torch.topk(score, left[layer]).indices.sort().values for layer, score in scores.items()}
    model = structs.replace(
        params.model, channels=_left(params.model.channels, share), hidden=_left(params.model.hidden, share)
    )
    smaller = build(model, network.features, parts[0].dataset.horizons_ms)
    smaller.load_state_dict(without(network, kept))
    return smaller.eval(), model


def _left(count: int, share: float) -> int:
    return min(count, max(_VECTOR, _VECTOR * round(count * (1.0 - share) / _VECTOR)))
