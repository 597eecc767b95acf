"""Calibration: scale and bias of each logit, fitted on the validation rows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lobsmith.models.networks.outputs import BINARY, CLASSES, CalibrationLayer

_ITERATIONS = 100
_SMALLEST_CLASS = 10
"""Rarer classes leave their logit uncalibrated."""


def calibrate(
    calibration: CalibrationLayer, outputs: Tensor, direction: Tensor, binary: Tensor, ridges: Sequence[float]
) -> list[str]:
    """Set a calibration's buffers by maximum likelihood, with a ridge on log scales and biases.

    A ridge of 1 / (2 σ² N) is a normal prior of deviation σ against N labels that do not overlap. A logit with too rare
    a class, or a fit that is not finite or no better, keeps scale 1 and bias 0.

    Args:
        outputs: float32 [N, H, 8] of the validation rows.
        direction: int64 [N, H]; -1 unknown.
        binary: float32 [N, H, 3]; -1 unknown.
        ridges: of each horizon, nats.

    Returns:
        Names of uncalibrated outputs.
    """
    for scale, bias in (
        (calibration.direction_scale, calibration.direction_bias),
        (calibration.binary_scale, calibration.binary_bias),
    ):
        scale.fill_(1.0)
        bias.zero_()
    uncalibrated = []
    for h in range(outputs.shape[1]):
        known = direction[:, h] >= 0
        labels, logits = direction[known, h], outputs[known, h, :CLASSES]
        present = torch.bincount(labels, minlength=CLASSES) if len(labels) else torch.zeros(CLASSES)
        fitted = _fit_direction(logits, labels, ridges[h]) if int(present.min()) >= _SMALLEST_CLASS else None
        if fitted is None:
            uncalibrated.append(f"direction at horizon {h}")
        else:
            calibration.direction_scale[h], calibration.direction_bias[h] = fitted
        for b in range(BINARY):
            known = binary[:, h, b] >= 0
            hits, logit = binary[known, h, b], outputs[known, h, CLASSES + b]
            rare = min(float(hits.sum()), float((1 - hits).sum())) if len(hits) else 0.0
            pair = _fit_binary(logit, hits, ridges[h]) if rare >= _SMALLEST_CLASS else None
            if pair is None:
                uncalibrated.append(f"output {CLASSES + b} at horizon {h}")
            else:
                calibration.binary_scale[h, b], calibration.binary_bias[h, b] = pair
    return uncalibrated


def _minimise(parameters: list[Tensor], loss) -> float:  # type: ignore[no-untyped-def]
    optimiser = torch.optim.LBFGS(parameters, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(loss().detach())


def _fit_direction(logits: Tensor, labels: Tensor, ridge: float) -> tuple[Tensor, Tensor] | None:
    logits = logits.double()
    log_scale = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return cross_entropy(logits * log_scale.exp() + bias, labels) + ridge * (
            log_scale.square().sum() + bias.square().sum()
        )

    before = float(loss().detach())
    after = _minimise([log_scale, bias], loss)
    if not math.isfinite(after) or after > before:
        return None
    centred = (bias - bias.mean()).detach()
    return log_scale.exp().detach().float(), centred.float()


def _fit_binary(logits: Tensor, hits: Tensor, ridge: float) -> tuple[Tensor, Tensor] | None:
    logits, hits = logits.double(), hits.double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return binary_cross_entropy_with_logits(logits * log_scale.exp() + bias, hits) + ridge * (
            log_scale.square() + bias.square()
        )

    before = float(loss().detach())
    after = _minimise([log_scale, bias], loss)
    if not math.isfinite(after) or after > before:
        return None
    return log_scale.exp().detach().float(), bias.detach().float()
