"""The causal network: three 1×1 convolutions, an LSTM, attention over a ring of the last rows.

The network steps one tick at a time. All it remembers travels with the caller as one packed tensor, so that 1000 rows
at once and 1000 single steps give the same answer:

    (features [B, T, F], state [B, S])  →  (logits [B, T, H, 3], next state [B, S])

A linear path leads from the features straight to the logits: the network starts as a logistic regression and learns
what that one misses. The 1×1 convolutions have no memory. The LSTM's is (h, c). Attention sees the keys and values of
the last K rows, the present one included, and a count of how many of them are valid. Zeros mean cold.
"""

import torch
from torch import Tensor, nn

from lobsmith.params import ModelParams

CLASSES = 3
"""Down, unchanged, up."""
_MASKED = -1e30
"""Minus infinity would turn a row without any valid key into NaN."""


def state_size(params: ModelParams) -> int:
    """Return S: hidden and cell state of every LSTM layer, K keys, K values, and the count of valid ones."""
    return 2 * params.layers * params.hidden + 2 * params.ring * params.attention + 1


class CausalNetwork(nn.Module):
    """CNN → LSTM → attention with explicit state."""

    def __init__(self, features: int, horizons: int, params: ModelParams) -> None:
        super().__init__()
        self.features, self.horizons, self.params = features, horizons, params
        self.layers, self.hidden = params.layers, params.hidden
        self.ring, self.attention = params.ring, params.attention
        self.state_size = state_size(params)
        channels = params.channels
        self.convolutions = nn.Sequential(
            nn.Conv1d(features, channels, 1),
            nn.LeakyReLU(0.01),
            nn.Conv1d(channels, channels, 1),
            nn.LeakyReLU(0.01),
            nn.Conv1d(channels, channels, 1),
            nn.LeakyReLU(0.01),
        )
        self.lstm = nn.LSTM(channels, self.hidden, self.layers, batch_first=True)
        self.query = nn.Linear(self.hidden, self.attention)
        self.key = nn.Linear(self.hidden, self.attention)
        self.value = nn.Linear(self.hidden, self.attention)
        self.age_bias = nn.Parameter(torch.zeros(self.ring))
        self.head = nn.Linear(self.hidden + self.attention, horizons * CLASSES)
        self.skip = nn.Linear(features, horizons * CLASSES)
        for readout in (self.head, self.skip):
            nn.init.zeros_(readout.weight)
            nn.init.zeros_(readout.bias)

    def cold_state(self, batch: int) -> Tensor:
        """Return the state of a stream of which nothing is known: zeros [B, S]."""
        return torch.zeros(batch, self.state_size)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S].

        Returns:
            Logits float32 [B, T, H, 3] and the state after the last row, float32 [B, S].
        """
        batch, steps = features.shape[0], features.shape[1]
        hidden, cell, keys, values, count = self._unpack(state)
        embedded = self.convolutions(features.transpose(1, 2)).transpose(1, 2)
        recurrent, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        keys = torch.cat([keys, self.key(recurrent)], dim=1)
        values = torch.cat([values, self.value(recurrent)], dim=1)
        context = self._attend(self.query(recurrent), keys, values, count)
        logits = self.head(torch.cat([recurrent, context], dim=2)) + self.skip(features)
        count = torch.clamp(count + steps, max=self.ring)
        next_state = torch.cat(
            [
                hidden.transpose(0, 1).reshape(batch, self.layers * self.hidden),
                cell.transpose(0, 1).reshape(batch, self.layers * self.hidden),
                keys[:, -self.ring :].reshape(batch, self.ring * self.attention),
                values[:, -self.ring :].reshape(batch, self.ring * self.attention),
                count,
            ],
            dim=1,
        )
        return logits.reshape(batch, steps, self.horizons, CLASSES), next_state

    def _unpack(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        batch = state.shape[0]
        memory, ring = self.layers * self.hidden, self.ring * self.attention
        hidden, cell, keys, values, count = torch.split(state, [memory, memory, ring, ring, 1], dim=1)
        return (
            hidden.reshape(batch, self.layers, self.hidden).transpose(0, 1).contiguous(),
            cell.reshape(batch, self.layers, self.hidden).transpose(0, 1).contiguous(),
            keys.reshape(batch, self.ring, self.attention),
            values.reshape(batch, self.ring, self.attention),
            count,
        )

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, count: Tensor) -> Tensor:
        """Let row i look at the last K rows up to itself: positions i < j <= i + K of the K old and T new ones."""
        steps = query.shape[1]
        i = torch.arange(steps).unsqueeze(1)
        j = torch.arange(steps + self.ring).unsqueeze(0)
        age = i + self.ring - j
        in_band = (age >= 0) & (age < self.ring)
        filled = (j >= self.ring - count).unsqueeze(1)
        bias = self.age_bias[age.clamp(0, self.ring - 1)]
        scores = torch.matmul(query, keys.transpose(1, 2)) / self.attention**0.5 + bias
        scores = scores.masked_fill(~(in_band.unsqueeze(0) & filled), _MASKED)
        return torch.matmul(torch.softmax(scores, dim=2), values)


class ServedNetwork(nn.Module):
    """The network as it is exported: probabilities instead of logits."""

    def __init__(self, network: CausalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities float32 [B, T, H, 3] and the next state [B, S]."""
        logits, next_state = self.network(features, state)
        return torch.softmax(logits, dim=3), next_state


def predict(network: CausalNetwork, rows: Tensor, *, chunk: int = 256) -> Tensor:
    """Step a cold network through one stream, `chunk` rows at a time.

    Args:
        network: the network; it is put into evaluation mode.
        rows: float32 [N, F].
        chunk: rows a call.

    Returns:
        Log-probabilities, float32 [N, H, 3].
    """
    network.eval()
    state = network.cold_state(1)
    parts = []
    with torch.inference_mode():
        for part in torch.split(rows, chunk):
            logits, state = network(part.unsqueeze(0), state)
            parts.append(torch.log_softmax(logits[0], dim=2))
    return torch.cat(parts)
