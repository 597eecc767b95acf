"""The prunable units of a network: weights that make and read them, and their importance."""

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from msgspec import Struct
from torch import Tensor

from lobsmith.compress.prune.sampling import epoch_batches, outputs_after, sample_batches
from lobsmith.errors import TrainingError
from lobsmith.models.loss import Loss, mass
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.recurrent import CnnLstmAttention
from lobsmith.models.training_data import Part, make_training_data
from lobsmith.params import Params

_GATES = 4
"""Blocks of an LSTM's weights, each with a row for every hidden unit."""


class UnitAxes(Struct, frozen=True):
    """Layers whose units a parameter's rows make and its columns read; None where none is prunable.

    Rows come in `gates` blocks. Columns beyond the layer's units read something else.
    """

    makes: str | None = None
    reads: str | None = None
    gates: int = 1


def unit_axes(network: Network) -> dict[str, UnitAxes]:
    """Return the parameters with prunable units, by name.

    Raises:
        TrainingError: the network has no prunable units.
    """
    encoder = network.trunk
    if not isinstance(encoder, CnnLstmAttention):
        raise TrainingError(
            f"a network with a {type(encoder).__name__} encoder has no prunable units: set model.network to "
            "cnn_lstm_attention, or compress.pruning to []"
        )
    parameters: dict[str, UnitAxes] = {}
    previous: str | None = None
    for number, module in enumerate(encoder.convolutions):
        if isinstance(module, torch.nn.Conv1d):
            name = f"trunk.convolutions.{number}"
            parameters |= {f"{name}.weight": UnitAxes(name, previous), f"{name}.bias": UnitAxes(name)}
            previous = name
    for layer in range(encoder.layers):
        name = f"trunk.lstm.{layer}"
        parameters |= {
            f"trunk.lstm.weight_ih_l{layer}": UnitAxes(name, previous, _GATES),
            f"trunk.lstm.weight_hh_l{layer}": UnitAxes(name, name, _GATES),
            f"trunk.lstm.bias_ih_l{layer}": UnitAxes(name, None, _GATES),
            f"trunk.lstm.bias_hh_l{layer}": UnitAxes(name, None, _GATES),
        }
        previous = name
    readers = ("trunk.query.weight", "trunk.key.weight", "trunk.value.weight", "readout.weight")
    return parameters | {name: UnitAxes(None, previous) for name in readers}


def unit_counts(network: Network) -> dict[str, int]:
    """Return the number of units of each layer, by the layer's name."""
    parameters = dict(network.named_parameters())
    return {axes.makes: len(parameters[name]) // axes.gates for name, axes in unit_axes(network).items() if axes.makes}


def keep_units(network: Network, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights and buffers with only the `kept` units of each layer (rising numbers, int64)."""
    state, counts = dict(network.state_dict()), unit_counts(network)
    for name, axes in unit_axes(network).items():
        tensor = state[name]
        if axes.makes:
            blocks = torch.arange(axes.gates).unsqueeze(1) * counts[axes.makes]
            tensor = tensor[(blocks + kept[axes.makes]).flatten()]
        if axes.reads:
            others = torch.arange(counts[axes.reads], tensor.shape[1])
            tensor = tensor[:, torch.cat([kept[axes.reads], others])]
        state[name] = tensor
    return state


def importances(network: Network, parts: Sequence[Part], params: Params) -> dict[str, Tensor]:
    """Estimate the change of the training loss without each unit, float64 [units] of every layer.

    First-order Taylor expansion with a gate on each unit's output (Molchanov et al., CVPR 2019, arXiv:1906.10771):

        importance of u  =  mean over batches of (Σ w ∂E/∂w)²,   over the weights w that read u

    The sum is ∂E/∂z at z = 1 where every reader gets z · u, at every step. Batches are an epoch of training's.

    Args:
        network: trained, on the CPU; its gradients are overwritten.
        parts: all instruments; only training rows are used.

    Raises:
        TrainingError: the network has no prunable units, or no run of rows is long enough.
    """
    settings, axes = params.train, unit_axes(network)
    data = make_training_data(network, parts, sequence=settings.sequence, burn_in=settings.burn_in)
    significant = params.labels.significant_bps / network.calibration.move_scale
    loss = Loss(settings.loss, torch.tensor(settings.horizon_weights), significant)
    total = {name: torch.zeros(count, dtype=torch.float64) for name, count in unit_counts(network).items()}
    batches = epoch_batches(settings)
    for index, weight in islice(sample_batches(data, settings), batches):
        outputs = outputs_after(network, data.inputs[index], settings.burn_in)
        labelled = index[:, settings.burn_in :]
        direction = data.direction[labelled]
        error = loss(outputs, direction, data.binary[labelled], data.move[labelled], data.volatility[labelled], weight)
        network.zero_grad()
        (error / mass(direction, weight)).backward()  # type: ignore[no-untyped-call]
        for layer, gates in _gate_gradients(network, axes).items():
            total[layer] += gates.double().square() / batches
    return total


def _gate_gradients(network: Network, axes_by_name: Mapping[str, UnitAxes]) -> dict[str, Tensor]:
    parameters, counts = dict(network.named_parameters()), unit_counts(network)
    gradients = {layer: torch.zeros(count) for layer, count in counts.items()}
    for name, axes in axes_by_name.items():
        weight = parameters[name]
        if axes.reads and weight.grad is not None:
            products = (weight * weight.grad).detach().transpose(0, 1).flatten(1).sum(dim=1)
            gradients[axes.reads] += products[: counts[axes.reads]]
    return gradients
