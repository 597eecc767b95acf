"""Alerts on drift and on missing data: when they begin, and when they are over."""

from lobsmith.monitoring import alerts
from lobsmith.monitoring.mode.store import alert_mode, apply
from lobsmith.params import load_params
from lobsmith.workspace import Workspace
from tests.monitoring.drift.checks import CALM, DRIFT, MISSING, UNKNOWN, at, check
from tests.small import params_file

PARAMS = load_params(params_file(), {"modes.drift_looks": 2, "modes.calm_looks": 2})


def test_drift_is_over_in_normal_mode_and_missing_data_with_the_first_rows(tmp_path) -> None:
    workspace = Workspace(tmp_path)
    firing = []
    for number, finding in enumerate([UNKNOWN, DRIFT, DRIFT, MISSING, CALM, CALM, MISSING, CALM]):
        alert_mode(workspace, apply(workspace, PARAMS, check(number, finding), None, "monitor flow", now_ns=at(number)))
        firing.append({alert.name for alert in alerts.firing(workspace)})
    drift, rows = {alerts.DRIFT}, {alerts.NO_ROWS}
    assert firing == [set(), set(), drift, drift | rows, drift, set(), rows, set()]
    messages = [alert.message for alert in alerts.read(workspace) if alert.state == "firing"]
    assert "version 1 is conservative: covariate: drift (covariate 2)" in messages[0]
    assert "missing data" in messages[1]
