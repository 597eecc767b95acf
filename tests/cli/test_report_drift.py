import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lobsmith.cli.main import cli
from lobsmith.monitoring.drift import history
from lobsmith.params import load_params
from lobsmith.workspace import Workspace
from tests.cli.test_commands import root
from tests.monitoring.drift import drifted

__all__ = ["root"]


def drift(root: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["--root", str(root), "report", "drift", *options])


def refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    for text in texts:
        assert text in line


def test_without_a_drift_check_there_is_one_clear_line(root: Path) -> None:
    for options in ((), ("--json",), ("--open",)):
        refused(drift(root, *options), "lob: no drift check yet", "lobsmith drift")


@pytest.fixture
def checked(root: Path) -> Path:
    workspace, params = Workspace(root), load_params(root / "params.yaml")
    drifted.keep(workspace, params, drifted.content(drifted.check(looked_ns=drifted.NOW_NS - 3600 * drifted.S), 0))
    drifted.keep(workspace, params, drifted.content(count=0))
    return root


def test_the_newest_drift_check_is_shown_or_that_of_a_time(checked: Path) -> None:
    shown = drift(checked).stdout
    for part in ("Covariate drift: spread", "insufficient history", "missing data", "14:23 UTC", history.PAGE):
        assert part in shown
    assert "13:23 UTC" in drift(checked, "--at", "2026-03-01T14:00").stdout
    assert "13:23 UTC" in drift(checked, "--at", "2026-03-01T15:00+01:00").stdout
    report = json.loads(drift(checked, "--json").stdout)
    assert report["look"]["looked_ns"] == drifted.NOW_NS
    assert Path(report["page"]).is_file()
    assert report["evidently"] is None


def test_what_cannot_be_shown_is_one_line(checked: Path) -> None:
    refused(drift(checked, "--at", "2026-02-01"), "until then")
    refused(drift(checked, "--instrument", "kraken:XBTEUR"), "no drift check yet")
    assert "write it as" in drift(checked, "--at", "yesterday").stderr
    [content] = history.reports(Workspace(checked), "lob").glob(f"*T1423*/{history.CONTENT}")
    content.write_text('{"look": 1}')
    refused(drift(checked), history.CONTENT, "check again")
    content.unlink()
    refused(drift(checked), "drift_report.keep_pages")
