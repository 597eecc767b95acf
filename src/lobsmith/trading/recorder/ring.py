"""A ring of fixed-size entries in shared memory, between one writing and one reading process.

The writer never waits: an entry that finds the ring full is dropped and counted. Entries outlive a killed writer.

| bytes          | written by | holds |
|----------------|------------|-------|
| 0 to 40        | `create`   | magic number, capacity, F, H, bytes of an entry |
| 64 to 72       | writer     | head: entries ever written |
| 72 to 80       | writer     | entries ever dropped |
| 80 to 88       | writer     | 1 once the ring is closed |
| 128 to 136     | reader     | tail: entries ever released |
| 136 to 256     | reader     | tallies, for the writer and later readers |
| 4096 onwards   | writer     | the entries; number n at n modulo the capacity |

The writer stores the entry before the head. x86-64 keeps the order of stores and 8 aligned bytes in one piece, as does
CPython between two calls: a reader that sees the head sees the entry. No other architecture is supported.
"""

import fcntl
import mmap
import os
import struct
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lobsmith.errors import ServingError
from lobsmith.units import NS_PER_MS

Float32 = npt.NDArray[np.float32]

RESET = 1
"""The stream begins anew with this row."""
PRIME = 2
"""The row only primes."""
HAS_RAW = 4
"""`raw` is this row's; else the field holds an older row."""

_MAGIC = 0x6C6F62736D697432
_LINE = 8
"""Int64s of a cache line; writer and reader use different lines."""
_HEAD, _DROPPED, _CLOSED = _LINE, _LINE + 1, _LINE + 2
_FAILED = 2
"""`_CLOSED` of a session that an error ended; else 1."""
_TAIL, _TALLIES = 2 * _LINE, 2 * _LINE + 1
_HEADER_BYTES = 4096
_OUTLOOKS = 5
_NUMBERS = struct.Struct("<8q3b5x")


def entry_dtype(features: int, horizons: int) -> np.dtype[np.void]:
    """Return an entry's fields.

    | field           | meaning |
    |-----------------|---------|
    | `sequence`      | rows so far, dropped ones included: a jump is a hole |
    | `row`           | number within the session, -1 for rows that only prime |
    | `time_ns`       | local receive time, UTC |
    | `asked_ns`      | hand-over to the client, UTC |
    | `segment`       | number of the gap-free segment |
    | `mid`           | twice the mid, ticks |
    | `version`       | asked, 0 where none was known |
    | `latency_ns`    | from hand-over to answer |
    | `candidate`     | 1 where the candidate was asked, else 0 |
    | `reason`        | place in `Reason` from 1; 0 with an answer |
    | `flags`         | `RESET`, `PRIME`, `HAS_RAW` |
    | `features`      | float32 [F], normalised |
    | `raw`           | float32 [F], natural units; only with `HAS_RAW` |
    | `probabilities` | float32 [H, 3], NaN without an answer |
    | `outlook`       | float32 [H, 5], NaN without an answer |
    """
    int64s = ("sequence", "row", "time_ns", "asked_ns", "segment", "mid", "version", "latency_ns")
    return np.dtype(
        [
            *((name, "<i8") for name in int64s),
            *((name, "i1") for name in ("candidate", "reason", "flags")),
            ("unused", "V5"),
            # Twice F and 8 H of 4 bytes: entries start at multiples of 8.
            ("features", "<f4", (features,)),
            ("raw", "<f4", (features,)),
            ("probabilities", "<f4", (horizons, 3)),
            ("outlook", "<f4", (horizons, _OUTLOOKS)),
        ]
    )


class RingWriter:
    """The writing side; of one thread."""

    def __init__(self, path: Path, capacity: int, features: int, horizons: int, *, raw_every_ms: int = 1) -> None:
        """Make a ring.

        Args:
            path: of a new file, best in a memory file system.
            capacity: entries, at least 1.
            features: F.
            horizons: H.
            raw_every_ms: the first row of each such interval keeps its `raw`, as by `lobsmith.drift.reference.thinned`.

        Raises:
            OSError: the file cannot be made, or lacks room.
        """
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} entries; a ring holds at least one")
        self.path = path
        self._dtype = entry_dtype(features, horizons)
        self._capacity = capacity
        size = _HEADER_BYTES + capacity * self._dtype.itemsize
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Missing room is an error here; later it would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._header = memoryview(self._map).cast("q")
        entries = np.frombuffer(self._map, self._dtype, capacity, _HEADER_BYTES)
        self._features = entries["features"]
        self._raw = entries["raw"]
        self._probabilities = entries["probabilities"]
        self._outlook = entries["outlook"]
        self._head = self._dropped = 0
        self._tail = 0
        self._interval_ns = raw_every_ms * NS_PER_MS
        self._interval_from_ns = self._interval_until_ns = 0
        self._header[1:5] = memoryview(array("q", (capacity, features, horizons, self._dtype.itemsize)))
        self._header[0] = _MAGIC

    @property
    def written(self) -> int:
        """Entries so far."""
        return self._head

    @property
    def dropped(self) -> int:
        """Entries that found the ring full."""
        return self._dropped

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return self._capacity

    @property
    def released(self) -> int:
        """Entries that the reader released."""
        return self._header[_TAIL]

    @property
    def waiting(self) -> int:
        """Entries not released yet."""
        return self._head - self._header[_TAIL]

    def put(
        self,
        row: int,
        time_ns: int,
        asked_ns: int,
        segment: int,
        mid: int,
        version: int,
        latency_ns: int,
        candidate: int,
        reason: int,
        flags: int,
        features: Float32,
        probabilities: Float32 | float,
        outlook: Float32 | float,
        raw: Float32 | None = None,
    ) -> bool:
        """Put an entry: see `entry_dtype`; `raw` may come with every row.

        Returns:
            Whether there was room.
        """
        head = self._head
        if head - self._tail >= self._capacity:
            self._tail = self._header[_TAIL]
            if head - self._tail >= self._capacity:
                self._dropped += 1
                self._header[_DROPPED] = self._dropped
                return False
        place = head % self._capacity
        # Comparing bounds is faster than a division.
        if raw is not None and not self._interval_from_ns <= time_ns < self._interval_until_ns:
            self._raw[place] = raw
            flags |= HAS_RAW
            self._interval_from_ns = time_ns - time_ns % self._interval_ns
            self._interval_until_ns = self._interval_from_ns + self._interval_ns
        _NUMBERS.pack_into(
            self._map,
            _HEADER_BYTES + place * self._dtype.itemsize,
            head + self._dropped,
            row,
            time_ns,
            asked_ns,
            segment,
            mid,
            version,
            latency_ns,
            candidate,
            reason,
            flags,
        )
        self._features[place] = features
        self._probabilities[place] = probabilities
        self._outlook[place] = outlook
        self._head = head + 1
        self._header[_HEAD] = self._head
        return True

    def tally(self, place: int) -> int:
        """Return the reader's counter `place`, below 15."""
        return self._header[_TALLIES + place]

    def close(self, *, failed: bool = False) -> None:
        """Announce the end, and whether an error caused it; the file stays."""
        self._header[_CLOSED] = _FAILED if failed else 1


class RingReader:
    """The reading side; of one thread."""

    def __init__(self, path: Path) -> None:
        """Open a ring after the last released entry; lock out other readers.

        Raises:
            ServingError: the file is missing, is no ring, or has a reader.
        """
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
            # The kernel unlocks it when this process ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._map = mmap.mmap(self._file.fileno(), 0)
            self._header = memoryview(self._map).cast("q")
            magic, capacity, features, horizons, size = self._header[:5]
            self._dtype = entry_dtype(features, horizons)
            if magic != _MAGIC or size != self._dtype.itemsize:
                raise ValueError("its header does not fit")
            self._capacity = capacity
            self._entries = np.frombuffer(self._map, self._dtype, capacity, _HEADER_BYTES)
        except BlockingIOError as error:
            raise ServingError(f"{path}: another process reads this ring; end it first") from error
        except (OSError, ValueError, TypeError) as error:
            raise ServingError(f"{path}: not a ring of entries: {error}; restart the recorder") from error
        self._cursor = self._header[_TAIL]

    def close(self) -> None:
        """Unlock the ring."""
        # The mapping has a descriptor of its own, so closing does not unlock.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    @property
    def dropped(self) -> int:
        """Entries that the writer dropped."""
        return self._header[_DROPPED]

    @property
    def waiting(self) -> int:
        """Entries not read yet."""
        return self._header[_HEAD] - self._cursor

    @property
    def unreleased(self) -> int:
        """Entries that the writer may not overwrite yet."""
        return self._header[_HEAD] - self._header[_TAIL]

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return self._capacity

    @property
    def resumed(self) -> bool:
        """Whether entries were released before."""
        return self._header[_TAIL] > 0

    @property
    def features(self) -> int:
        """F."""
        return int(self._dtype["features"].shape[0])

    @property
    def finished(self) -> bool:
        """Whether the writer announced the end."""
        return bool(self._header[_CLOSED])

    @property
    def failed(self) -> bool:
        """Whether an error ended the writer's session."""
        return self._header[_CLOSED] == _FAILED

    def read(self, limit: int) -> npt.NDArray[np.void]:
        """Return a copy of the next entries, at most `limit`, oldest first; releases none."""
        start = self._cursor % self._capacity
        count = min(self.waiting, limit, self._capacity - start)
        entries = self._entries[start : start + count].copy()
        self._cursor += count
        return entries

    def tally(self, place: int) -> int:
        """See `RingWriter.tally`."""
        return self._header[_TALLIES + place]

    def count(self, place: int, number: int) -> None:
        """Add to counter `place`, below 15."""
        self._header[_TALLIES + place] += number

    def release(self) -> None:
        """Release all entries read so far."""
        self._header[_TAIL] = self._cursor
