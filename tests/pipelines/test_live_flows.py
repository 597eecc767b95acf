"""Shadow and monitor flows on a real Prefect server and MLflow, with the traffic of an hour in the prediction log."""

import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from lobsmith.cli.main import cli
from lobsmith.drift.verdict import Finding
from lobsmith.errors import DataError, PredictionLogError
from lobsmith.lease import hold_lease
from lobsmith.monitoring import alerts, waiting
from lobsmith.monitoring.live_evaluation import LIVE
from lobsmith.monitoring.log.sessions import Announced, sessions_folder
from lobsmith.monitoring.log.writer import Ending, LogWriter, Role, Source, log_path
from lobsmith.monitoring.mode.store import changes, read_mode
from lobsmith.monitoring.shadow_page import shadow_path
from lobsmith.monitoring.waiting import note_refusal
from lobsmith.online.evidence import ROLL_BACK
from lobsmith.params import load_params
from lobsmith.process import Process
from lobsmith.release.context import Release
from lobsmith.release.reconcile.reconcile import reconcile
from lobsmith.release.registry import mlflow_store
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, SERVING, SHADOW, alias_targets, registered
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import RolledBack, rollback
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.registrations import DEPLOYMENT, candidate, point_alias, register, workspace_with_mlflow
from tests.release.verdicts import verdict
from tests.small import params_file

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server", "validation_in_process")]
SHORT = {
    "model.name": "toy",
    "serving.warmup": 2,
    "paired.measure_s": 300,
    "shadow.minimum_s": 600,
    "shadow.probes": 0,
    "rollback.rows": 200,
}
ROWS, PER_SECOND, NS = 7200, 2, 1_000_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    shutil.copy(params_file(), tmp_path / "params.yaml")
    return workspace_with_mlflow(tmp_path)


def params(workspace):
    return load_params(workspace.params, SHORT)


def reconcile_project(workspace):
    return reconcile(Release(workspace, params(workspace)), "toy")


def promoted(workspace, scale):
    version = register(workspace, candidate(workspace, scale))
    point_alias(workspace, CHAMPION, version)
    reconcile_project(workspace)
    return version


def traffic(workspace, second, *, start_ns: int, worse_by: float, first=None, source=Source.LIVE, seed=0) -> None:
    """An hour of rows that production (`first`) and another version answered: mean losses differ by `worse_by`."""
    generator = np.random.default_rng(seed)
    row = np.arange(ROWS)
    time_ns = start_ns + NS + row * (NS // PER_SECOND)
    labels = generator.integers(0, 3, ROWS)
    market = 0.5 + 0.1 * generator.normal(size=ROWS)
    first = first or ("toy", Repository.of(workspace).active("toy"))
    with LogWriter.of(workspace, "toy", params(workspace)) as log:
        horizons = len(log.horizons_ms)
        session = f"{source}-{seed}-{start_ns}"
        log.begin(session, source, "simulator:SIM", start_ns)
        for version, more in ((first, 0.0), (second, worse_by + 0.1 * generator.normal(size=ROWS))):
            true = np.exp(-np.clip(market + more, 0.01, 5))
            p = np.repeat(((1 - true) / 2)[:, np.newaxis], 3, axis=1)
            p[row, labels] = true
            log.add_predictions(
                session,
                *version,
                Role.PRIMARY if version[0] == "toy" else Role.CANDIDATE,
                row=row,
                time_ns=time_ns,
                asked_ns=time_ns,
                segment=0,
                mid=1000,
                latency_ns=500_000,
                rows=1,
                probabilities=np.repeat(p[:, np.newaxis], horizons, axis=1).astype(np.float32),
            )
        log.add_outcomes(session, row, np.repeat(labels[:, np.newaxis], horizons, axis=1).astype(np.int8), time_ns + NS)


def shadow(workspace, **options):
    from lobsmith.pipelines.shadow import shadow as flow

    return flow(str(workspace.root), SHORT, **options)


def monitor(workspace):
    from lobsmith.pipelines.monitor import monitor as flow

    return flow(str(workspace.root), SHORT)


def challenged(workspace):
    """A champion that serves, and a challenger that is deployed as the candidate."""
    champion = promoted(workspace, 0.3)
    manifest = candidate(workspace, 0.4)
    challenger = register(workspace, manifest)
    point_alias(workspace, CHALLENGER, challenger)
    return champion, challenger, manifest


@pytest.mark.parametrize(("worse_by", "decision"), [(-0.1, "promote"), (0.1, "reject"), (0.0, "keep watching")])
def test_the_verdict_of_live_traffic_moves_the_aliases(workspace, worse_by, decision):
    champion, challenger, manifest = challenged(workspace)
    traffic(workspace, (DEPLOYMENT, manifest.version), start_ns=manifest.created_ns, worse_by=worse_by)
    # Rows of a replay may be those that the candidate was trained on.
    traffic(workspace, (DEPLOYMENT, manifest.version), start_ns=manifest.created_ns, worse_by=-1, source=Source.REPLAY)
    before = Repository.of(workspace).active("toy")
    result = shadow(workspace)
    assert (result.decision, result.verdict.rows) == (decision, ROWS)
    page = shadow_path(workspace.reports, result.verdict, DEPLOYMENT, manifest.version)
    assert f": {decision}</title>" in page.read_text()
    now, repository = alias_targets(workspace, "toy"), Repository.of(workspace)
    tags = registered(workspace, "toy", challenger.version).tags
    assert f'"decision":"{decision}"' in tags[SHADOW]
    last = [
        entry for entry in journal.read(workspace.journal) if entry.action not in (journal.RETIRED, journal.PUBLISHED)
    ][-1]
    match decision:
        case "promote":
            assert (now.champion.version, now.challenger) == (challenger.version, None)
            assert repository.verify("toy", result.active).artifact_id == challenger.artifact_id
            assert (last.action, last.version_to) == (journal.PROMOTED, result.active)
            assert "shadow verdict" in last.reason
            assert [verdict.gate for verdict in last.verdicts] == ["parity", "shadow"]
        case "reject":
            assert (now.champion.version, now.challenger) == (champion.version, None)
            assert (repository.active("toy"), repository.versions(DEPLOYMENT)) == (before, [])
            assert (last.action, last.model, last.verdicts[-1].gate) == (journal.REJECTED, DEPLOYMENT, "shadow")
        case _:
            assert (now.champion.version, now.challenger.version) == (champion.version, challenger.version)
            assert (result.active, result.candidate) == (before, manifest.version)
    if decision != "keep watching":
        assert shadow(workspace).decision is None


def test_without_a_candidate_or_traffic_nothing_is_judged(workspace):
    assert shadow(workspace).reason == "there is no candidate"
    challenged(workspace)
    result = shadow(workspace)
    assert (result.decision, result.reason) == (None, "no row was put to both yet")
    candidate(workspace, 0.5)
    assert "reconcile first" in shadow(workspace).reason


def test_a_version_that_turns_bad_is_taken_back_also_while_mlflow_is_away(workspace, monkeypatch):
    good = promoted(workspace, 0.3)
    fallback = Repository.of(workspace).active("toy")
    bad = promoted(workspace, 0.4)
    active = Repository.of(workspace).active("toy")
    start_ns = time.time_ns()
    traffic(workspace, ("toy", active), first=("toy", fallback), start_ns=start_ns, worse_by=0.2)
    lock = sqlite3.connect(workspace.home / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(mlflow_store, "_REACH_DEADLINE_S", 0.2)
            result = monitor(workspace)
    finally:
        lock.close()
    assert (result.decision, result.active) == ("roll back", fallback)
    assert (result.rolled_back.version_from, result.rolled_back.version_to) == (active, fallback)
    line = [entry for entry in journal.read(workspace.journal) if entry.action == journal.ROLLED_BACK][-1]
    assert (line.actor, line.verdicts[0].gate) == ("monitor flow", "rollback")
    assert [alert.name for alert in alerts.firing(workspace)] == [alerts.ROLLED_BACK]
    assert alias_targets(workspace, "toy").champion.version == bad.version
    reconcile_project(workspace)
    assert alias_targets(workspace, "toy").champion.version == good.version
    assert registered(workspace, "toy", bad.version).tags[SERVING] == "rolled back"
    assert Repository.of(workspace).active("toy") == fallback
    # Another promotion ends the alert.
    promoted(workspace, 0.5)
    monitor(workspace)
    assert alerts.ROLLED_BACK not in [alert.name for alert in alerts.firing(workspace)]


def test_a_version_as_good_as_its_fallback_stays(workspace):
    promoted(workspace, 0.3)
    fallback = Repository.of(workspace).active("toy")
    promoted(workspace, 0.4)
    active = Repository.of(workspace).active("toy")
    traffic(workspace, ("toy", active), first=("toy", fallback), start_ns=time.time_ns(), worse_by=0.0)
    result = monitor(workspace)
    assert (result.decision, result.active, result.rolled_back) == ("keep", active, None)
    assert alerts.firing(workspace) == []


OTHER = structs.replace(toy.SIM, symbol="OTHER")


def test_a_candidate_of_another_market_waits_for_clients_of_the_old_one_to_leave_and_then_serves(
    workspace, monkeypatch
):
    # The client that waits would write its file again all the time.
    monkeypatch.setattr(waiting, "_FRESH_S", 3600.0)
    old = promoted(workspace, 0.3)
    manifest = candidate(workspace, 0.4, instruments=(OTHER,))
    challenger = register(workspace, manifest)
    point_alias(workspace, CHALLENGER, challenger)
    # Its answers to rows of the old market are worse, which is no reason to reject it, and better ones none to promote.
    start_ns = manifest.created_ns - NS  # the first row is a second later: not ahead of the clock
    traffic(workspace, (DEPLOYMENT, manifest.version), start_ns=start_ns, worse_by=0.5)
    assert (shadow(workspace).decision, shadow(workspace).reason) == (None, "no row was put to both yet")
    client = opened(workspace, 10)
    note_refusal(workspace, "toy", "simulator:OTHER")
    waits = shadow(workspace)
    output = CliRunner().invoke(cli, ["--root", str(workspace.root), "status"]).stdout
    assert f"waits    toy: {waits.reason}\n" in output
    assert waits.decision is None
    assert f"lobsmith models promote {manifest.version}" in waits.reason
    assert alias_targets(workspace, "toy").champion.version == old.version
    client.unlink()
    assert shadow(workspace).reason == waits.reason  # rows still come
    with LogWriter.of(workspace, "toy", params(workspace)) as log:
        log.end(f"live-0-{start_ns}", Ending.CLOSED, "its client", time.time_ns())
    result = shadow(workspace)
    assert (result.decision, result.candidate, result.verdict) == ("promote", None, None)
    assert alias_targets(workspace, "toy").champion.version == challenger.version
    last = [entry for entry in journal.read(workspace.journal) if entry.action == journal.PROMOTED][-1]
    assert last.version_to == result.active
    assert "nothing serves that it could be compared with, and its gates have passed: clients ask about" in last.reason

    # Rows of the old market, on which it is the worse one, do not roll it back; nor is there a fallback.
    fallback = min(Repository.of(workspace).listed("toy"))
    traffic(workspace, ("toy", result.active), first=("toy", fallback), start_ns=time.time_ns(), worse_by=0.2, seed=1)
    watched = monitor(workspace)
    assert (watched.decision, watched.active, watched.fallback) == (None, result.active, None)
    assert [alert.name for alert in alerts.firing(workspace)] == []


def opened(workspace, seconds_ago: float) -> Path:
    """A live session of this process, without a row."""
    path = sessions_folder(workspace) / "client.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    announced = Announced(
        session="client",
        source="live",
        instrument="simulator:SIM",
        started_ns=time.time_ns() - int(seconds_ago * NS),
        model="toy",
        parent=Process.this(),
    )
    path.write_bytes(msgspec.json.encode(announced))
    return path


def test_no_client_is_no_alarm_and_rows_that_stop_are(workspace):
    assert monitor(workspace).reason == "nothing serves"
    promoted(workspace, 0.3)
    assert monitor(workspace).reason == "it was asked about no row"
    opened(workspace, 4000)
    assert monitor(workspace).reason == "it was asked about no row"
    assert alerts.read(workspace) == []
    active = Repository.of(workspace).active("toy")
    for seed, last_s, states in ((0, 100, ["firing"]), (1, 1, ["firing", "resolved"])):
        start_ns = time.time_ns() - (3600 + last_s) * NS
        traffic(workspace, ("toy", active), first=("toy", 1), start_ns=start_ns, worse_by=0.0, seed=seed)
        for _ in range(2):
            monitor(workspace)
        raised = alerts.read(workspace)
        assert {(alert.name, alert.about) for alert in raised} == {(alerts.NO_PREDICTIONS, "toy")}
        assert [alert.state for alert in raised] == states


def test_monitors_may_overlap(workspace):
    promoted(workspace, 0.3)
    with hold_lease(workspace.monitor_lease, "monitor toy", ttl_s=30, wait_s=0):
        result = monitor(workspace)
    assert result.decision is None
    assert "monitor toy" in result.reason


def test_what_a_rollback_kept_from_being_done_is_done_after_it(workspace, monkeypatch):
    """A rollback waits for no other writer: it seizes the lease, and that writer is refused at its next step."""
    import lobsmith.pipelines.reconcile as flow

    version = register(workspace, candidate(workspace, 0.3))
    point_alias(workspace, CHAMPION, version)
    seized = []

    def seize(step):
        if step == CrashPoint.STAGED and not seized:
            with hold_lease(workspace.lease, "roll back toy", ttl_s=30, wait_s=0, seize=True) as lease:
                seized.append(lease.token)

    follow = flow.follow
    monkeypatch.setattr(
        flow, "follow", lambda release, *rest, **named: follow(replace(release, note=seize), *rest, **named)
    )
    result = flow.reconcile(str(workspace.root), SHORT)
    assert len(seized) == 1
    assert Repository.of(workspace).active("toy") == result.active == result.promoted


def test_a_version_that_goes_while_it_is_read_is_no_failure(workspace, monkeypatch):
    import lobsmith.pipelines.monitor as flow

    promoted(workspace, 0.3)

    def gone(*_arguments, **_named):
        rollback(Release(workspace, params(workspace)), "toy", reason="accuracy")
        raise DataError("reference.safetensors: missing")

    opened(workspace, 60)
    for scale, name, judged in ((0.4, "evaluate_active", monitor), (0.5, "check_drift", check)):
        promoted(workspace, scale)
        monkeypatch.setattr(flow, name, gone)
        assert "was rolled back or retired while it was read" in judged(workspace).reason
    assert alerts.NO_CHECK not in [alert.name for alert in alerts.firing(workspace)]


def test_a_version_that_goes_before_its_plans_are_built_is_no_failure(workspace, monkeypatch):
    import lobsmith.pipelines.reconcile as flow

    promoted(workspace, 0.3)
    point_alias(workspace, CHAMPION, register(workspace, candidate(workspace, 0.4)))
    follow = flow.follow

    def taken_back_at_once(release, *rest, **named):
        done = follow(release, *rest, **named)
        rollback(release, "toy", reason="accuracy")
        return done

    monkeypatch.setattr(flow, "follow", taken_back_at_once)
    done = flow.reconcile(str(workspace.root), SHORT)
    assert done.promoted is not None
    assert Repository.of(workspace).active("toy") < done.promoted


def test_a_version_replaced_before_its_rollback_raises_no_alert(workspace):
    """Another version was promoted between the verdict and the rollback, which then had nothing to do."""
    from lobsmith.pipelines.monitor import alert

    promoted(workspace, 0.3)
    repository = Repository.of(workspace)
    active = repository.verify("toy", repository.active("toy"))
    back = RolledBack(model="toy", version_from=None, version_to=active.version + 1, quarantined=())
    alert.fn(workspace, params(workspace), active, 1, verdict(ROLL_BACK), back, LIVE)
    assert alerts.firing(workspace) == []


def test_a_version_without_its_score_is_an_alert_until_it_has_it(workspace):
    from lobsmith.pipelines.reconcile import follow_the_registry

    occupied = Repository.of(workspace).config_path("toy_drift")
    occupied.parent.mkdir(parents=True)
    occupied.write_text('name: "toy_drift"')
    point_alias(workspace, CHAMPION, register(workspace, candidate(workspace, 0.3, scored=True)))
    result = follow_the_registry.fn(workspace, params(workspace), "reconcile flow")
    assert result.promoted == result.active
    [alert] = alerts.firing(workspace)
    assert (alert.name, alert.about) == (alerts.NO_SCORE, "toy")
    shutil.rmtree(occupied.parent)
    assert follow_the_registry.fn(workspace, params(workspace), "reconcile flow", retry=True).unscored == {}
    assert alerts.firing(workspace) == []


def check(workspace, **changes):
    from lobsmith.pipelines.monitor import drift as flow

    return flow(str(workspace.root), SHORT | changes)


def test_a_check_where_nothing_serves_sets_no_mode(workspace):
    result = check(workspace)
    assert (result.mode, result.reason) == (None, "nothing serves")
    assert read_mode(workspace, "toy") is None


def test_two_checks_at_once_are_one(workspace):
    promoted(workspace, 0.3)
    with hold_lease(workspace.drift_lease, "the test", ttl_s=30, wait_s=0):
        result = check(workspace)
    assert result.mode is None
    assert "the test" in result.reason
    assert read_mode(workspace, "toy") is None


def test_an_idle_install_stays_normal_and_its_record_fresh(workspace):
    promoted(workspace, 0.3)
    for _ in range(2):
        before_ns = time.time_ns()
        result = check(workspace)
        assert (result.mode, result.reason, result.checks, result.page) == (
            "normal",
            "idle: no client is connected",
            (),
            None,
        )
        record = read_mode(workspace, "toy")
        assert record.looked_ns >= before_ns
        assert str(record.state) == result.reason
    assert alerts.read(workspace) == []
    assert len(changes(workspace, "toy")) == 1


@pytest.mark.slow
def test_a_client_that_has_only_begun_changes_nothing(workspace):
    promoted(workspace, 0.3)
    opened(workspace, 10)
    result = check(workspace)
    assert (result.mode, str(read_mode(workspace, "toy").state)[:8]) == ("normal", "starting")
    assert {verdict.finding for verdict in result.checks[0].verdicts} == {Finding.INSUFFICIENT}
    assert alerts.read(workspace) == []


@pytest.mark.slow
def test_a_check_without_rows_is_an_alarm_with_a_page_and_asks_for_no_retrain(workspace):
    promoted(workspace, 0.3)
    session = opened(workspace, 3600)
    result = check(workspace)
    assert result.mode == "conservative", result
    assert {verdict.finding for verdict in result.checks[0].verdicts} <= {Finding.MISSING, Finding.INSUFFICIENT}
    assert result.retrain is None
    assert Path(result.page).is_file()
    assert [alert.name for alert in alerts.firing(workspace)] == [alerts.NO_ROWS]
    # The client ends in order: the mode stays, and there is no more to be alarmed about.
    session.unlink()
    assert check(workspace).reason == "idle: no client is connected"
    assert alerts.firing(workspace) == []
    assert read_mode(workspace, "toy").mode == "conservative"


def test_a_check_that_fails_is_an_alarm(workspace):
    promoted(workspace, 0.3)
    log_path(workspace, "toy").parent.mkdir(parents=True, exist_ok=True)
    log_path(workspace, "toy").write_bytes(b"no log at all" * 1000)
    with pytest.raises(PredictionLogError, match=r"toy\.db"):
        check(workspace)
    [alert] = alerts.firing(workspace)
    assert alert.name == alerts.NO_CHECK
    assert "toy.db" in alert.message
