"""What a client may act on: the more cautious of the monitor's mode and of what its own rows say."""

from dataclasses import dataclass
from enum import StrEnum

from lobsmith.monitoring.mode.machine import Mode
from lobsmith.trading.guard.drift_score import LocalReading, LocalStatus
from lobsmith.trading.guard.monitor_mode import MonitorStatus


class Abstain(StrEnum):
    """Why an answer may not be acted on, or only at some horizons and confidences."""

    PAUSED = "paused"
    """The monitor says so."""
    CONSERVATIVE = "conservative"
    """The monitor says so."""
    REFERENCE = "reference"
    """The client's own last rows are unlike those that the version has learnt from."""
    NO_SIGNAL = "blind"
    """Neither the monitor nor the client's own rows say anything."""
    OTHER_INSTRUMENT = "other_instrument"
    """The version that answers has not learnt the stream's instrument."""
    NO_ANSWER = "no_answer"
    """There is nothing to act on."""


@dataclass(frozen=True)
class EffectiveMode:
    """The mode that holds for a client, and why it is not normal."""

    mode: Mode
    abstain: Abstain | None
    detail: str


def effective_mode(monitor: MonitorStatus, own: LocalReading) -> EffectiveMode:
    """Return the more cautious of two words.

    | the monitor's word   | own rows calm  | own rows alarm | no score       |
    |----------------------|----------------|----------------|----------------|
    | normal, and fresh    | normal         | REFERENCE      | normal         |
    | conservative         | CONSERVATIVE   | CONSERVATIVE   | CONSERVATIVE   |
    | paused               | PAUSED         | PAUSED         | PAUSED         |
    | none, or normal once | normal         | REFERENCE      | BLIND          |

    A monitor has no word where its record is stale, missing, corrupt, out of reach, or about another version. What it
    has last said to be cautious about holds all the same, for any version: only the monitor takes that back.
    """
    detail = f"monitor: {monitor.detail}; own rows: {own.detail}"
    if monitor.mode is Mode.PAUSED:
        return EffectiveMode(Mode.PAUSED, Abstain.PAUSED, detail)
    if monitor.mode is Mode.CONSERVATIVE:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.CONSERVATIVE, detail)
    if own.own is LocalStatus.ALARM:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.REFERENCE, detail)
    if not monitor.fresh and own.own is LocalStatus.UNKNOWN:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.NO_SIGNAL, detail)
    return EffectiveMode(Mode.NORMAL, None, detail)
