"""Windows of the last rows of the book, with prices relative to the newest mid.

With s the signed distance from a row's own mid in basis points (asks +, bids −) and r the mid's log return,

    price of row i, relative to the newest row n  =  s_i − (r_{i+1} + … + r_n)

To first order this is 10^4 (p_i − m_n) / m_n; the error, s · path / 10^4, is 0.01 bps where both are 10 bps.

The state packs the last W − 1 rows of 41 columns, in their own units, and a count of the valid ones. Zeros are cold.
"""

import torch
from torch import Tensor, nn

from lobsmith.features.definitions import LEVELS, NAMES

SIDES = ("ask", "bid")
COLUMNS = tuple(
    f"{side}_{what}_{level}" for level in range(1, LEVELS + 1) for side in SIDES for what in ("price", "size")
)
"""Ask price, ask size, bid price, bid size of each level, as in the FI-2010 data set."""
BOOK = len(COLUMNS)
"""40."""
ROW = BOOK + 1
"""Columns of the ring: the book's and the mid's return."""


class BookWindows(nn.Module):
    """The window that ends at each row, with explicit state.

    Args:
        location: float32 [F], subtracted from each feature.
        scale: float32 [F], then their divisor.
        window: rows a window, W.
        price_scale: divisor of prices, basis points.
    """

    location: Tensor
    scale: Tensor
    price_scale: Tensor
    source: Tensor
    sign: Tensor
    is_price: Tensor

    def __init__(self, location: Tensor, scale: Tensor, *, window: int, price_scale: float) -> None:
        super().__init__()
        if window < 2:
            raise ValueError(f"A window has at least two rows, not {window}")
        self.window = window
        self.state_size = (window - 1) * ROW + 1
        self.register_buffer("location", location.detach().clone().float())
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("price_scale", torch.tensor(float(price_scale)))
        names = [*(name.replace("price", "distance") for name in COLUMNS), "mid_return"]
        self.register_buffer("source", torch.tensor([NAMES.index(name) for name in names]), persistent=False)
        sign = torch.tensor([-1.0 if name.startswith("bid_distance") else 1.0 for name in names])
        self.register_buffer("sign", sign, persistent=False)
        is_price = torch.tensor(["size" not in name for name in names])
        self.register_buffer("is_price", is_price, persistent=False)

    def cold_state(self, batch: int) -> Tensor:
        """Return a new stream's state: zeros [B, S]."""
        return torch.zeros(batch, self.state_size, device=self.scale.device)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window that ends at each of T rows.

        Args:
            features: float32 [B, T, F], scaled.
            state: float32 [B, S], S = 41 (W − 1) + 1.

        Returns:
            Windows float32 [B, T, W, 40], oldest row first: prices in units of `price_scale`, sizes unchanged, missing
            rows 0; and the next state.
        """
        batch, length, past = features.shape[0], features.shape[1], self.window - 1
        rows, next_state = self._append(features, state)
        count = state[:, past * ROW :]
        position = torch.arange(length, device=features.device).unsqueeze(1)
        position = position + torch.arange(self.window, device=features.device).unsqueeze(0)
        windows = rows.index_select(1, position.reshape(-1)).reshape(batch, length, self.window, ROW)
        book, returns = torch.split(windows, [BOOK, 1], dim=3)
        later = torch.cumsum(torch.flip(returns[:, :, 1:], [2]), dim=2)
        path = nn.functional.pad(torch.flip(later, [2]), (0, 0, 0, 1))
        book = torch.where(self.is_price[:BOOK], (book - path) / self.price_scale, book)
        valid = position.unsqueeze(0) >= past - count.unsqueeze(2)
        return book * valid.unsqueeze(3).to(book.dtype), next_state

    def remember(self, features: Tensor, state: Tensor) -> Tensor:
        """Return the state after T rows."""
        return self._append(features, state)[1]

    def _append(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ring followed by T rows, float32 [B, W - 1 + T, 41], and the next state."""
        batch, length, past = features.shape[0], features.shape[1], self.window - 1
        ring, count = torch.split(state, [past * ROW, 1], dim=1)
        rows = torch.cat([ring.reshape(batch, past, ROW), self._rows(features)], dim=1)
        newest = rows[:, -past:].reshape(batch, past * ROW)
        return rows, torch.cat([newest, torch.clamp(count + length, max=past)], dim=1)

    def _rows(self, features: Tensor) -> Tensor:
        """Pick the columns and undo the scaling of prices and returns: float32 [B, T, 41]."""
        picked = features.index_select(2, self.source)
        raw = picked * self.scale[self.source] + self.location[self.source]
        return torch.where(self.is_price, raw * self.sign, picked)


class WindowEncoder(nn.Module):
    """An encoder of each row's own window: T rows cost T windows. Subclasses define `encode`."""

    def __init__(self, windows: BookWindows, width: int) -> None:
        super().__init__()
        self.windows = windows
        self.state_size, self.width = windows.state_size, width

    def encode(self, windows: Tensor) -> Tensor:
        """Return the representation [N, width] of windows [N, W, 40]."""
        raise NotImplementedError

    def cold_state(self, batch: int) -> Tensor:
        """Return a new stream's state: zeros [B, S]."""
        return self.windows.cold_state(batch)

    def remember(self, features: Tensor, state: Tensor) -> Tensor:
        """Return the state after T rows."""
        return self.windows.remember(features, state)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step through T rows: features [B, T, F], state [B, S] to representation [B, T, width], next state."""
        windows, next_state = self.windows(features, state)
        encoded = self.encode(windows.reshape(-1, self.windows.window, BOOK))
        return encoded.reshape(features.shape[0], features.shape[1], self.width), next_state
