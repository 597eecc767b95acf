"""Export to ONNX: one file, dynamic batch and time, byte-identical for the same weights."""

import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, softplus

from lobsmith.compress.graph.fuse import fuse_linear
from lobsmith.errors import ContractError
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.outputs import CLASSES, MOVE, VOLATILITY

OPSET = 17
INPUTS = ("features", "state")
OUTPUTS = ("probabilities", "outlook", "next_state")


def export_onnx(network: Network, destination: Path, state_size: int | None = None) -> None:
    """Write the served form of a calibrated network as one ONNX file.

    `state_size` is S of the wire contract, where it exceeds the network's. The dynamo exporter would fix an LSTM's time
    axis.
    """
    size = network.state_size if state_size is None else state_size
    example = (torch.zeros(2, 3, network.features), torch.zeros(2, size))
    with warnings.catch_warnings():
        # The tracer warns of traced shapes; the parity gate checks others.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FoldedNetwork(network, size).eval(),
            example,
            str(destination),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={
                "features": {0: "batch", 1: "time"},
                "state": {0: "batch"},
                "probabilities": {0: "batch", 1: "time"},
                "outlook": {0: "batch", 1: "time"},
                "next_state": {0: "batch"},
            },
        )
    model = onnx.load(str(destination))
    fuse_linear(model)
    onnx.save(model, str(destination))
    onnx.checker.check_model(str(destination), full_check=True)


class FoldedNetwork(nn.Module):
    """A calibrated network as `ServedNetwork`, in fewer operations: their number dominates a call of one row.

    Head and linear path become one matrix over representation and inputs side by side, with the calibration folded in.
    Rows are ordered: directions of all horizons, then their binary logits, moves, volatilities. The state is padded to
    the wire's `state_size`.

    Raises:
        ContractError: the network's state is larger than the wire's.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, network: Network, state_size: int) -> None:
        super().__init__()
        if state_size < network.state_size:
            raise ContractError(
                f"a state of {network.state_size} numbers does not fit into the {state_size} that the model is served "
                "with; publish the network under a new model.name"
            )
        self.network, self.state_size = network, state_size
        self.horizons = network.horizons
        weight, bias = _joined(network)
        scale, shift = _calibration(network)
        order = _order(network.horizons)
        self.register_buffer("weight", (weight * scale.unsqueeze(1))[order].float())
        self.register_buffer("bias", (bias * scale + shift)[order].float())

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities float32 [B, T, H, 3], auxiliary outputs [B, T, H, 5] and the next state [B, S]."""
        network, own = self.network, self.network.state_size
        inputs = network.standardise(features)
        unused = self.state_size - own
        representation, next_state = network.trunk(inputs, state[:, :own] if unused else state)
        if unused:
            next_state = pad(next_state, (0, unused))
        parts = [part for part, used in ((representation, network.readout), (inputs, network.linear)) if used]
        outputs = linear(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0], self.weight, self.bias)
        h = self.horizons
        direction, binary, move, volatility = torch.split(outputs, [CLASSES * h, CLASSES * h, h, h], dim=2)
        shape = (features.shape[0], features.shape[1], h)
        outlook = torch.cat(
            [
                torch.sigmoid(binary).reshape(*shape, CLASSES),
                move.unsqueeze(3),
                (softplus(volatility) * network.calibration.volatility_scale).unsqueeze(3),
            ],
            dim=3,
        )
        return torch.softmax(direction.reshape(*shape, CLASSES), dim=3), outlook, next_state


def _joined(network: Network) -> tuple[Tensor, Tensor]:
    """Return weight float64 [H * 8, W] over representation and inputs side by side, and bias float64 [H * 8]."""
    layers = [layer for layer in (network.readout, network.linear) if layer is not None]
    weight = torch.cat([layer.weight.detach() for layer in layers], dim=1).double()
    return weight, torch.stack([layer.bias.detach().double() for layer in layers]).sum(dim=0)


def _calibration(network: Network) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of each of the H * 8 outputs, float64."""
    fitted = network.calibration
    unit = torch.ones_like(fitted.move_scale).unsqueeze(1)
    directions = fitted.direction_scale.expand(-1, CLASSES)
    scale = torch.cat([directions, fitted.binary_scale, fitted.move_scale.unsqueeze(1), unit], dim=1)
    shift = torch.cat([fitted.direction_bias, fitted.binary_bias, 0 * unit, 0 * unit], dim=1)
    return scale.double().flatten(), shift.double().flatten()


def _order(horizons: int) -> Tensor:
    """Return for each folded output the index of the network's output, int64 [H * 8]."""
    number = torch.arange(horizons * (VOLATILITY + 1)).reshape(horizons, -1)
    groups = (slice(0, CLASSES), slice(CLASSES, MOVE), slice(MOVE, VOLATILITY), slice(VOLATILITY, None))
    return torch.cat([number[:, group].flatten() for group in groups])
