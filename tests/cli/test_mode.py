"""`lobsmith mode`, and the mode in `lobsmith status`."""

import json
import shutil

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.store import apply, state_path
from lobsmith.params import load_params
from lobsmith.process import user
from lobsmith.release.repository import journal
from lobsmith.release.version.triton_config import config_text
from lobsmith.workspace import Workspace
from tests.monitoring.drift.checks import CALM, DRIFT, START_NS, S, at, check
from tests.release import toy
from tests.small import params_file

PARAMS = load_params(params_file(), {"modes.drift_looks": 1})
RATES = HitRates(version=1, horizons_ms=(100,), edges=(1 / 3, 2 / 3, 1.0), counts=((900, 900),), wins=((5, 899),))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    shutil.copy(params_file(), workspace.params)
    return workspace


def lobsmith(workspace: Workspace, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["--root", str(workspace.root), *arguments])
    assert result.exit_code == code, result.output
    return result.output


def take(workspace: Workspace, number: int, verdicts, rates=None) -> None:
    apply(workspace, PARAMS, check(number, verdicts), rates, "monitor flow", now_ns=at(number))


def test_a_mode_is_set_by_hand_shown_and_given_back(workspace: Workspace) -> None:
    assert "no mode yet" in lobsmith(workspace, "mode", "show")
    assert "serves nothing" in lobsmith(workspace, "mode", "set", "paused", "--reason", "why", code=1)
    take(workspace, 0, CALM)
    assert "--reason" in lobsmith(workspace, "mode", "set", "paused", code=2)
    assert "lob 1 is paused, was normal" in lobsmith(workspace, "mode", "set", "paused", "--reason", "[news]")
    shown = lobsmith(workspace, "mode", "show")
    for text in (
        "set by hand",
        "[news]",
        "only by `lobsmith mode auto`",
        "no drift check for",
        f"held by {user()}",
    ):
        assert text in " ".join(shown.split())
    state = json.loads(lobsmith(workspace, "mode", "show", "--json"))
    assert (state["record"]["mode"], state["away"]) == ("paused", True)
    assert [change["mode_to"] for change in state["changes"]] == ["normal", "paused"]
    assert "set by drift checks" in lobsmith(workspace, "mode", "auto")
    assert not json.loads(lobsmith(workspace, "mode", "auto", "--json"))["held"]


def test_what_is_actionable_in_conservative_mode_is_shown(workspace: Workspace) -> None:
    take(workspace, 0, DRIFT, RATES)
    shown = " ".join(lobsmith(workspace, "mode", "show").split())
    assert "100 ms from 0.667 to 1.000 (899 of 900 came true)" in shown
    assert "0 of 6 calm drift checks" in shown


def test_the_status_shows_the_mode_now_and_then(workspace: Workspace) -> None:
    folder = workspace.repository / "lob"
    folder.mkdir(parents=True)
    text = config_text("lob", toy.CONTRACT, versions=[1], prime_rows=7, max_batch=4, warmup=2)
    (folder / "config.pbtxt").write_text(text)
    entry = journal.Entry(
        time_ns=START_NS - S,
        action=journal.PUBLISHED,
        model="lob",
        version_from=None,
        version_to=1,
        artifact_id=None,
        actor="a test",
    )
    journal.append(workspace.journal, entry)
    assert json.loads(lobsmith(workspace, "status", "--json"))["models"]["lob"]["mode"] is None
    for number, verdicts in enumerate([CALM, DRIFT]):
        take(workspace, number, verdicts)
    now = json.loads(lobsmith(workspace, "status", "--json"))["models"]["lob"]["mode"]
    assert (now["mode"], "covariate 1" in now["reason"]) == ("conservative", True)
    assert "conservative since" in lobsmith(workspace, "status")
    then = "2026-02-25T06:13:21"
    past = json.loads(lobsmith(workspace, "status", "--at", then, "--json"))["models"]["lob"]
    assert (past["mode"]["mode"], past["mode"]["who"]) == ("normal", "monitor flow")
    assert "mode normal since" in lobsmith(workspace, "status", "--at", then)
    state_path(workspace, "lob").write_bytes(b"{")
    broken = json.loads(lobsmith(workspace, "status", "--json"))
    assert "does not hold a mode" in broken["errors"][0]
    assert broken["models"]["lob"]["active"] == 1
