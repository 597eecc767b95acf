"""Outcomes: labels of rows once their horizons have passed, as defined for training."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.features.labels import direction_labels
from lobsmith.units import NS_PER_MS


class Outcomes(NamedTuple):
    """Outcomes of n rows, in the order of the rows.

    Attributes:
        row: int64 [n], numbers of the rows.
        labels: int8 [n, H]: 0 down, 1 unchanged, 2 up, -1 unknown for good.
    """

    row: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]


class OutcomeJoin:
    """Labels the rows of one session once all of their horizons have passed.

    Outcomes equal `features.labels.direction_labels` on the whole session, however it is cut into pushes. Memory holds
    the rows of the longest horizon.

        join = OutcomeJoin(params.labels.horizons_ms)
        outcomes = join.push(row, time_ns, mid, segment)   # often none, later those of earlier pushes
        outcomes = join.finish()                           # the session has ended

    Args:
        horizons_ms: the H horizons, milliseconds.
    """

    def __init__(self, horizons_ms: tuple[int, ...]) -> None:
        self._horizons_ms = horizons_ms
        self._longest_ns = max(horizons_ms) * NS_PER_MS
        self._held = np.empty((4, 0), np.int64)

    def __len__(self) -> int:
        """Rows without a known outcome."""
        return int(self._held.shape[1])

    def push(self, row: npt.ArrayLike, time_ns: npt.ArrayLike, mid: npt.ArrayLike, segment: npt.ArrayLike) -> Outcomes:
        """Take the next N rows and return the outcomes now known.

        Args:
            row: int [N], number of each row.
            time_ns: int [N], local receive time, never decreasing within a segment.
            mid: int [N], in any unit.
            segment: int [N], another number for each gap-free run.
        """
        pushed = np.array([row, time_ns, mid, segment], np.int64).reshape(4, -1)
        self._held = np.concatenate([self._held, pushed], axis=1)
        return self._pop(self._count_known())

    def finish(self) -> Outcomes:
        """End the session: return the remaining outcomes, and reset."""
        return self._pop(len(self))

    def _count_known(self) -> int:
        """Count the rows with final outcomes: of earlier segments, or with a later row beyond all horizons."""
        if not len(self):
            return 0
        _, time, _, segment = self._held
        start = int(np.flatnonzero(np.append(True, np.diff(segment) != 0))[-1])
        return start + int(np.searchsorted(time[start:], time[-1] - self._longest_ns, side="left"))

    def _pop(self, count: int) -> Outcomes:
        row, time, mid, segment = self._held
        if not count:
            return Outcomes(row[:0], np.empty((0, len(self._horizons_ms)), np.int8))
        labels = direction_labels(time, mid, segment, self._horizons_ms)
        outcomes = Outcomes(row[:count].copy(), labels[:count])
        self._held = self._held[:, count:].copy()
        return outcomes
