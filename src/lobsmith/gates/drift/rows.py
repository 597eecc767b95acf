"""Raw rows as drift is looked for in them: of one instrument, thinned by time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class RawRows:
    """Complete rows in the order of time, at most one in each `drift.every_ms`.

    Attributes:
        time_ns: int64 [N], local receive time, UTC.
        segment: int64 [N], another number for each gap-free run.
        raw: float32 [N, F], features in their own units, before any z-score.
    """

    time_ns: Int64
    segment: Int64
    raw: Float32

    def __len__(self) -> int:
        return len(self.time_ns)

    def slice(self, start: int, stop: int) -> "RawRows":
        """Return rows `start` to `stop` as views."""
        return RawRows(self.time_ns[start:stop], self.segment[start:stop], self.raw[start:stop])

    def between(self, from_ns: int, until_ns: int) -> "RawRows":
        """Return the rows received from `from_ns` on and before `until_ns`, as views."""
        start, stop = np.searchsorted(self.time_ns, (from_ns, until_ns))
        return self.slice(int(start), int(stop))

    def newest(self, length_ns: int) -> "RawRows":
        """Return the rows of the newest so many nanoseconds, as views."""
        last = int(self.time_ns[-1]) if len(self) else 0
        return self.between(last + 1 - length_ns, last + 1)


def thinned(time_ns: Int64, every_ms: int) -> npt.NDArray[np.intp]:
    """Return the places of the first row in each slot of `every_ms` of receive time: the same for whoever asks.

    Args:
        time_ns: int64 [N], never decreasing.
        every_ms: length of a slot; slots begin at its multiples since 1970.
    """
    slots = time_ns // (every_ms * _NS_PER_MS)
    return np.flatnonzero(np.diff(slots, prepend=-1) != 0)


def joined(learnt: RawRows, lived: RawRows) -> RawRows:
    """Join two stretches of one stream in the order of time; where they overlap, those of the first count.

    Args:
        learnt: rows of a training window, which may be of the very stream that was logged.
        lived: rows of the log.
    """
    if not len(learnt) or not len(lived):
        return learnt if len(learnt) else lived
    earlier = lived.between(int(lived.time_ns[0]), int(learnt.time_ns[0]))
    later = lived.between(int(learnt.time_ns[-1]) + 1, int(lived.time_ns[-1]) + 1)
    parts = (earlier, learnt, later)
    lengths = [len(part) for part in parts]
    # Numbers of segments are their owner's: two that met by chance would join what has a hole between.
    own = np.concatenate([part.segment for part in parts])
    breaks = (np.diff(own, prepend=own[:1]) != 0) | (np.isin(np.arange(len(own)), np.cumsum(lengths)[:-1]))
    return RawRows(
        np.concatenate([part.time_ns for part in parts]),
        np.cumsum(breaks, dtype=np.int64),
        np.concatenate([part.raw for part in parts]),
    )
