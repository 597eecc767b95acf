"""The report of a check, where earlier actions cannot be read."""

from pathlib import Path

from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.check import StreamCheck
from lobsmith.monitoring.drift.live_window import CurrentWindow
from lobsmith.monitoring.drift.report import report_check
from lobsmith.monitoring.mode.store import journal_path
from lobsmith.params import load_params
from lobsmith.workspace import Workspace
from tests.monitoring.drift import drifted
from tests.small import params_file


def test_a_corrupt_journal_keeps_no_check_out_of_the_history(tmp_path: Path) -> None:
    workspace, check = Workspace(tmp_path), drifted.check()
    journal_path(workspace).parent.mkdir(parents=True)
    journal_path(workspace).write_bytes(b"no line\n")
    rows = drifted.rows(50, drifted.NOW_NS)
    # Evidently is no part of this: it gets no time.
    params = load_params(params_file(), {"drift_report.deadline_s": 0.001})
    report_check(workspace, params, StreamCheck(check, rows, CurrentWindow(rows, rows, None, None, 0, 0)))
    assert [line.looked_ns for line in history.read(workspace, check.model)] == [check.looked_ns]
