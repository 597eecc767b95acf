"""The ledger of an ingest: each record is kept or quarantined.

A *record* is a line of a source file; quarantined ones are listed in a CSV file (file, line, local time, reason), and
`records == kept + sum(quarantined.values())`. A *fault* is an incident, counted once whatever its records.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from lobsmith.errors import CaptureError

LINE_BITS = 40
"""A place is `file number << LINE_BITS | line number`, lines from 1."""


class QuarantineReason(StrEnum):
    """Why a record is quarantined; the first nine also name faults."""

    GAP = "gap"
    """Between lost messages and the next snapshot."""
    DUPLICATE = "duplicate"
    """Its id was applied before."""
    OUT_OF_ORDER = "out of order"
    """Older than an applied one."""
    CROSSED = "crossed"
    """A ticker with bid above ask, or any message while the book is so."""
    LOCKED = "locked"
    """The same, bid equal to ask."""
    NEGATIVE_LATENCY = "negative latency"
    """Received before it was sent, by the corrected clock."""
    CLOCK_STEP = "clock step"
    """Stamped while a clock jumped."""
    STALE = "stale"
    """Received long after it was sent."""
    RECONNECT = "reconnect"
    """Between a lost connection and the next snapshot."""
    HALT = "trading halt"
    BEFORE_SNAPSHOT = "before the snapshot"
    OLD_DIFFERENCE = "older than the snapshot"
    OLD_SNAPSHOT = "snapshot older than the book"
    OTHER_STREAM = "other stream"
    NO_BOOK_TRADE = "trade outside the book"
    EMPTY_TICKER = "ticker of an empty side"
    EMPTY_TRADE = "trade of price or size 0"
    DISAGREES = "disagrees with the venue"
    """An order log's book differs from several snapshots in a row."""
    CHECK_SNAPSHOT = "snapshot used as a check"
    """A snapshot that is only compared with the order log."""


class Ledger:
    """Counts records; `quarantine` receives a CSV line per quarantined record."""

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
        """Register a file; return the place before its first line, to add line numbers to."""
        self.files.append(path)
        return (len(self.files) - 1) << LINE_BITS

    def quarantine(self, reason: QuarantineReason, place: int, local_time: int) -> None:
        """Quarantine one record."""
        self.quarantined[reason] += 1
        if self._quarantine is not None:
            path, line = self.where(place)
            self._quarantine.write(f"{_quoted(path.name)},{line},{local_time},{reason}\n")

    def quarantine_all(self, reason: QuarantineReason, places: Iterable[int], local_times: Iterable[int]) -> None:
        """Quarantine records for one reason."""
        for place, local_time in zip(places, local_times, strict=True):
            self.quarantine(reason, int(place), int(local_time))

    def fault(self, name: QuarantineReason) -> None:
        """Count one incident."""
        self.faults[name] += 1

    def where(self, place: int) -> tuple[Path, int]:
        """Return a place's file and line."""
        return self.files[place >> LINE_BITS], place & ((1 << LINE_BITS) - 1)

    def error(self, message: str, place: int) -> CaptureError:
        """Return an error at a place."""
        path, line = self.where(place)
        return CaptureError(path, message, line=line)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text
