"""What a change of mode tells a person."""

from lobsmith.gates.drift.verdict import Finding
from lobsmith.monitoring import alerts
from lobsmith.monitoring.mode_store import Change
from lobsmith.monitoring.modes import Mode
from lobsmith.workspace import Workspace


def alert_mode(workspace: Workspace, change: Change) -> None:
    """Raise and resolve the alerts on drift and on missing data, after a look.

    Drift is over once the mode is normal again, not with the first look that finds none. Missing data is over with the
    first look that had some.

    Raises:
        ReleaseError: the alerts cannot be written.
    """
    after = change.after
    found = set(after.findings.values())
    if after.mode is Mode.NORMAL:
        alerts.resolve(workspace, alerts.DRIFT, after.model, after.reason)
    elif Finding.DRIFT in found:
        alerts.fire(workspace, alerts.DRIFT, after.model, f"version {after.version} is {after.mode}: {after.last_look}")
    if Finding.MISSING in found or not found:
        alerts.fire(workspace, alerts.NO_ROWS, after.model, f"version {after.version}: {after.last_look}")
    else:
        alerts.resolve(workspace, alerts.NO_ROWS, after.model)
