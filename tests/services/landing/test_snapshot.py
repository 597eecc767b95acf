"""What the landing page says about a workspace, and what it makes of what cannot be read."""

import re
from html import unescape
from pathlib import Path

import pytest

from lobsmith.monitoring import alerts
from lobsmith.monitoring.log.writer import log_path
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import set_mode, state_path
from lobsmith.services.landing.content import Serving, Snapshot, Tone, Trouble
from lobsmith.services.landing.page import render_landing
from lobsmith.services.landing.snapshot import Reader
from lobsmith.workspace import Workspace
from tests.services.landing import landed

PARTS = ("serving", "mode", "alerts", "accuracy", "reports", "versions", "next", "links")


def texts(snapshot: Snapshot) -> dict[str, str]:
    """Return the text of each part of the page."""
    html = render_landing(snapshot).html
    parts = dict(re.findall(r'<section id="(\w+)" .*?</h2>(.*?)</section>', html, re.DOTALL))
    return {name: " ".join(unescape(re.sub(r"<[^>]+>", " ", part)).split()) for name, part in parts.items()}


def only(snapshot: Snapshot) -> Serving:
    assert not isinstance(snapshot.serving, Trouble)
    [serving] = snapshot.serving
    return serving


def test_an_empty_workspace_says_what_will_fill_each_part(tmp_path: Path) -> None:
    snapshot = Reader(landed.workspace_at(tmp_path)).read()
    assert snapshot.headline == "Nothing serves yet: lobsmith retrain makes the first version."
    assert snapshot.tone is Tone.MISSING
    parts = texts(snapshot)
    assert tuple(parts) == PARTS
    for name, command in {
        "serving": "lobsmith retrain",
        "accuracy": "lobsmith live",
        "versions": "lobsmith retrain",
        "reports": "lobsmith retrain",
        "next": "lobsmith up",
        "links": "lobsmith up",
    }.items():
        assert command in parts[name]
    assert parts["alerts"] == "No alert fires."


def test_a_full_workspace_is_shown_and_what_people_wrote_is_escaped(tmp_path: Path) -> None:
    workspace, older, newer = landed.filled(tmp_path)
    snapshot = Reader(workspace).read()
    serving = only(snapshot)
    assert (serving.version, serving.fallback, serving.ready) == (newer.version, older.version, None)
    assert [line.role for line in serving.versions] == ["serves", "fallback"]
    assert snapshot.tone is Tone.WRONG
    assert snapshot.headline.startswith(f"toy {newer.version} does not answer (Triton does not run")
    assert snapshot.headline.endswith("mode paused, 1 alert (limits).")
    html, parts = render_landing(snapshot).html, texts(snapshot)
    assert html.count("<script>") == 1
    assert landed.SCRIPT in parts["mode"]
    assert landed.SCRIPT in parts["alerts"]
    assert f"toy {newer.version} serves" in parts["versions"]
    assert re.search(rf"published toy {newer.version} after {older.version}", parts["versions"])
    assert 'href="/files/runs/20260301T115900-abcdef/report.html"' in html
    assert f'href="/files/reports/shadow-toy_candidate-{newer.version}.html"' in html


def test_accuracy_is_of_the_rows_that_both_versions_answered(tmp_path: Path) -> None:
    workspace, older, newer = landed.filled(tmp_path)
    snapshot = Reader(workspace).read()
    assert not isinstance(snapshot.accuracy, Trouble)
    [line] = snapshot.accuracy
    assert (line.version, line.fallback, line.rows, line.source) == (newer.version, older.version, 400, "live")
    for horizon in line.horizons:
        # Both draw at random, from different seeds.
        assert 0.2 < horizon.accuracy < 0.5
        assert 0.2 < horizon.fallback_accuracy < 0.5
        assert horizon.accuracy != horizon.fallback_accuracy
        assert horizon.base_log_loss == pytest.approx(1.0986, abs=1e-3)


def test_a_promotion_and_a_mode_are_in_the_next_reading(tmp_path: Path) -> None:
    workspace = landed.workspace_at(tmp_path)
    reader = Reader(workspace)
    first = landed.serve_version(workspace, 0.2)
    before = reader.read()
    assert f"toy {first.version}" in before.headline
    assert "no mode yet" in before.headline
    second = landed.serve_version(workspace, 0.3)
    set_mode(workspace, "toy", Mode.CONSERVATIVE, "by hand", "operator")
    after = reader.read()
    assert f"toy {second.version}" in after.headline
    assert "mode conservative" in after.headline
    assert only(after).fallback == first.version


@pytest.mark.parametrize("part", ["mode", "alerts", "history", "accuracy", "serving"])
def test_what_cannot_be_read_takes_no_other_part_down(tmp_path: Path, part: str) -> None:
    workspace, _, newer = landed.filled(tmp_path)
    damaged = {
        "mode": state_path(workspace, "toy"),
        "alerts": workspace.alerts,
        "history": workspace.journal,
        "accuracy": log_path(workspace, "toy"),
        "serving": workspace.repository / "toy" / str(newer.version) / "manifest.json",
    }[part]
    if part == "alerts":
        damaged.unlink()
        damaged.mkdir()
    else:
        damaged.write_bytes(b'{"broken": 1}\n{}\n')
    snapshot = Reader(workspace).read()
    parts = texts(snapshot)
    shown = "versions" if part == "history" else part
    assert damaged.name in parts[shown], parts[shown]
    assert snapshot.tone is Tone.WRONG
    assert "Passed" in parts["reports"] or "run 20260301T115900-abcdef" in parts["reports"]
    if part != "alerts":
        assert "limits of toy" in parts["alerts"]
    if part not in ("serving", "history"):
        assert str(newer.version) in parts["serving"]


def test_alerts_that_say_unknown_are_amber(tmp_path: Path) -> None:
    workspace: Workspace = landed.workspace_at(tmp_path)
    alerts.fire(workspace, alerts.NO_ROWS, "toy", "no rows for an hour")
    snapshot = Reader(workspace).read()
    assert not isinstance(snapshot.alerts, Trouble)
    assert [line.tone for line in snapshot.alerts] == [Tone.MISSING]
