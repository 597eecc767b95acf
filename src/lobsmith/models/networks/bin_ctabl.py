"""BiN-C(TABL): bilinear normalisation, two bilinear layers and temporal attention over a window of 10 books.

- BL, TABL, C(TABL): Tran, Iosifidis, Kanniainen & Gabbouj, IEEE TNNLS 30(5), 2019, arXiv:1712.00975.
- BiN: Tran, Kanniainen, Gabbouj & Iosifidis, ICPR 2020, arXiv:2003.00598.

The papers' last layer gives three classes, here the representation:

    (features [B, T, F], state [B, S])  →  (representation [B, T, 32], next state [B, S])

X is a window [N, D, T]: D columns, T rows.
"""

import math

import torch
from torch import Tensor, nn

from lobsmith.models.networks.network import Architecture
from lobsmith.models.networks.window import BOOK, BookWindows, WindowEncoder

WINDOW = 10
_FLOOR = 1e-4
"""Least divisor, in units of the input. The authors replace smaller ones by 1, which jumps."""


class BinCtabl(WindowEncoder):
    """BiN, BL 60×10, BL 120×5 and TABL width×1 over `BookWindows`.

    Args:
        window: rows a window; the papers' 10.
        price_scale: divisor of prices, basis points.
        width: outputs; 3 in the papers.
    """

    def __init__(
        self, location: Tensor, scale: Tensor, *, window: int = WINDOW, price_scale: float = 5.0, width: int = 32
    ) -> None:
        super().__init__(BookWindows(location, scale, window=window, price_scale=price_scale), width)
        self.normalisation = BilinearNormalisation(BOOK, window)
        self.bilinear = nn.Sequential(
            Bilinear((BOOK, window), (60, 10)),
            nn.ReLU(),
            Bilinear((60, 10), (120, 5)),
            nn.ReLU(),
        )
        self.attention = TemporalAttention((120, 5), (width, 1))

    def encode(self, windows: Tensor) -> Tensor:
        """Return the representation [N, width] of windows [N, W, 40]."""
        encoded: Tensor = self.attention(self.bilinear(self.normalisation(windows.transpose(1, 2))))
        return encoded.squeeze(2)


class BilinearNormalisation(nn.Module):
    """BiN: the weighted sum of z-scores along time and along columns, each rescaled.

    The weights, not negative in the papers, are learnt as logarithms.
    """

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.column_gain = nn.Parameter(torch.ones(columns, 1))
        self.column_bias = nn.Parameter(torch.zeros(columns, 1))
        self.row_gain = nn.Parameter(torch.ones(1, rows))
        self.row_bias = nn.Parameter(torch.zeros(1, rows))
        self.log_weights = nn.Parameter(torch.full((2,), math.log(0.5)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, D, T]."""
        weights = torch.exp(self.log_weights)
        along_time = self.column_gain * _z_score(x, 2) + self.column_bias
        along_columns = self.row_gain * _z_score(x, 1) + self.row_bias
        return weights[0] * along_time + weights[1] * along_columns


class Bilinear(nn.Module):
    """BL without its activation: W1 X W2 + B, [N, D, T] to [N, D', T']."""

    def __init__(self, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(outputs[0], inputs[0]))
        self.right = nn.Parameter(torch.empty(inputs[1], outputs[1]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.left, nonlinearity="relu")
        nn.init.xavier_uniform_(self.right)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, D, T] to [N, D', T']."""
        return torch.matmul(torch.matmul(self.left, x), self.right) + self.bias


class TemporalAttention(nn.Module):
    """TABL without its activation: (λ Y ∘ A + (1 − λ) Y) W2 + B, λ between 0 and 1.

    Y = W1 X; A is the softmax over time of Y W, where W has 1/T on its diagonal.
    """

    identity: Tensor

    def __init__(self, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
        super().__init__()
        rows = inputs[1]
        self.left = nn.Parameter(torch.empty(outputs[0], inputs[0]))
        self.between = nn.Parameter(torch.full((rows, rows), 1 / rows))
        self.right = nn.Parameter(torch.empty(rows, outputs[1]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.mixture = nn.Parameter(torch.zeros(1))
        self.register_buffer("identity", torch.eye(rows), persistent=False)
        nn.init.kaiming_uniform_(self.left, nonlinearity="relu")
        nn.init.xavier_uniform_(self.right)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, D, T] to [N, D', T']."""
        rows = x.shape[2]
        y = torch.matmul(self.left, x)
        between = self.between * (1 - self.identity) + self.identity / rows
        mixture = torch.sigmoid(self.mixture)
        attended = mixture * y * torch.softmax(torch.matmul(y, between), dim=2) + (1 - mixture) * y
        return torch.matmul(attended, self.right) + self.bias


def _z_score(x: Tensor, dim: int) -> Tensor:
    # Relative to the newest, constant values are exactly 0, however the mean rounds.
    centred = x - x.narrow(dim, x.shape[dim] - 1, 1)
    centred = centred - centred.mean(dim=dim, keepdim=True)
    variance = (centred * centred).mean(dim=dim, keepdim=True)
    return centred / torch.sqrt(variance + _FLOOR**2)


ARCHITECTURE = Architecture(
    encoder=lambda _params, _horizons, location, scale: BinCtabl(location, scale),
    undoes_scaling=True,
    window=WINDOW,
    about="BiN-C(TABL), Tran et al. 2020",
)
