"""Alerts, on the console and in `.lobsmith/alerts.jsonl`, one JSON object a line.

An alert is identified by its name and subject. One line is written when it fires and one when it is resolved.
"""

from typing import Literal

from msgspec import Struct

from lobsmith import clock, jsonl
from lobsmith.errors import ReleaseError
from lobsmith.files import exclusive_lock
from lobsmith.progress import console
from lobsmith.workspace import Workspace

ROLLED_BACK = "rolled back"
CANNOT_ROLL_BACK = "cannot roll back"
NO_PREDICTIONS = "no predictions"
CLIENT_CRASHED = "client crashed"
LIMITS = "limits"
RETRAIN_WANTED = "retrain wanted"
NO_CHECK = "no look for drift"
NO_SCORE = "no score"
DRIFT = "drift"
NO_ROWS = "no rows"
"""Drift cannot be checked: unknown, not the same as no drift."""
_LOCK_DEADLINE_S = 5.0


class Alert(Struct, frozen=True, kw_only=True):
    """One line: `name` of the alert, `about` its subject, `message` for people."""

    time_ns: int
    name: str
    about: str
    state: Literal["firing", "resolved"]
    message: str


def fire(workspace: Workspace, name: str, about: str, message: str) -> bool:
    """Fire an alert unless it is firing; return whether it is new.

    Raises:
        ReleaseError: the file cannot be written.
    """
    return _change(workspace, name, about, "firing", message)


def resolve(workspace: Workspace, name: str, about: str, message: str = "") -> bool:
    """Resolve an alert if it is firing; return whether it was.

    Raises:
        ReleaseError: the file cannot be written.
    """
    return _change(workspace, name, about, "resolved", message)


def firing(workspace: Workspace) -> list[Alert]:
    """Return the firing alerts, the oldest first.

    Raises:
        ReleaseError: the file cannot be read.
    """
    last = {(alert.name, alert.about): alert for alert in read(workspace)}
    return sorted((alert for alert in last.values() if alert.state == "firing"), key=lambda alert: alert.time_ns)


def read(workspace: Workspace) -> list[Alert]:
    """Return all lines, the oldest first, without torn ones.

    Raises:
        ReleaseError: the file cannot be read.
    """
    try:
        return jsonl.read(workspace.alerts, Alert)
    except OSError as error:
        raise ReleaseError(f"{workspace.alerts}: {error.strerror}; alerts cannot be read") from error


def _change(workspace: Workspace, name: str, about: str, state: Literal["firing", "resolved"], message: str) -> bool:
    path = workspace.alerts
    try:
        with exclusive_lock(path.with_suffix(".lock"), _LOCK_DEADLINE_S):
            is_firing = any((alert.name, alert.about) == (name, about) for alert in firing(workspace))
            if is_firing == (state == "firing"):
                return False
            alert = Alert(time_ns=clock.now_ns(), name=name, about=about, state=state, message=message)
            jsonl.append(path, alert)
    except TimeoutError as error:
        raise ReleaseError(f"{path}: locked for {_LOCK_DEADLINE_S:g} s; end the process that holds it") from error
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; the alert {name} of {about} was not written") from error
    colour = "red" if state == "firing" else "green"
    console.print(f"[{colour}]{state}[/{colour}] {name}: {about}: {message}", highlight=False)
    return True
