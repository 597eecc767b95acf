"""What a client knows of the monitor's mode: the last record that it has read, and whether the monitor still looks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lobsmith.errors import LobsmithError
from lobsmith.monitoring.modes import Mode, ModeRecord
from lobsmith.monitoring.win_rates import WinRates
from lobsmith.trading.mode_source import ModeSource


@dataclass(frozen=True)
class MonitorWord:
    """What the monitor says.

    Attributes:
        mode: the last known, None where no record has been read.
        fresh: whether it is a recent word about the version in use; never without a mode.
        detail: one line.
        win_rates: how often past answers came true, as last known.
    """

    mode: Mode | None
    fresh: bool
    detail: str
    win_rates: WinRates | None = None


class ModeWatch:
    """Reads the record and judges its age; belongs to one thread.

    A record is fresh where the last look is neither longer ago than `stale_s` nor so far ahead by this machine's clock,
    and where a new look has been seen within `stale_s` of a clock that nobody can set.
    """

    def __init__(
        self,
        source: ModeSource,
        stale_s: float,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        """Nothing is known yet.

        Args:
            source: of records.
            stale_s: a monitor that has not looked for so long is away.
            clock: nanoseconds that never go back.
            wall: nanoseconds since 1970, UTC.
        """
        self._source = source
        self._stale_ns = int(stale_s * 1e9)
        self._clock = clock
        self._wall = wall
        self._record: ModeRecord | None = None
        self._seen_ns = 0

    def look(self, version: int | None) -> MonitorWord:
        """Read the record and say what it means for a version, None while none is in use."""
        fault = self._read()
        record = self._record
        if record is None:
            return MonitorWord(None, False, fault or "it has left no record")
        fault = fault or self._stale(record)
        if fault is None and record.version != version:
            fault = f"its record is about version {record.version}, not {version}"
        detail = f"{record.mode}, {record.reason}" if fault is None else f"away, last {record.mode}: {fault}"
        return MonitorWord(record.mode, fault is None, detail, record.win_rates)

    def _read(self) -> str | None:
        """Take over what the source has; return why it has nothing."""
        try:
            record = self._source.read()
        except LobsmithError as error:
            return str(error)
        if record is None:
            return "it has left no record"
        if self._is_outdated(record):
            return f"its record says {record.mode} and is older than what it said last"
        if self._record is None or record.looked_ns != self._record.looked_ns:
            self._seen_ns = self._clock()
        self._record = record
        return None

    def _is_outdated(self, record: ModeRecord) -> bool:
        """Say whether a record, of a backup or another machine, would take back a caution that is newer."""
        last = self._record
        if last is None or record.mode.caution >= last.mode.caution:
            return False
        # A mode set by hand is news without a look.
        said_ns = max(record.looked_ns, record.since_ns)
        return said_ns < max(last.looked_ns, last.since_ns) and abs(self._wall() - said_ns) > self._stale_ns

    def _stale(self, record: ModeRecord) -> str | None:
        age_ns = self._wall() - record.looked_ns
        if age_ns > self._stale_ns:
            return f"its last look was {age_ns / 1e9:.0f} s ago" if record.looked_ns else "it has never looked"
        if age_ns < -self._stale_ns:
            return f"its last look is {-age_ns / 1e9:.0f} s ahead of this machine's clock; set the clocks right"
        unseen_ns = self._clock() - self._seen_ns
        if unseen_ns > self._stale_ns:
            return f"no new look has come for {unseen_ns / 1e9:.0f} s"
        return None
