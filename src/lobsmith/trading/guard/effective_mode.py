"""A client's effective mode: the more cautious of the monitor's mode and its own drift score."""

from dataclasses import dataclass
from enum import StrEnum

from lobsmith.monitoring.mode.machine import Mode
from lobsmith.trading.guard.drift_score import LocalReading, LocalStatus
from lobsmith.trading.guard.monitor_mode import MonitorStatus


class Abstain(StrEnum):
    """Why a prediction is not actionable at all horizons and confidences."""

    PAUSED = "paused"
    """By the monitor."""
    CONSERVATIVE = "conservative"
    """By the monitor."""
    REFERENCE = "reference"
    """The last rows are unlike the reference window."""
    NO_SIGNAL = "blind"
    """Neither a monitor status nor a drift score."""
    OTHER_INSTRUMENT = "other_instrument"
    """The version was not trained on the stream's instrument."""
    NO_ANSWER = "no_answer"
    """There is no prediction."""


@dataclass(frozen=True)
class EffectiveMode:
    """A client's mode, and why it is not normal."""

    mode: Mode
    abstain: Abstain | None
    detail: str


def effective_mode(monitor: MonitorStatus, local: LocalReading) -> EffectiveMode:
    """Return the more cautious of two statuses.

    | monitor                 | local calm     | local alarm    | no score       |
    |-------------------------|----------------|----------------|----------------|
    | normal, fresh           | normal         | REFERENCE      | normal         |
    | conservative            | CONSERVATIVE   | CONSERVATIVE   | CONSERVATIVE   |
    | paused                  | PAUSED         | PAUSED         | PAUSED         |
    | none, or stale normal   | normal         | REFERENCE      | NO_SIGNAL      |

    Stale: old, missing, corrupt, out of reach or of another version. Stale caution holds until the monitor changes it.
    """
    detail = f"monitor: {monitor.detail}; local: {local.detail}"
    if monitor.mode is Mode.PAUSED:
        return EffectiveMode(Mode.PAUSED, Abstain.PAUSED, detail)
    if monitor.mode is Mode.CONSERVATIVE:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.CONSERVATIVE, detail)
    if local.status is LocalStatus.ALARM:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.REFERENCE, detail)
    if not monitor.fresh and local.status is LocalStatus.UNKNOWN:
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.NO_SIGNAL, detail)
    return EffectiveMode(Mode.NORMAL, None, detail)
