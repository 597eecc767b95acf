"""The simulated market: run, copy, and true probabilities of what follows."""

import math
from collections import namedtuple
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lobsmith.errors import DataError
from lobsmith.market.events import DTYPES, Events, concatenate
from lobsmith.market.instrument import SIMULATED
from lobsmith.market.payloads import ROW_DTYPE
from lobsmith.market.session import Session, account
from lobsmith.market.simulator.dynamics import STATE, Change, Dynamics
from lobsmith.market.simulator.feed import MESSAGE_ROOM, START_NS, direction_after, run
from lobsmith.units import NS_PER_MS

__all__ = ["INSTRUMENT", "START_NS", "Market", "row_probabilities", "simulate"]

INSTRUMENT = SIMULATED

_BLOCK = 1 << 18  # rows a compiled call writes
_NO_LIMIT = 2**62
_STREAMS = 0xD1B54A32D192ED03
# Numba reads fields of a named tuple, not of a Struct.
_Constants = namedtuple("_Constants", Dynamics.__struct_fields__)  # type: ignore[misc]


class Market:
    """A market's state; the same seed and dynamics give the same events.

    Args:
        seed: of all randomness.
        dynamics: the constants.
    """

    def __init__(self, seed: int, dynamics: Dynamics | None = None) -> None:
        self.change(dynamics or Dynamics())
        self._state = np.zeros(1, STATE)
        self._state["random"] = seed % 2**64

    @property
    def seconds(self) -> float:
        """Time of the last event since the start."""
        return float(self._state["now"][0])

    def change(self, dynamics: Dynamics) -> None:
        """Replace the constants; book, regime and latent state stay."""
        values = [float(value) for value in msgspec.structs.astuple(dynamics)]
        self._constants: Any = _Constants(*values)

    def copy(self) -> "Market":
        """Return an independent copy."""
        other = copy(self)
        other._state = self._state.copy()
        return other

    def advance(self, seconds: float, tickers: int = _NO_LIMIT) -> Events:
        """Run until a time or a number of tickers since the start.

        Raises:
            DataError: `seconds` is not finite, without a number of tickers.
        """
        if math.isnan(seconds) or (math.isinf(seconds) and tickers == _NO_LIMIT):
            raise DataError(f"cannot simulate until {seconds} s; give a finite time or a number of tickers")
        rows = np.empty(_BLOCK, ROW_DTYPE)
        parts: list[Events] = []
        finished = False
        while not finished:
            count, finished = run(self._state, self._constants, rows, float(seconds), tickers)
            parts.append(Events(*(np.ascontiguousarray(rows[name][:count]) for name in DTYPES)))
        return concatenate(parts)

    def fork(self, horizons_ms: Sequence[int], paths: int, seed: int) -> npt.NDArray[np.float64]:
        """Return the mid's directions over continuations from here; the market is unchanged.

        Labels are those of `features.labels`. Horizons count from the last message received: stop at a row's ticker
        first.

        Args:
            horizons_ms: milliseconds of local receive time, rising.
            paths: continuations, at least one.
            seed: of the continuations, independent of the market's.

        Returns:
            float64 [H, 3], shares of down, unchanged, up; the standard error of a share p is sqrt(p (1 - p) / paths).

        Raises:
            DataError: no horizon or continuation, horizons do not rise from above 0, or the market has not opened.
        """
        if paths < 1:
            raise DataError(f"cannot fork into {paths} continuations; give one or more")
        intervals = np.diff(horizons_ms, prepend=0)
        if not len(intervals) or (intervals <= 0).any():
            raise DataError(f"cannot fork to horizons of {list(horizons_ms)} ms; give positive ones that rise")
        if not self._state["tickers"][0]:
            raise DataError("cannot fork a market before its first ticker; advance it first")
        counts = np.zeros((len(horizons_ms), 3), np.int64)
        horizons = np.array(horizons_ms, np.int64) * NS_PER_MS
        rows = np.empty(4 * MESSAGE_ROOM, ROW_DTYPE)
        for path in range(paths):
            state = self._state.copy()
            state["random"] = (int(seed) * paths + path) * _STREAMS % 2**64
            direction_after(state, self._constants, rows, horizons, counts)
        shares: npt.NDArray[np.float64] = counts / paths
        return shares


def simulate(seed: int, seconds: int, dynamics: Dynamics | None = None, changes: Sequence[Change] = ()) -> Session:
    """Simulate a session from 2024-01-01T00:00:00Z on; the same arguments give the same events.

    Args:
        seed: of all randomness.
        seconds: the length.
        dynamics: the constants.
        changes: other constants, in time order; earlier events do not depend on them.

    Raises:
        DataError: `seconds` is not positive and finite, or changes do not rise in time within it.
    """
    if not 0 < seconds < math.inf:
        raise DataError(f"cannot simulate {seconds} seconds; give a positive number")
    times = [0.0, *(change.at_s for change in changes), seconds]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise DataError(f"cannot change the market at {times[1:-1]} s of {seconds}; give times that rise within it")
    market = Market(seed, dynamics)
    parts = []
    for change in changes:
        parts.append(market.advance(change.at_s))
        market.change(change.dynamics)
    events = concatenate([*parts, market.advance(seconds)])
    changed = "".join(f", changed at {change.at_s:g} s" for change in changes)
    return Session(INSTRUMENT, events, account(events), (f"simulator seed {seed}, {seconds} s{changed}",))


def row_probabilities(
    seed: int, rows: Sequence[int], horizons_ms: Sequence[int], paths: int, dynamics: Dynamics | None = None
) -> npt.NDArray[np.float64]:
    """Return the true conditional probabilities at a session's rows, given all latent state: float64 [N, H, 3].

    No model has a smaller expected log-loss.

    Args:
        seed: the session's.
        rows: ticker numbers from 0, rising.
        horizons_ms: milliseconds, rising.
        paths: continuations a row.
        dynamics: the session's.

    Raises:
        DataError: rows do not rise from 0, or as `Market.fork`.
    """
    if (np.diff(rows, prepend=-1) <= 0).any():
        raise DataError("rows must be numbers of tickers from 0 on that rise; sort them, and give each once")
    market = Market(seed, dynamics)
    probabilities = np.empty((len(rows), len(horizons_ms), 3))
    for i, row in enumerate(rows):
        market.advance(math.inf, int(row) + 1)
        probabilities[i] = market.fork(horizons_ms, paths, seed=row + 1)
    return probabilities
