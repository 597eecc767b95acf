"""The last rows of a stream, which prime a new version's state."""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class RowHistory:
    """Keeps at least the last `capacity` rows of width F; appending copies one row.

    >>> history = RowHistory(1, 2)
    >>> for value in (1, 2, 3):
    ...     history.append(np.array([[value]], np.float32))
    >>> history.last(2).tolist()
    [[2.0], [3.0]]
    """

    def __init__(self, width: int, capacity: int) -> None:
        self._capacity = capacity
        # Twice the room: rows move to the front once in `capacity` appends, and the last ones stay contiguous.
        self._rows = np.empty((2 * capacity, width), np.float32)
        self._end = 0

    @property
    def width(self) -> int:
        """F."""
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return min(self._end, self._capacity)

    def append(self, rows: Float32) -> None:
        """Add rows, float32 [n, F], oldest first."""
        rows = rows[-self._capacity :]
        if self._end + len(rows) > len(self._rows):
            kept = self.last(self._capacity).copy()
            self._rows[: len(kept)] = kept
            self._end = len(kept)
        self._rows[self._end : self._end + len(rows)] = rows
        self._end += len(rows)

    def last(self, count: int) -> Float32:
        """Return the last `count` rows or fewer, float32 [<= count, F], valid until the next append."""
        return self._rows[self._end - min(count, len(self)) : self._end]

    def reserve(self, capacity: int) -> None:
        """Keep at least `capacity` rows."""
        if capacity > self._capacity:
            kept = self.last(self._capacity).copy()
            self.__init__(self.width, capacity)  # type: ignore[misc]
            self.append(kept)
