"""A network: standardised inputs, an encoder with its state, a head, calibration.

    (features [B, T, F], state [B, S])  →  (outputs [B, T, H, 8], next state [B, S])

An optional linear path from inputs to outputs makes it start as a logistic regression.
"""

from collections.abc import Callable

import torch
from msgspec import Struct
from torch import Tensor, nn

from lobsmith.models.networks.outputs import COLUMNS, CalibrationLayer
from lobsmith.params import ModelParams

LARGEST_INPUT = 8.0
"""Clip of standardised features: no outlier swamps an LSTM."""

EncoderBuilder = Callable[[Tensor, Tensor], nn.Module]
"""Builds an encoder from the inputs' location and scale, float32 [F]."""


class Architecture(Struct, frozen=True, kw_only=True):
    """An entry of the registry."""

    encoder: Callable[[ModelParams, tuple[int, ...], Tensor, Tensor], nn.Module]
    """Builds the encoder from parameters, horizons in ms, and the inputs' location and scale, float32 [F]."""
    linear: bool = False
    """Whether a linear path bypasses the encoder."""
    learns: str = "gradient"
    """`gradient` descent over sequences, `newton` (L-BFGS over all rows), or `counts`."""
    undoes_scaling: bool = False
    """Whether the encoder restores prices: inputs are neither clipped nor dropped out."""
    window: int = 0
    """Rows of each row's window; 0 for a recurrent encoder."""
    about: str = ""


class Network(nn.Module):
    """Any architecture of the registry, for F features and H horizons.

    Args:
        encoder: builds the encoder.
        linear: whether a linear path bypasses the encoder.
        clips: whether inputs are clipped; not for an encoder that undoes the scaling.
    """

    location: Tensor
    scale: Tensor

    def __init__(
        self, features: int, horizons: int, encoder: EncoderBuilder, *, linear: bool, clips: bool = True
    ) -> None:
        super().__init__()
        self.features, self.horizons, self.clips = features, horizons, clips
        self.register_buffer("location", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.trunk = encoder(self.location, self.scale)  # `trunk` and `readout` are state-dict keys
        self.state_size: int = self.trunk.state_size  # type: ignore[assignment]
        width: int = self.trunk.width  # type: ignore[assignment]
        self.readout = nn.Linear(width, horizons * COLUMNS) if width else None
        self.linear = nn.Linear(features, horizons * COLUMNS) if linear else None
        self.calibration = CalibrationLayer(horizons)
        for layer in (self.readout, self.linear):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def cold_state(self, batch: int) -> Tensor:
        """Return a new stream's state: zeros [B, S]."""
        return torch.zeros(batch, self.state_size, device=self.location.device)

    def standardise(self, features: Tensor) -> Tensor:
        """Return features in units of their deviation, clipped if `clips`."""
        inputs = (features - self.location) / self.scale
        return torch.clamp(inputs, -LARGEST_INPUT, LARGEST_INPUT) if self.clips else inputs

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S].

        Returns:
            Outputs before calibration, float32 [B, T, H, 8], and the next state.
        """
        return self.step(self.standardise(features), state)

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows of standardised inputs; returns as `forward`."""
        representation, next_state = self.trunk(inputs, state)
        parts = []
        if self.readout is not None:
            parts.append(self.readout(representation))
        if self.linear is not None:
            parts.append(self.linear(inputs))
        outputs = sum(parts[1:], start=parts[0])
        return outputs.reshape(inputs.shape[0], inputs.shape[1], self.horizons, COLUMNS), next_state

    def warm(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return the state after standardised rows."""
        if inputs.shape[1] == 0:
            return state
        remember = getattr(self.trunk, "remember", None)
        warmed: Tensor = remember(inputs, state) if remember else self.trunk(inputs, state)[1]
        return warmed


class ServedNetwork(nn.Module):
    """The network with its calibration: the reference of exports and engines."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities float32 [B, T, H, 3], auxiliary outputs [B, T, H, 5] and the next state [B, S]."""
        outputs, next_state = self.network(features, state)
        probabilities, outlook = self.network.calibration(outputs)
        return probabilities, outlook, next_state


def outputs_of(network: Network, rows: Tensor, *, chunk: int = 256) -> Tensor:
    """Step a cold network, put into evaluation mode, through one stream of rows [N, F], `chunk` rows a call.

    Returns:
        Outputs before calibration, float32 [N, H, 8].
    """
    network.eval()
    state = network.cold_state(1)
    parts = []
    with torch.inference_mode():
        for part in torch.split(rows, chunk):
            outputs, state = network(part.unsqueeze(0).to(state.device), state)
            parts.append(outputs[0].cpu())
    return torch.cat(parts)
