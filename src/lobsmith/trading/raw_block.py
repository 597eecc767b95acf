"""The last thinned raw rows of a stream, written by the thread that trades and read by the one that scores them."""

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import RequestError

Float32 = NDArray[np.float32]

_NS_PER_MS = 1_000_000
_ROOM = 4
"""Blocks that fit in: a reader has until the writer has come round to copy one."""


class RawBlock:
    """Keeps the last `rows` of a stream, at most one in each slot of `every_ms`: see `lobsmith.gates.drift.rows`.

    One thread appends and any may read; neither ever waits.
    """

    def __init__(self, width: int, rows: int, every_ms: int, shortest: int) -> None:
        """Begin empty.

        Args:
            width: F.
            rows: length of a block.
            every_ms: length of a slot.
            shortest: of a stream that has only begun, so many rows are a block.
        """
        self._ring = np.empty((_ROOM * rows, width), np.float32)
        self._block_rows = rows
        self._shortest = shortest
        self._slot_ns = every_ms * _NS_PER_MS
        self._slot: int | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Rows that were taken in so far."""
        return self._count

    def append(self, raw: Float32, time_ns: int) -> bool:
        """Take the next raw row in, unless its slot has one.

        Args:
            raw: float32 [F].
            time_ns: local receive time, UTC.

        Returns:
            Whether the row is finite. One that is not is never taken in.

        Raises:
            RequestError: wrong shape or type.
        """
        if raw.shape != self._ring.shape[1:] or raw.dtype != np.float32:
            raise RequestError(f"raw: expected float32 [{self._ring.shape[1]}], got {raw.dtype} {list(raw.shape)}")
        finite = bool(np.isfinite(raw).all())
        slot = time_ns // self._slot_ns
        if finite and slot != self._slot:
            self._ring[self._count % len(self._ring)] = raw
            # The row first, then the count: a reader sees no row that is not there yet.
            self._slot, self._count = slot, self._count + 1
        return finite

    def last(self) -> tuple[int, Float32 | None]:
        """Return the count, and a copy of the block that ends there, float32 [<= rows, F]; None while too short."""
        while True:
            count = self._count
            if count < self._shortest:
                return count, None
            rows = self._ring[np.arange(max(0, count - self._block_rows), count) % len(self._ring)]
            # The writer may already be writing the row after the last counted one.
            if self._count - count < len(self._ring) - self._block_rows:
                return count, rows
