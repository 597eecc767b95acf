"""The prunable units of a network: weights that make and read them, and their importance."""

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from msgspec import Struct
from torch import Tensor

from lobsmith.compress.prune.sampling import draws, epoch_batches, outputs_after
from lobsmith.errors import TrainingError
from lobsmith.models.loss import Loss, mass
from lobsmith.models.networks.encoders import CnnLstmAttention
from lobsmith.models.networks.network import Network
from lobsmith.models.training_data import Part, make_training_data
from lobsmith.params import Params

_GATES = 4
"""Blocks of an LSTM's weights, each with a row for every hidden unit."""


class Wire(Struct, frozen=True):
    """Layers whose units a parameter's rows make and its columns read; None where no unit is prunable.

    Rows come in `gates` blocks of the layer's units. Columns beyond the layer's units read something else.
    """

    makes: str | None = None
    reads: str | None = None
    gates: int = 1


def wiring(network: Network) -> dict[str, Wire]:
    """Return the parameters with prunable units, by name.

    Raises:
        TrainingError: the network has no prunable units.
    """
    trunk = network.trunk
    if not isinstance(trunk, CnnLstmAttention):
        raise TrainingError(
            f"a network with a {type(trunk).__name__} trunk has no units to prune: set model.network to "
            "cnn_lstm_attention, or compress.pruning to []"
        )
    wires: dict[str, Wire] = {}
    before: str | None = None
    for place, module in enumerate(trunk.convolutions):
        if isinstance(module, torch.nn.Conv1d):
            name = f"trunk.convolutions.{place}"
            wires |= {f"{name}.weight": Wire(name, before), f"{name}.bias": Wire(name)}
            before = name
    for layer in range(trunk.layers):
        name = f"trunk.lstm.{layer}"
        wires |= {
            f"trunk.lstm.weight_ih_l{layer}": Wire(name, before, _GATES),
            f"trunk.lstm.weight_hh_l{layer}": Wire(name, name, _GATES),
            f"trunk.lstm.bias_ih_l{layer}": Wire(name, None, _GATES),
            f"trunk.lstm.bias_hh_l{layer}": Wire(name, None, _GATES),
        }
        before = name
    readers = ("trunk.query.weight", "trunk.key.weight", "trunk.value.weight", "readout.weight")
    return wires | {name: Wire(None, before) for name in readers}


def unit_counts(network: Network) -> dict[str, int]:
    """Return the number of units of each layer, by the layer's name."""
    parameters = dict(network.named_parameters())
    return {wire.makes: len(parameters[name]) // wire.gates for name, wire in wiring(network).items() if wire.makes}


def without(network: Network, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights and buffers with only the kept units of each layer; the network is not changed.

    Args:
        network: the network.
        kept: rising unit numbers to keep, int64, of every layer.
    """
    state, counts = dict(network.state_dict()), unit_counts(network)
    for name, wire in wiring(network).items():
        tensor = state[name]
        if wire.makes:
            blocks = torch.arange(wire.gates).unsqueeze(1) * counts[wire.makes]
            tensor = tensor[(blocks + kept[wire.makes]).flatten()]
        if wire.reads:
            beside = torch.arange(counts[wire.reads], tensor.shape[1])
            tensor = tensor[:, torch.cat([kept[wire.reads], beside])]
        state[name] = tensor
    return state


def importances(network: Network, parts: Sequence[Part], params: Params) -> dict[str, Tensor]:
    """Estimate the change of the training loss without each unit, float64 [units] of every layer.

    First-order Taylor expansion with a gate on each unit's output (Molchanov et al., CVPR 2019, arXiv:1906.10771):

        importance of u  =  mean over batches of (Σ w ∂E/∂w)²,   over the weights w that read u

    The sum is ∂E/∂z at z = 1 where every reader gets z · u, at every step. Batches are those of an epoch of training.

    Args:
        network: trained, on the CPU; its gradients are overwritten.
        parts: all instruments; only training rows are used.

    Raises:
        TrainingError: the network has no prunable units, or no run of rows is long enough.
    """
    settings, wires = params.train, wiring(network)
    rows = make_training_data(network, parts, sequence=settings.sequence, burn_in=settings.burn_in)
    significant = params.labels.significant_bps / network.calibration.move_scale
    loss = Loss(settings.loss, torch.tensor(settings.horizon_weights), significant)
    total = {name: torch.zeros(count, dtype=torch.float64) for name, count in unit_counts(network).items()}
    batches = epoch_batches(settings)
    for index, weight in islice(draws(rows, settings), batches):
        outputs = outputs_after(network, rows.inputs[index], settings.burn_in)
        learnt = index[:, settings.burn_in :]
        direction = rows.direction[learnt]
        error = loss(outputs, direction, rows.binary[learnt], rows.move[learnt], rows.volatility[learnt], weight)
        network.zero_grad()
        (error / mass(direction, weight)).backward()  # type: ignore[no-untyped-call]
        for layer, gates in _gate_gradients(network, wires).items():
            total[layer] += gates.double().square() / batches
    return total


def _gate_gradients(network: Network, wires: Mapping[str, Wire]) -> dict[str, Tensor]:
    parameters, counts = dict(network.named_parameters()), unit_counts(network)
    found = {layer: torch.zeros(count) for layer, count in counts.items()}
    for name, wire in wires.items():
        weight = parameters[name]
        if wire.reads and weight.grad is not None:
            products = (weight * weight.grad).detach().transpose(0, 1).flatten(1).sum(dim=1)
            found[wire.reads] += products[: counts[wire.reads]]
    return found
