"""A network's eight outputs of each row and horizon, and their calibration.

| columns | name          | before                           | served as |
|--------:|---------------|----------------------------------|-----------|
| 0 to 2  | direction     | logits of down, unchanged, up    | `probabilities` |
| 3       | significant   | logit                            | `outlook[0]`: probability of a significant move |
| 4, 5    | withdrawal    | logits for bids and asks         | `outlook[1:3]`: probability that depth is withdrawn |
| 6       | move          | in units of the training's RMS   | `outlook[3]`: expected move, bps |
| 7       | volatility    | before softplus, in such units   | `outlook[4]`: expected realised volatility, bps |

Each logit has a scale and a bias fitted on the validation rows (vector scaling: Guo, Pleiss, Sun & Weinberger 2017;
binary: Platt 1999), as part of the exported graph.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

CLASSES = 3
"""Down, unchanged, up."""
BINARY = 3
"""Significant move, bids withdrawn, asks withdrawn."""
COLUMNS = CLASSES + BINARY + 2
OUTLOOKS = ("significant", "bid_withdrawal", "ask_withdrawal", "move_bps", "volatility_bps")
MOVE, VOLATILITY = CLASSES + BINARY, CLASSES + BINARY + 1


class CalibrationLayer(nn.Module):
    """Maps outputs [B, T, H, 8] to predictions; its buffers are not trained."""

    direction_scale: Tensor
    direction_bias: Tensor
    binary_scale: Tensor
    binary_bias: Tensor
    move_scale: Tensor
    volatility_scale: Tensor

    def __init__(self, horizons: int) -> None:
        super().__init__()
        self.register_buffer("direction_scale", torch.ones(horizons, 1))
        self.register_buffer("direction_bias", torch.zeros(horizons, CLASSES))
        self.register_buffer("binary_scale", torch.ones(horizons, BINARY))
        self.register_buffer("binary_bias", torch.zeros(horizons, BINARY))
        self.register_buffer("move_scale", torch.ones(horizons))
        self.register_buffer("volatility_scale", torch.ones(horizons))

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the calibrated direction logits, float32 [..., H, 3]."""
        return outputs[..., :CLASSES] * self.direction_scale + self.direction_bias

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities float32 [..., H, 3] and auxiliary outputs float32 [..., H, 5]."""
        binary = outputs[..., CLASSES:MOVE] * self.binary_scale + self.binary_bias
        move = outputs[..., MOVE] * self.move_scale
        volatility = softplus(outputs[..., VOLATILITY]) * self.volatility_scale
        outlook = torch.cat([torch.sigmoid(binary), torch.stack([move, volatility], dim=-1)], dim=-1)
        return torch.softmax(self.logits(outputs), dim=-1), outlook
