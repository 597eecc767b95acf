"""Whole ladders, row by row, turned into the level updates between them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL
from lobsmith.market.payloads import ROW_DTYPE


@njit(cache=True, error_model="numpy")
def _find(prices, count, price):  # type: ignore[no-untyped-def]
    for k in range(count):
        if prices[k] == price:
            return k
    return -1


@njit(cache=True, error_model="numpy")
def _run(prices, sizes, counts, local, exchange, first, held_prices, held_sizes, held, begun, rows, owners):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(len(local)):
        sequence = 2 * (first + i)
        start = n
        if not begun:
            rows[n].kind = CLEAR
            rows[n].side = 0
            rows[n].price = 0
            rows[n].size = 0.0
            n += 1
            held[0] = 0
            held[1] = 0
            begun = True
        for s in range(2):
            side = BID if s == 0 else ASK
            for k in range(held[s]):
                if _find(prices[i, s], counts[i, s], held_prices[s, k]) < 0:
                    rows[n].kind = LEVEL
                    rows[n].side = side
                    rows[n].price = held_prices[s, k]
                    rows[n].size = 0.0
                    n += 1
            for k in range(counts[i, s]):
                at = _find(held_prices[s], held[s], prices[i, s, k])
                if at < 0 or held_sizes[s, at] != sizes[i, s, k]:
                    rows[n].kind = LEVEL
                    rows[n].side = side
                    rows[n].price = prices[i, s, k]
                    rows[n].size = sizes[i, s, k]
                    n += 1
            held[s] = counts[i, s]
            for k in range(counts[i, s]):
                held_prices[s, k] = prices[i, s, k]
                held_sizes[s, k] = sizes[i, s, k]
        for k in range(start, n):
            rows[k].local_time = local[i]
            rows[k].exchange_time = exchange[i]
            rows[k].sequence = sequence
            rows[k].flags = END if k == n - 1 else 0
            owners[k] = i
    return n


class Ladders:
    """What was shown last, and the updates to what is shown next.

    Args:
        levels: K, levels of a side.
    """

    def __init__(self, levels: int) -> None:
        self._prices = np.zeros((2, levels), np.int64)
        self._sizes = np.zeros((2, levels))
        self._held = np.zeros(2, np.int64)
        self._begun = False
        self._number = 1

    def forget(self) -> None:
        """Begin anew, with a `CLEAR`, at the next ladder."""
        self._begun = False

    def push(
        self,
        prices: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.float64],
        counts: npt.NDArray[np.int64],
        local: npt.NDArray[np.int64],
        exchange: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Turn ladders into updates.

        Args:
            prices: int64 [N, 2, K], bids and asks, ticks.
            sizes: float64 [N, 2, K].
            counts: int64 [N, 2], how many levels each side has.
            local: int64 [N], ns.
            exchange: int64 [N], ns.

        Returns:
            (`ROW_DTYPE` rows, int64 the ladder that each belongs to); a ladder like the one before makes none.
        """
        rows = np.zeros(len(local) * (4 * prices.shape[2] + 1), ROW_DTYPE)
        owners = np.zeros(len(rows), np.int64)
        count = _run(
            prices,
            sizes,
            counts,
            local,
            exchange,
            self._number,
            self._prices,
            self._sizes,
            self._held,
            self._begun,
            rows,
            owners,
        )
        self._begun = self._begun or len(local) > 0
        self._number += len(local)
        return rows[:count], owners[:count]
