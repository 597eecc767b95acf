"""What the trading process and the recorder's process know of each other."""

from enum import IntEnum, auto
from typing import Any

from lobsmith.monitoring.log.sessions import Announced


class Tally(IntEnum):
    """What the recorder counts in the ring's header."""

    LOGGED = 0
    DROPPED = auto()
    CANDIDATE = auto()
    CANDIDATE_DROPPED = auto()
    FALLBACK = auto()
    FALLBACK_DROPPED = auto()
    PROBES = auto()
    FAULTS = auto()


class RecorderConfig(Announced, frozen=True, kw_only=True):
    """The order to the recorder's process, in a file beside the log.

    `patient` is for replays: records wait in the ring while mirrors have enough to do, and so does the replay.
    """

    ring: str
    root: str
    params: dict[str, Any]
    definitions_sha256: str
    transport: str
    url: str | None
    patient: bool
