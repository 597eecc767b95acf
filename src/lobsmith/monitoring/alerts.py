"""Alerts: what a person should look at, on the console and in `.lobsmith/alerts.jsonl`, one JSON object a line.

An alert is known by its name and what it is about. It fires once and goes on until it is resolved: a line is written
for each of the two, never one a minute.
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
NO_LOOK = "no look for drift"
NO_SCORE = "no score"
DRIFT = "drift"
NO_ROWS = "no rows"
"""Drift cannot be looked for: nothing is known, which is not the same as no drift."""
_LOCK_DEADLINE_S = 5.0


class Alert(Struct, frozen=True, kw_only=True):
    """One line: `name` is what is wrong, `about` with what, `message` says it to a person."""

    time_ns: int
    name: str
    about: str
    state: Literal["firing", "resolved"]
    message: str


def fire(workspace: Workspace, name: str, about: str, message: str) -> bool:
    """Raise an alert, unless it is firing already; return whether it is new.

    Raises:
        ReleaseError: the file cannot be written.
    """
    return _change(workspace, name, about, "firing", message)


def resolve(workspace: Workspace, name: str, about: str, message: str = "") -> bool:
    """Say that an alert is over, if it is firing; return whether it was.

    Raises:
        ReleaseError: the file cannot be written.
    """
    return _change(workspace, name, about, "resolved", message)


def firing(workspace: Workspace) -> list[Alert]:
    """Return the alerts that go on, the oldest first.

    Raises:
        ReleaseError: the file cannot be read.
    """
    last = {(one.name, one.about): one for one in read(workspace)}
    return sorted((one for one in last.values() if one.state == "firing"), key=lambda one: one.time_ns)


def read(workspace: Workspace) -> list[Alert]:
    """Return all lines, the oldest first; one that a crash cut short is left out.

    Raises:
        ReleaseError: the file cannot be read.
    """
    try:
        return jsonl.read(workspace.alerts, Alert)
    except OSError as error:
        raise ReleaseError(f"{workspace.alerts}: {error.strerror}; alerts cannot be told") from error


def _change(workspace: Workspace, name: str, about: str, state: Literal["firing", "resolved"], message: str) -> bool:
    path = workspace.alerts
    try:
        with exclusive_lock(path.with_suffix(".lock"), _LOCK_DEADLINE_S):
            going = any((one.name, one.about) == (name, about) for one in firing(workspace))
            if going == (state == "firing"):
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
