"""What trading process and recorder process share."""

from enum import IntEnum, auto
from typing import Any

from msgspec import field

from lobsmith.monitoring.log.sessions import Announced


class Tally(IntEnum):
    """Counters that the recorder keeps in the ring's header."""

    LOGGED = 0
    DROPPED = auto()
    CANDIDATE = auto()
    CANDIDATE_DROPPED = auto()
    FALLBACK = auto()
    FALLBACK_DROPPED = auto()
    PROBES = auto()
    FAULTS = auto()


class RecorderConfig(Announced, frozen=True, kw_only=True):
    """Configuration of the recorder's process, in a file beside the log.

    `backpressure`: for replays, entries wait in the ring while shadows are above their high-water mark, and so does the
    replay.
    """

    ring: str
    root: str
    params: dict[str, Any]
    definitions_sha256: str
    transport: str
    url: str | None
    backpressure: bool = field(name="patient")
