"""Networks fitted without gradient descent: logistic regression (L-BFGS), class shares by queue imbalance."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lobsmith.models.inference import mean_horizon_losses, mean_validation_loss
from lobsmith.models.loss import Loss, mass
from lobsmith.models.networks.memoryless import ImbalanceBins
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.outputs import BINARY, CLASSES, COLUMNS, MOVE, VOLATILITY
from lobsmith.models.training_data import Part, TrainingData, make_training_data
from lobsmith.params import Params

_RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_ITERATIONS = 100
_MOST_ROWS = 65_536


def fit_newton(network: Network, parts: Sequence[Part], params: Params) -> float:
    """Fit a linear network to all training rows, each horizon with its best ridge; return the validation loss."""
    if network.linear is None:
        raise ValueError("a Newton fit needs a network with a linear path and no encoder")
    data = make_training_data(network, parts, sequence=1, burn_in=0)
    # Neighbouring rows are nearly alike: more of them cost time and add little.
    index = torch.from_numpy(data.starts[:: math.ceil(len(data.starts) / _MOST_ROWS)])
    horizons = network.horizons
    best = [(math.inf, *_copy_linear(network))] * horizons
    significant = params.labels.significant_bps / network.calibration.move_scale
    loss = Loss(params.train.loss, torch.ones(network.horizons), significant)  # horizons share no weight here
    for ridge in _RIDGES:
        for parameter in network.linear.parameters():
            torch.nn.init.zeros_(parameter)
        _fit_rows(network, data, index, loss, ridge)
        for h, value in enumerate(mean_horizon_losses(network, parts).tolist()):
            if value < best[h][0]:
                best[h] = (value, *_copy_linear(network))
    with torch.no_grad():
        for h, (_, weight, bias) in enumerate(best):
            part = slice(h * COLUMNS, (h + 1) * COLUMNS)
            network.linear.weight[part], network.linear.bias[part] = weight[part], bias[part]
    return mean_validation_loss(network, parts, params.train.horizon_weights)


def _copy_linear(network: Network) -> tuple[Tensor, Tensor]:
    assert network.linear is not None  # noqa: S101 - checked by the caller
    return network.linear.weight.detach().clone(), network.linear.bias.detach().clone()


def _fit_rows(network: Network, data: TrainingData, index: Tensor, loss: Loss, ridge: float) -> None:
    assert network.linear is not None  # noqa: S101 - checked by the caller
    weight = torch.ones(len(index))
    inputs = data.inputs[index].unsqueeze(1)
    direction, binary, move, volatility = (
        target[index].unsqueeze(1) for target in (data.direction, data.binary, data.move, data.volatility)
    )
    total = mass(direction, weight)
    optimiser = torch.optim.LBFGS(network.linear.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        assert network.linear is not None  # noqa: S101
        outputs = network.step(inputs, network.cold_state(len(inputs)))[0]
        value = (
            loss(outputs, direction, binary, move, volatility, weight) / total
            + ridge * network.linear.weight.square().sum()
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]


def fit_counts(network: Network, parts: Sequence[Part], params: Params) -> float:
    """Set a queue-imbalance network's head to log class shares by tenth of imbalance; return the validation loss."""
    encoder, head = network.trunk, network.readout
    if not isinstance(encoder, ImbalanceBins) or head is None:
        raise TypeError("only the queue-imbalance network is fitted by counting")
    data = make_training_data(network, parts, sequence=1, burn_in=0)
    starts = torch.from_numpy(data.starts)
    starts = starts[(data.direction[starts] >= 0).all(dim=1)]  # labels before a gap are unknown
    inputs = data.inputs[starts]
    edges = np.quantile(inputs[:, encoder.column].numpy(), np.linspace(0, 1, encoder.width + 1)[1:-1])
    encoder.edges.copy_(torch.from_numpy(edges))
    bins = encoder(inputs.unsqueeze(1), network.cold_state(len(inputs)))[0].squeeze(1).argmax(dim=1)
    table = head.weight.detach().reshape(network.horizons, -1, encoder.width)
    for b in range(encoder.width):
        members = starts[bins == b]
        direction, binary = data.direction[members], data.binary[members]
        for h in range(network.horizons):
            # Laplace smoothing: no class is impossible.
            counts = torch.bincount(direction[:, h], minlength=CLASSES) + 1.0
            table[h, :CLASSES, b] = (counts / counts.sum()).log()
            hits = (binary[:, h].sum(dim=0) + 1.0) / (len(members) + 2.0)
            table[h, CLASSES : CLASSES + BINARY, b] = torch.logit(hits)
            table[h, MOVE, b] = _mean(data.move[members, h])
            table[h, VOLATILITY, b] = torch.log(torch.expm1(_mean(data.volatility[members, h]).clamp(min=1e-6)))
    with torch.no_grad():
        head.weight.copy_(table.reshape(head.weight.shape))
    return mean_validation_loss(network, parts, params.train.horizon_weights)


def _mean(values: Tensor) -> Tensor:
    return values.double().mean().float() if len(values) else torch.tensor(0.0)
