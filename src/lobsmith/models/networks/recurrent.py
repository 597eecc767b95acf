"""Recurrent encoders: convolutions, LSTM and attention; a plain LSTM.

An encoder's memory is one packed tensor, zeros when cold:

    (features [B, T, F], state [B, S])  →  (representation [B, T, width], next state [B, S])

Many rows at once and single steps give the same.
"""

import torch
from torch import Tensor, nn

from lobsmith.models.networks.network import Architecture
from lobsmith.params import ModelParams

_MASKED = -6e4
"""Finite: minus infinity makes rows without a valid key NaN; fp16 ends at 65504."""
_SLOPE = 0.01


def pack(hidden: Tensor, cell: Tensor) -> Tensor:
    """Return an LSTM's memory [L, B, H] as [B, 2 L H]."""
    return torch.cat([hidden.transpose(0, 1).flatten(1), cell.transpose(0, 1).flatten(1)], dim=1)


def unpack(state: Tensor, layers: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state [L, B, H] of a packed memory [B, 2 L H]."""
    memory = state.reshape(state.shape[0], 2, layers, hidden)
    return memory[:, 0].transpose(0, 1).contiguous(), memory[:, 1].transpose(0, 1).contiguous()


class Lstm(nn.Module):
    """An LSTM of `layers` × `hidden` units, with dropout."""

    def __init__(self, features: int, *, hidden: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers, self.hidden = layers, hidden
        self.state_size, self.width = 2 * layers * hidden, hidden
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows."""
        hidden, cell = unpack(state, self.layers, self.hidden)
        recurrent, (hidden, cell) = self.lstm(features, (hidden, cell))
        return self.dropout(recurrent), pack(hidden, cell)


class CnnLstmAttention(nn.Module):
    """Three 1×1 convolutions over the book, an LSTM, attention over a ring of the last K rows.

    The state holds (h, c), the last K rows' keys and values, the present row's included, and a count of the valid ones.
    A learnt bias by age is added to the attention logits.
    """

    def __init__(self, features: int, *, channels: int, hidden: int, layers: int, ring: int, attention: int) -> None:
        super().__init__()
        self.layers, self.hidden, self.ring, self.attention = layers, hidden, ring, attention
        self.state_size = 2 * layers * hidden + 2 * ring * attention + 1
        self.width = hidden + attention
        self.convolutions = nn.Sequential(
            nn.Conv1d(features, channels, 1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv1d(channels, channels, 1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv1d(channels, channels, 1),
            nn.LeakyReLU(_SLOPE),
        )
        self.lstm = nn.LSTM(channels, hidden, layers, batch_first=True)
        self.query = nn.Linear(hidden, attention)
        self.key = nn.Linear(hidden, attention)
        self.value = nn.Linear(hidden, attention)
        self.age_bias = nn.Parameter(torch.zeros(ring))

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows."""
        recurrent, weights, values, next_state = self._step(features, state)
        return torch.cat([recurrent, torch.matmul(weights, values)], dim=2), next_state

    def attention_by_age(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's attention to rows of age 0, 1, ... K - 1, [B, T, K], and the next state."""
        _, weights, _, next_state = self._step(features, state)
        length = features.shape[1]
        position = torch.arange(length).unsqueeze(1) + self.ring - torch.arange(self.ring).unsqueeze(0)
        return torch.gather(weights, 2, position.expand(features.shape[0], -1, -1)), next_state

    def _step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, length = features.shape[0], features.shape[1]
        memory, ring = 2 * self.layers * self.hidden, self.ring * self.attention
        packed, old_keys, old_values, count = torch.split(state, [memory, ring, ring, 1], dim=1)
        embedded = self.convolutions(features.transpose(1, 2)).transpose(1, 2)
        recurrent, (hidden, cell) = self.lstm(embedded, unpack(packed, self.layers, self.hidden))
        keys = torch.cat([old_keys.reshape(batch, self.ring, self.attention), self.key(recurrent)], dim=1)
        values = torch.cat([old_values.reshape(batch, self.ring, self.attention), self.value(recurrent)], dim=1)
        weights = self._weights(self.query(recurrent), keys, count)
        next_state = torch.cat(
            [
                pack(hidden, cell),
                keys[:, -self.ring :].reshape(batch, ring),
                values[:, -self.ring :].reshape(batch, ring),
                torch.clamp(count + length, max=self.ring),
            ],
            dim=1,
        )
        return recurrent, weights, values, next_state

    def _weights(self, query: Tensor, keys: Tensor, count: Tensor) -> Tensor:
        """Return row i's attention to positions i < j <= i + K of the K old and T new rows."""
        length = query.shape[1]
        i = torch.arange(length, device=query.device).unsqueeze(1)
        j = torch.arange(length + self.ring, device=query.device).unsqueeze(0)
        age = i + self.ring - j
        in_band = (age >= 0) & (age < self.ring)
        valid = (j >= self.ring - count).unsqueeze(1)
        bias = self.age_bias[age.clamp(0, self.ring - 1)]
        logits = torch.matmul(query, keys.transpose(1, 2)) / self.attention**0.5 + bias
        return torch.softmax(logits.masked_fill(~(in_band.unsqueeze(0) & valid), _MASKED), dim=2)


def _attention(params: ModelParams, _horizons: tuple[int, ...], location: Tensor, _scale: Tensor) -> nn.Module:
    return CnnLstmAttention(
        len(location),
        channels=params.channels,
        hidden=params.hidden,
        layers=params.layers,
        ring=params.ring,
        attention=params.attention,
    )


CNN_LSTM_ATTENTION = Architecture(
    encoder=_attention, linear=True, about="three 1×1 convolutions, LSTM, attention over recent rows"
)
LSTM = Architecture(
    encoder=lambda _params, _horizons, location, _scale: Lstm(len(location), hidden=128, layers=3, dropout=0.2),
    about="LSTM of 3 × 128 units, dropout 0.2",
)
