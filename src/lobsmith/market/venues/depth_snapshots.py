"""Depth snapshots as level updates."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL
from lobsmith.market.payloads import ROW_DTYPE


@njit(cache=True, error_model="numpy")
def _write(rows, n, kind, side, price, size):  # type: ignore[no-untyped-def]
    rows[n].kind = kind
    rows[n].side = side
    rows[n].price = price
    rows[n].size = size
    return n + 1


@njit(cache=True, error_model="numpy")
def _run(prices, sizes, local, exchange, first, held_prices, held_sizes, held, begun, rows, owners):  # type: ignore[no-untyped-def]
    n = 0
    new_prices = np.empty(prices.shape[2], np.int64)
    new_sizes = np.empty(prices.shape[2])
    for i in range(len(local)):
        start = n
        if not begun:
            n = _write(rows, n, CLEAR, 0, 0, 0.0)
            held[:] = 0
            begun = True
        for s in range(2):
            side = BID if s == 0 else ASK
            towards = -side  # the direction from the best level on
            count = 0
            for k in range(prices.shape[2]):
                price, size = prices[i, s, k], sizes[i, s, k]
                if size > 0.0:
                    if price <= 0 or (count and (price - new_prices[count - 1]) * towards <= 0):
                        return -1 - i
                    new_prices[count], new_sizes[count] = price, size
                    count += 1
            # Merge both sorted sides: removed, new and changed levels.
            old, new = 0, 0
            while old < held[s] or new < count:
                ahead = 0
                if old == held[s]:
                    ahead = 1
                elif new == count:
                    ahead = -1
                elif new_prices[new] != held_prices[s, old]:
                    ahead = 1 if (held_prices[s, old] - new_prices[new]) * towards > 0 else -1
                if ahead < 0:
                    n = _write(rows, n, LEVEL, side, held_prices[s, old], 0.0)
                    old += 1
                    continue
                if ahead > 0 or new_sizes[new] != held_sizes[s, old]:
                    n = _write(rows, n, LEVEL, side, new_prices[new], new_sizes[new])
                old += 1 if ahead == 0 else 0
                new += 1
            held[s] = count
            held_prices[s, :count] = new_prices[:count]
            held_sizes[s, :count] = new_sizes[:count]
        for k in range(start, n):
            rows[k].local_time = local[i]
            rows[k].exchange_time = exchange[i]
            rows[k].sequence = 2 * (first + i)
            rows[k].flags = END if k == n - 1 else 0
            owners[k] = i
    return n


class DisorderError(ValueError):
    """A snapshot's prices are out of order; `row` is its number."""

    def __init__(self, row: int) -> None:
        super().__init__(f"depth snapshot {row} is out of order")
        self.row = row


class DepthSnapshots:
    """The last depth snapshot, and the updates from it to the next.

    Args:
        levels: K, per side.
        number: of the first snapshot; sequences are twice that.
    """

    def __init__(self, levels: int, number: int = 1) -> None:
        self.number = number
        self._prices = np.zeros((2, levels), np.int64)
        self._sizes = np.zeros((2, levels))
        self._held = np.zeros(2, np.int64)
        self._begun = False

    def forget(self) -> None:
        """Begin anew, with a `CLEAR`, at the next snapshot."""
        self._begun = False

    def push(
        self,
        prices: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.float64],
        local: npt.NDArray[np.int64],
        exchange: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Turn snapshots into updates.

        Args:
            prices: int64 [N, 2, K], bids and asks, ticks.
            sizes: float64 [N, 2, K]; 0: an empty level.
            local: int64 [N], ns.
            exchange: int64 [N], ns.

        Returns:
            (`ROW_DTYPE` rows, int64 each one's snapshot); an unchanged snapshot has none.

        Raises:
            DisorderError: a price is not positive, or no worse than the level before it.
        """
        rows = np.zeros(len(local) * (4 * prices.shape[2] + 1), ROW_DTYPE)
        owners = np.zeros(len(rows), np.int64)
        count = _run(
            prices,
            sizes,
            local,
            exchange,
            self.number,
            self._prices,
            self._sizes,
            self._held,
            self._begun,
            rows,
            owners,
        )
        if count < 0:
            raise DisorderError(-1 - count)
        self._begun = self._begun or len(local) > 0
        self.number += len(local)
        return rows[:count].copy(), owners[:count].copy()
