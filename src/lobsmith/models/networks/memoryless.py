"""Encoders without memory, of a linear model and of bins of the queue imbalance."""

import torch
from torch import Tensor, nn

from lobsmith.features.definitions import NAMES
from lobsmith.models.networks.network import Architecture


class Memoryless(nn.Module):
    """The empty encoder of a linear model; its state is one zero, as the wire requires a state."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size, self.width = 1, 0

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return an empty representation [B, T, 0] and the same state."""
        return features[:, :, :0], state * 1.0


class ImbalanceBins(nn.Module):
    """The tenth of the training distribution that the imbalance at the touch lies in: one-hot [B, T, 10]."""

    edges: Tensor
    _BINS = 10

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column
        self.state_size, self.width = 1, self._BINS
        self.register_buffer("edges", torch.linspace(-1, 1, self._BINS + 1)[1:-1].clone())

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bins and the same state."""
        number = (features[:, :, self.column].unsqueeze(2) > self.edges).to(features.dtype).sum(dim=2, keepdim=True)
        numbers = torch.arange(self._BINS, device=features.device, dtype=features.dtype)
        return (number == numbers).to(features.dtype), state * 1.0


LOGISTIC = Architecture(
    encoder=lambda *_: Memoryless(), linear=True, learns="newton", about="logistic regression on all features"
)
QUEUE_IMBALANCE = Architecture(
    encoder=lambda *_: ImbalanceBins(NAMES.index("imbalance_1")),
    learns="counts",
    about="class shares by tenth of the imbalance at the touch",
)
