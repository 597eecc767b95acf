"""`lobsmith demo --drift` as a user runs it, and its page in a browser."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lobsmith.monitoring.mode.machine import Mode
from tests.browser import browser
from tests.small import SMALL, params_file

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

QUICK = {
    **SMALL,
    "data.simulator.seconds": 900,
    # Too little for Evidently, which is drawn in `tests/pipelines/test_drift_in_service.py`.
    "drift_report.deadline_s": 0.05,
}


def test_a_market_that_changes_ends_with_a_page_that_says_so_and_names_what_moved(tmp_path: Path) -> None:
    shutil.copy(params_file(), tmp_path)
    settings = [f"--set={name}={json.dumps(value)}" for name, value in QUICK.items()]
    command = [sys.executable, "-m", "lobsmith", "--root", str(tmp_path), "demo", "--drift", "--json", *settings]
    done = subprocess.run(command, capture_output=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr.decode()
    shown = json.loads(done.stdout)
    calm, *_, last = shown["stretches"]
    # The first look of a fresh install comes with the first full window, and has a verdict.
    assert (calm["changed"], calm["found"]["covariate"], calm["mode"]) == (False, "no drift", Mode.NORMAL)
    assert (last["changed"], last["found"]["covariate"], last["mode"]) == (True, "drift", Mode.CONSERVATIVE)
    assert "retrain" in last["retrain"]
    [covariate] = [one for one in shown["look"]["verdicts"] if one["kind"] == "covariate"]
    named = [one["name"] for one in covariate["moved"][:3]]
    assert all("_size_" in name for name in named), named
    assert "31 windows of 55.8 s of the training data" in covariate["reason"]
    # The model in service, its modes and its log are no part of the demonstration.
    assert sorted(one.name for one in (tmp_path / ".lobsmith").iterdir()) == ["drift_demo", "drift_demo.lease"]
    with browser() as page:
        page.open(Path(last["page"]).as_uri())
        text = page.run("document.body.innerText")
        assert "Covariate drift" in page.run("document.querySelector('.decision').innerText")
        assert all(name in text for name in (*named, "normal → conservative", "retrain wanted"))
        assert not page.errors
