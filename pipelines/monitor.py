"""Monitoring flows of the model in service.

`monitor`, every minute, compares the active version with its fallback on the same live rows and rolls back on a drop.
`drift`, every few minutes, checks drift, sets the mode and requests retrains. Each has its own lease; they may overlap.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from httpx import HTTPError
from msgspec import Struct, field
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException

from lobsmith import clock
from lobsmith.drift.verdict import DriftCheck
from lobsmith.errors import LobsmithError, VersionGoneError
from lobsmith.lease import unless_held
from lobsmith.monitoring import alerts
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.check import StreamCheck, check_drift, combine
from lobsmith.monitoring.drift.report import Reported, link_to_run, report_check
from lobsmith.monitoring.live_evaluation import LIVE, LiveEvaluation, Sources, evaluate_active
from lobsmith.monitoring.log.retention import expire
from lobsmith.monitoring.log.writer import log_path
from lobsmith.monitoring.mode.hit_rates import count_hits
from lobsmith.monitoring.mode.store import ModeUpdate, alert_mode, apply, forget_retrain, wait
from lobsmith.monitoring.state import State, StateName, alert_connections, connected, state_after
from lobsmith.online.evidence import ROLL_BACK, LiveVerdict
from lobsmith.params import Params, load_params
from lobsmith.pipelines.reconcile import follow_the_registry
from lobsmith.pipelines.shadow import as_markdown, landing_link
from lobsmith.progress import console, stage
from lobsmith.release.context import Release
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import RolledBack, rollback
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.serving.running_server import running_server
from lobsmith.workspace import Workspace

LONGEST_S = 600
"""A longer run is ended; the next one evaluates again."""
ACTOR, DRIFT_FLOW = "monitor flow", "drift flow"
NO_ROW = "it was asked about no row"
_NO_ALARM = (StateName.STARTING, StateName.IDLE)


LONGEST_CHECK_S = 240
"""A longer drift check is ended: the next one is due by then."""
RETRAIN = "retrain/every-six-hours"
"""The deployment that a retrain request runs."""


class Monitored(Struct, frozen=True, kw_only=True):
    """Result of the monitor flow; without a decision it has a `reason`."""

    model: str
    active: int | None
    fallback: int | None
    decision: str | None
    reason: str
    rolled_back: RolledBack | None = None
    verdict: LiveVerdict | None = None


@task(name="judge the active version")
def evaluate(workspace: Workspace, params: Params, active: Manifest, sources: Sources) -> LiveEvaluation | None:
    """Compare the active version with its fallback since the promotion."""
    with stage("judge the active version") as note:
        evaluation = evaluate_active(
            workspace,
            params,
            active.model,
            active=active.version,
            fallback=partial(Repository.of(workspace).fallback, active.model),
            since_ns=active.created_ns,
            now_ns=clock.now_ns(),
            sources=sources,
            was_trained_on=active.was_trained_on,
        )
        note(NO_ROW if evaluation is None else f"{evaluation.verdict.decision}: {evaluation.verdict.reason}")
    return None if evaluation is None else evaluation._replace(compared=None)


@task(name="roll back")
def roll_back(workspace: Workspace, params: Params, bad: int, to: int, verdict: LiveVerdict) -> RolledBack:
    """Roll back to the fallback; the repository first, which does not need MLflow."""
    with stage("roll back") as note:
        release = Release(workspace, params, running_server(workspace, params), ACTOR)
        verdicts = (verdict.as_verdict(),)
        rolled_back = rollback(release, params.model.name, to=to, bad=bad, reason=verdict.reason, verdicts=verdicts)
        note(f"from {rolled_back.version_from} to {rolled_back.version_to}")
        return rolled_back


@task(name="delete expired predictions")
def forget(workspace: Workspace, params: Params) -> None:
    """Delete expired predictions."""
    path = log_path(workspace, params.model.name)
    if path.exists():
        expire(path, params.prediction_log, raw_keep_days=params.drift.raw_keep_days)


@task(name="alert")
def alert(
    workspace: Workspace,
    params: Params,
    active: Manifest,
    fallback: int | None,
    verdict: LiveVerdict | None,
    rolled_back: RolledBack | None,
    sources: Sources,
) -> None:
    """Fire and resolve alerts. Stopped rows have one of their own; no connected client is none."""
    model = active.model
    now_ns = clock.now_ns()
    connections = connected(workspace, params, active, now_ns=now_ns, sources=sources)
    alert_connections(workspace, active, connections, now_ns)
    # Few rows are no alarm of a client that has just connected, or has ended.
    young, idle = (tuple(sources) == tuple(LIVE) and connections.state.name is name for name in _NO_ALARM)
    if verdict is not None and verdict.alarms and not (young or idle):
        alerts.fire(workspace, alerts.LIMITS, model, "; ".join(verdict.alarms))
    elif (verdict is not None and not young) or idle:
        alerts.resolve(workspace, alerts.LIMITS, model)
    if verdict is not None and verdict.decision == ROLL_BACK:
        if fallback is None:
            message = f"version {active.version} has no fallback: {verdict.reason}"
            alerts.fire(workspace, alerts.CANNOT_ROLL_BACK, model, message)
        elif rolled_back is not None and rolled_back.version_from is not None:
            message = f"version {active.version} was taken back: {verdict.reason}"
            alerts.fire(workspace, alerts.ROLLED_BACK, model, message)
        return
    alerts.resolve(workspace, alerts.CANNOT_ROLL_BACK, model)
    last = [firing for firing in alerts.firing(workspace) if (firing.name, firing.about) == (alerts.ROLLED_BACK, model)]
    if last and active.created_ns > last[-1].time_ns:
        alerts.resolve(workspace, alerts.ROLLED_BACK, model, f"version {active.version} was promoted since")


@flow(name="monitor", log_prints=False, timeout_seconds=LONGEST_S)
def monitor(root: str = ".", overrides: Mapping[str, Any] | None = None, sources: Sequence[str] = LIVE) -> Monitored:
    """Evaluate the active version on live rows; roll it back on a drop.

    Args:
        root: the project's folder, with `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
        sources: which sessions of the prediction log count: live, replay, demo.
    """
    workspace = Workspace.open(Path(root))
    params = load_params(workspace.params, overrides)
    model = params.model.name
    with unless_held(workspace.monitor_lease, f"monitor {model}", ttl_s=params.reconcile.lease_s) as held:
        if held is not None:
            return Monitored(model=model, active=None, fallback=None, decision=None, reason=held)
        return watch(workspace, params, sources)


def watch(workspace: Workspace, params: Params, sources: Sources) -> Monitored:
    """Run the flow under its lease."""
    model, repository = params.model.name, Repository.of(workspace)
    version = repository.active(model)
    if version is None:
        return Monitored(model=model, active=None, fallback=None, decision=None, reason="nothing serves")
    try:
        with repository.reading(model, version):
            # Read without verification, which is not this flow's.
            active = read_manifest(repository.directory(model, version))
            evaluation = evaluate(workspace, params, active, sources)
    except VersionGoneError as error:
        return Monitored(model=model, active=None, fallback=None, decision=None, reason=str(error))
    verdict, fallback = (evaluation.verdict, evaluation.fallback) if evaluation else (None, None)
    rolled_back = None
    if verdict is not None:
        create_markdown_artifact(
            key="monitor", markdown=as_markdown(verdict, landing_link(workspace)), description=f"{model} {version}"
        )
        if verdict.decision == ROLL_BACK and fallback is not None:
            try:
                rolled_back = roll_back(workspace, params, version, fallback, verdict)
            except LobsmithError as error:
                alerts.fire(workspace, alerts.CANNOT_ROLL_BACK, model, f"version {version}: {error}")
                raise
    alert(workspace, params, active, fallback, verdict, rolled_back, sources)
    forget(workspace, params)
    if rolled_back is not None:
        move_alias(workspace, params)
    return Monitored(
        model=model,
        active=repository.active(model),
        fallback=repository.fallback(model),
        decision=None if verdict is None else verdict.decision,
        reason=NO_ROW if verdict is None else verdict.reason,
        rolled_back=rolled_back,
        verdict=verdict,
    )


def move_alias(workspace: Workspace, params: Params) -> None:
    """Move the alias after a rollback; where that fails now, the reconcile flow does it later."""
    try:
        follow_the_registry(workspace, params, ACTOR)
    except LobsmithError as error:
        console.print(f"the alias does not follow yet: {error}")


class DriftOutcome(Struct, frozen=True, kw_only=True):
    """Result of the drift flow; without a mode nothing was checked, for the `reason`.

    `retrain` is the outcome of a retrain request, `page` the report.
    """

    model: str
    mode: str | None
    reason: str
    checks: tuple[DriftCheck, ...] = field(default=(), name="looks")
    retrain: str | None = None
    page: str | None = None


@task(name="check drift")
def check(
    workspace: Workspace,
    params: Params,
    active: Manifest,
    sources: Sources,
    opened: dict[str, int] | None,
) -> list[StreamCheck]:
    """Compare live rows, answers and losses with the active version's reference, stream by stream."""
    with stage("check drift") as note:
        checks = check_drift(
            workspace,
            params,
            active,
            partial(Repository.of(workspace).fallback, active.model),
            now_ns=clock.now_ns(),
            before=history.read(workspace, active.model),
            sources=sources,
            opened=opened,
        )
        findings = (
            f"{stream.check.instrument}: {verdict.kind}: {verdict.finding}"
            for stream in checks
            for verdict in stream.check.verdicts
        )
        note("; ".join(findings))
        return checks


@task(name="set the mode")
def set_mode(
    workspace: Workspace, params: Params, checked: DriftCheck, sources: Sources, state: State | None
) -> ModeUpdate:
    """Apply the combined check of all streams."""
    with stage("set the mode") as note:
        rates = count_hits(workspace, params.modes, checked.model, checked.version, sources)
        change = apply(workspace, params, checked, rates, DRIFT_FLOW, state=state)
        note(f"{change.after.mode}: {change.after.reason}")
        return change


@task(name="request a retrain")
def request_retrain(workspace: Workspace, model: str, reason: str) -> str:
    """Run the retrain deployment, or fire an alert with the command to run."""
    try:
        run = cast(FlowRun, run_deployment(RETRAIN, timeout=0, as_subflow=False, tags=["drift"]))
    except (PrefectException, HTTPError) as error:
        forget_retrain(workspace, model)
        why = "is not deployed" if isinstance(error, ObjectNotFound) else f"cannot be run ({type(error).__name__})"
        message = f"drift asks for a retrain and {RETRAIN} {why}: start lobsmith up, or run lobsmith retrain"
        alerts.fire(workspace, alerts.RETRAIN_WANTED, model, message)
        return message
    alerts.resolve(workspace, alerts.RETRAIN_WANTED, model)
    console.print(f"retrain {run.name} was opened: {reason}", markup=False)
    return f"opened as {run.name}"


@task(name="report drift")
def report(workspace: Workspace, params: Params, stream: StreamCheck, active: Manifest) -> Reported | None:
    """Write the check's reports; link them from this run and the version's."""
    with stage("report drift") as note:
        try:
            reported = report_check(workspace, params, stream)
        except LobsmithError as error:
            # The report may be late or missing: the mode was set before.
            note(f"no report of this check: {error}")
            return None
        create_markdown_artifact(
            key="drift", markdown=reported.as_markdown(workspace), description=f"{active.model} {active.version}"
        )
        failure = link_to_run(workspace, reported, stream.check, active.mlflow_run_id)
        note("; ".join(filter(None, (reported.headline, str(reported.page), failure))))
        return reported


@flow(name="drift", log_prints=False, timeout_seconds=LONGEST_CHECK_S)
def drift(root: str = ".", overrides: Mapping[str, Any] | None = None, sources: Sequence[str] = LIVE) -> DriftOutcome:
    """Check drift; set the mode, request a retrain, report.

    Args:
        root: the project's folder, with `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
        sources: which sessions of the prediction log count: live, replay, demo.
    """
    workspace = Workspace.open(Path(root))
    params = load_params(workspace.params, overrides)
    model = params.model.name
    with unless_held(workspace.drift_lease, f"drift check of {model}", ttl_s=params.reconcile.lease_s) as held:
        if held is not None:
            return DriftOutcome(model=model, mode=None, reason=held)
        try:
            drifted = check_and_act(workspace, params, sources)
        except VersionGoneError as error:
            return DriftOutcome(model=model, mode=None, reason=str(error))
        except LobsmithError as error:
            # The mode's heartbeat ages meanwhile, and clients turn conservative by themselves.
            alerts.fire(workspace, alerts.NO_CHECK, model, str(error))
            raise
        alerts.resolve(workspace, alerts.NO_CHECK, model)
        return drifted


def check_and_act(workspace: Workspace, params: Params, sources: Sources) -> DriftOutcome:
    """Run the flow under its lease."""
    model, repository = params.model.name, Repository.of(workspace)
    version = repository.active(model)
    if version is None:
        return DriftOutcome(model=model, mode=None, reason="nothing serves")
    with repository.reading(model, version):
        active = read_manifest(repository.directory(model, version), repository.trust)
    live = tuple(sources) == tuple(LIVE)
    connections = connected(workspace, params, active, now_ns=clock.now_ns(), sources=sources)
    if live and not connections.opened:
        return keep_mode(workspace, active, connections.state)
    with repository.reading(model, version):
        checks = check(workspace, params, active, sources, connections.opened if live else None)
    if not checks:
        return DriftOutcome(
            model=model, mode=None, reason=f"{model} {version} names no instrument that it was trained on"
        )
    if repository.active(model) != version:
        return DriftOutcome(model=model, mode=None, reason=f"{model} {version} was replaced during the check")
    state = state_after(connections, [stream.check for stream in checks], params.drift.past_pairs) if live else None
    return act_on_drift(workspace, params, active, checks, sources, state)


def keep_mode(workspace: Workspace, active: Manifest, state: State) -> DriftOutcome:
    """Keep the mode while there is nothing to check, and its heartbeat fresh."""
    change = wait(workspace, active.model, active.version, state, DRIFT_FLOW, clock.now_ns())
    alerts.resolve(workspace, alerts.NO_ROWS, active.model, str(state))
    return DriftOutcome(model=active.model, mode=change.after.mode, reason=str(state))


def act_on_drift(
    workspace: Workspace,
    params: Params,
    active: Manifest,
    checks: list[StreamCheck],
    sources: Sources,
    state: State | None,
) -> DriftOutcome:
    """Act on a check: the mode first, which clients wait for."""
    change = set_mode(workspace, params, combine(checks), sources, state)
    retrain = request_retrain(workspace, active.model, change.after.reason) if change.retrain else None
    alert_mode(workspace, change)
    reports = [report(workspace, params, stream, active) for stream in checks]
    return DriftOutcome(
        model=active.model,
        mode=change.after.mode,
        reason=change.after.reason,
        checks=tuple(stream.check for stream in checks),
        retrain=retrain,
        page=str(reports[0].page) if reports[0] is not None else None,
    )
