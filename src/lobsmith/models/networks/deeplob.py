"""DeepLOB: convolutions over levels and time, an inception module and an LSTM over a window of 100 books.

Zhang, Zohren & Roberts, IEEE Transactions on Signal Processing 67(11), 2019, arXiv:1808.03668. Three blocks of
convolutions join price and size, ask and bid, then all levels; each also convolves over time, zero-padded to 100 rows.
The last hidden state is the representation:

    (features [B, T, F], state [B, S])  →  (representation [B, T, 64], next state [B, S])
"""

import torch
from torch import Tensor, nn

from lobsmith.models.networks.network import Architecture
from lobsmith.models.networks.window import BOOK, BookWindows, WindowEncoder

WINDOW = 100
_SLOPE = 0.01
_ALONG_TIME = 4


class DeepLob(WindowEncoder):
    """DeepLOB without its last layer, over `BookWindows`.

    The authors' later code has 32 and 64 filters, batch normalisation and no padding: 143,907 parameters with its last
    layer, where the paper's network has 60,947.

    Args:
        window: rows a window; the paper's 100.
        price_scale: divisor of prices, basis points.
        filters: of the convolutions; the paper's 16.
        inception: filters of each inception branch; the paper's 32.
        width: units of the LSTM; the paper's 64.
    """

    def __init__(
        self,
        location: Tensor,
        scale: Tensor,
        *,
        window: int = WINDOW,
        price_scale: float = 5.0,
        filters: int = 16,
        inception: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__(BookWindows(location, scale, window=window, price_scale=price_scale), width)
        levels = BOOK // 4
        self.convolutions = nn.Sequential(
            _block(1, filters, across=2),
            _block(filters, filters, across=2),
            _block(filters, filters, across=levels),
        )
        self.short = nn.Sequential(_along(filters, inception, 1), _along(inception, inception, 3))
        self.long = nn.Sequential(_along(filters, inception, 1), _along(inception, inception, 5))
        self.pooled = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), _along(filters, inception, 1))
        self.lstm = nn.LSTM(3 * inception, width, batch_first=True)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                # Torch's own initialisation halves the signal in each layer: after eleven all rows are alike.
                nn.init.kaiming_uniform_(module.weight, a=_SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, windows: Tensor) -> Tensor:
        """Return the representation [N, width] of windows [N, W, 40]."""
        series = self.convolutions(windows.unsqueeze(1)).squeeze(3)
        series = torch.cat([self.short(series), self.long(series), self.pooled(series)], dim=1).transpose(1, 2)
        start = series.new_zeros(1, series.shape[0], self.width)
        hidden: Tensor = self.lstm(series, (start, start))[1][0]
        return hidden[0]


def _block(channels: int, filters: int, *, across: int) -> nn.Sequential:
    """Join `across` adjacent columns, then convolve twice over time: [N, C, W, D] to [N, filters, W, D / across]."""
    before = (_ALONG_TIME - 1) // 2
    return nn.Sequential(
        nn.Conv2d(channels, filters, (1, across), stride=(1, across)),
        nn.LeakyReLU(_SLOPE),
        nn.ZeroPad2d((0, 0, before, _ALONG_TIME - 1 - before)),
        nn.Conv2d(filters, filters, (_ALONG_TIME, 1)),
        nn.LeakyReLU(_SLOPE),
        nn.ZeroPad2d((0, 0, before, _ALONG_TIME - 1 - before)),
        nn.Conv2d(filters, filters, (_ALONG_TIME, 1)),
        nn.LeakyReLU(_SLOPE),
    )


def _along(channels: int, filters: int, rows: int) -> nn.Sequential:
    """Convolve over an odd number of rows: [N, C, W] to [N, filters, W]."""
    return nn.Sequential(nn.Conv1d(channels, filters, rows, padding=rows // 2), nn.LeakyReLU(_SLOPE))


ARCHITECTURE = Architecture(
    encoder=lambda _params, _horizons, location, scale: DeepLob(location, scale),
    undoes_scaling=True,
    window=WINDOW,
    about="DeepLOB, Zhang, Zohren & Roberts 2019",
)
