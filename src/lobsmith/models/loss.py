"""The training loss: cross-entropies, squared errors, a hinge on the expected move.

Means over known rows, weighted by sequence (importance), horizon and term (`train.loss`).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu, softplus

from lobsmith.models.networks.outputs import CLASSES, MOVE, VOLATILITY
from lobsmith.params import LossParams

_LARGEST_MOVE = 10.0
"""Clip of moves, in RMS: no outlier dominates a squared error."""


class Loss:
    """The weighted loss of outputs against targets.

    Args:
        params: weights of the terms.
        horizons: weights of the horizons, float [H].
        significant: a significant move over the move's RMS, float32 [H].
    """

    def __init__(self, params: LossParams, horizons: Tensor, significant: Tensor) -> None:
        self._params, self._significant = params, significant
        self._horizons = horizons / horizons.mean()

    def __call__(
        self, outputs: Tensor, direction: Tensor, binary: Tensor, move: Tensor, volatility: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the weighted sum of losses; divided by `mass` of the whole batch it is the mean.

        Args:
            outputs: float32 [B, T, H, 8], before calibration.
            direction: [B, T, H], as in `TrainingData`.
            binary: [B, T, H, 3], likewise.
            move: [B, T, H], likewise.
            volatility: [B, T, H], likewise.
            weight: float32 [B], importance of each sequence.
        """
        params = self._params
        known = direction >= 0
        rows = (
            cross_entropy(outputs[..., :CLASSES].movedim(3, 1), direction.clamp(min=0), reduction="none")
            * params.direction
        )
        flags = binary_cross_entropy_with_logits(outputs[..., CLASSES:MOVE], binary.clamp(min=0), reduction="none")
        rows = rows + flags[..., 0] * params.significant + flags[..., 1:].sum(dim=3) * params.withdrawal
        target = torch.nan_to_num(move).clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
        expected = outputs[..., MOVE]
        rows = rows + (expected - target).square() * params.move
        rows = rows + self._hinge(expected, target, binary[..., 0].clamp(min=0)) * params.hinge
        realised = torch.nan_to_num(volatility).clamp(max=_LARGEST_MOVE)
        rows = rows + (softplus(outputs[..., VOLATILITY]) - realised).square() * params.volatility
        return (rows * known * self._horizons * weight[:, None, None]).sum()

    def _hinge(self, expected: Tensor, target: Tensor, significant: Tensor) -> Tensor:
        """Penalise a false alarm or a missed move past half a significant move."""
        margin = 0.5 * self._significant
        false_alarm = relu(expected.abs() - margin)
        missed = relu(margin - expected * target.sign())
        return (1 - significant) * self._params.false_alarm * false_alarm + significant * missed


class Prior:
    """A normal prior of the heads' weights against the number of independent labels.

    A span holds N = span / horizon labels that do not overlap. The mean loss a row plus |w|² / (2 σ² N) is the
    posterior's maximum: long horizons stay near the base rate until there are hours of data.

    Args:
        deviation: σ; 0 for no prior.
        horizons_ms: the H horizons.
        span_s: time that the training rows cover.
        weights: of the horizons, float [H].
    """

    def __init__(self, deviation: float, horizons_ms: tuple[int, ...], span_s: float, weights: Tensor) -> None:
        labels = span_s / (torch.tensor(horizons_ms, dtype=torch.float32) / 1e3)
        share = weights / weights.mean() / len(horizons_ms)
        self._strength = share.cpu() / (2.0 * deviation**2 * labels) if deviation else torch.zeros(len(horizons_ms))

    def __call__(self, *layers: nn.Linear | None) -> Tensor:
        """Return the penalty of layers whose outputs are [H × 8]."""
        strength, total = self._strength, torch.zeros(())
        for layer in layers:
            if layer is not None:
                strength = strength.to(layer.weight.device)
                total = total.to(layer.weight.device)
                squares = layer.weight.square().sum(dim=1).reshape(len(strength), -1).sum(dim=1)
                total = total + (squares * strength).sum()
        return total


def mass(direction: Tensor, weight: Tensor) -> Tensor:
    """Return a batch's weight: its known rows and horizons, by sequence weight; at least 1."""
    return ((direction >= 0) * weight[:, None, None]).sum().clamp(min=1.0)
