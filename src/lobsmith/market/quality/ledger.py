"""The ledger of an ingest: every record is either kept or set aside, for a named reason, at a named line.

A *record* is one line of a source file. Readers and the screen set records aside; the ledger counts them and writes
each into a quarantine file (CSV: file, line, local time, reason), so that `records == kept + sum(quarantined.values())`
and anyone can look up what was left out. A *fault* is an incident of the feed, counted once however many records it
cost.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from lobsmith.errors import CaptureError

LINE_BITS = 40
"""A place is `file number << LINE_BITS | line number`, lines counted from 1, in one int64."""


class QuarantineReason(StrEnum):
    """Why a record is set aside; the first nine are also the names of faults."""

    GAP = "gap"
    """Came after lost messages and before the snapshot that mends the book."""
    DUPLICATE = "duplicate"
    """Its update or trade id was applied before."""
    OUT_OF_ORDER = "out of order"
    """Older than what was applied before it."""
    CROSSED = "crossed"
    """A ticker whose bid is above its ask, or anything while the book stays so."""
    LOCKED = "locked"
    """The same with bid and ask at one price."""
    NEGATIVE_LATENCY = "negative latency"
    """Received before it was sent, once the clock offset is taken out."""
    CLOCK_STEP = "clock step"
    """Stamped while one of the two clocks jumped."""
    STALE = "stale"
    """Received long after it was sent."""
    RECONNECT = "reconnect"
    """Came after the recorder lost its connection and before the next snapshot."""
    HALT = "trading halt"
    BEFORE_SNAPSHOT = "before the snapshot"
    OLD_DIFFERENCE = "older than the snapshot"
    OLD_SNAPSHOT = "snapshot older than the book"
    OTHER_STREAM = "other stream"
    NO_BOOK_TRADE = "trade outside the book"
    EMPTY_TICKER = "ticker of an empty side"
    EMPTY_TRADE = "trade of price or size 0"
    DISAGREES = "disagrees with the venue"
    """The book rebuilt from an order log differs from the venue's own snapshots, several times in a row."""
    CHECK_SNAPSHOT = "snapshot used as a check"
    """A venue's periodic snapshot that repeats what its order log says."""


class Ledger:
    """Counts records, sets them aside, and names places.

    Args:
        quarantine: where a CSV line is written for every record set aside; None writes nothing.
    """

    def __init__(self, quarantine: TextIO | None = None) -> None:
        self.files: list[Path] = []
        self.records = 0
        self.depth_messages = self.tickers = self.trades = self.snapshots = 0
        self.missing_trades = 0
        self.quarantined: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._quarantine = quarantine
        if quarantine is not None:
            quarantine.write("file,line,local_time_ns,reason\n")

    def begin_file(self, path: Path) -> int:
        """Register the next source file and return the place before its first line: add line numbers to it."""
        self.files.append(path)
        return (len(self.files) - 1) << LINE_BITS

    def aside(self, reason: QuarantineReason, place: int, local_time: int) -> None:
        """Set one record aside."""
        self.quarantined[reason] += 1
        if self._quarantine is not None:
            path, line = self.where(place)
            self._quarantine.write(f"{_quoted(path.name)},{line},{local_time},{reason}\n")

    def all_aside(self, reason: QuarantineReason, places: Iterable[int], local_times: Iterable[int]) -> None:
        """Set several records aside for one reason."""
        for place, local_time in zip(places, local_times, strict=True):
            self.aside(reason, int(place), int(local_time))

    def fault(self, name: QuarantineReason) -> None:
        """Count one incident."""
        self.faults[name] += 1

    def where(self, place: int) -> tuple[Path, int]:
        """Return file and line of a place."""
        return self.files[place >> LINE_BITS], place & ((1 << LINE_BITS) - 1)

    def error(self, what: str, place: int) -> CaptureError:
        """Return an error that names file and line."""
        path, line = self.where(place)
        return CaptureError(path, what, line=line)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text
