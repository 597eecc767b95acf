"""What is in service, watched: against its fallback every minute, and for drift every few.

`monitor` compares the active version with its fallback on the same live rows, and goes back to that one on a drop.
`drift` compares live rows, answers and losses with what the version has learnt and with what is usual, sets the mode
that clients keep to, and asks for a retrain. Each has a lease of its own and may overlap with the other.
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
from lobsmith.monitoring.drift.check import StreamCheck, check_drift, together
from lobsmith.monitoring.drift.report import Reported, link_to_run, report_check
from lobsmith.monitoring.live_evaluation import LIVE, LiveEvaluation, Sources, evaluate_active
from lobsmith.monitoring.log.retention import expire
from lobsmith.monitoring.log.writer import log_path
from lobsmith.monitoring.mode.hit_rates import count_hits
from lobsmith.monitoring.mode.store import ModeUpdate, alert_mode, apply, forget_retrain, wait
from lobsmith.monitoring.state import State, StateName, alert_connections, connected, state_after
from lobsmith.online.evidence import ROLL_BACK, LiveVerdict
from lobsmith.params import Params, load_params
from lobsmith.progress import console, stage
from lobsmith.release.context import Release
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import RolledBack, rollback
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.serving.running import running_server
from lobsmith.workspace import Workspace
from pipelines.reconcile import follow_the_registry
from pipelines.shadow import as_markdown

LONGEST_S = 600
"""A run that takes longer is ended; the next one judges again."""
WHO, DRIFT_FLOW = "monitor flow", "drift flow"
NO_ROW = "it was asked about no row"
_NO_ALARM = (StateName.STARTING, StateName.IDLE)


LONGEST_LOOK_S = 240
"""A look for drift that takes longer is ended: the next one is due by then."""
RETRAIN = "retrain/every-six-hours"
"""The deployment that drift opens a run of."""


class Monitored(Struct, frozen=True, kw_only=True):
    """What came of one look at the active version; without a decision there was nothing to judge, and why."""

    model: str
    active: int | None
    fallback: int | None
    decision: str | None
    reason: str
    rolled_back: RolledBack | None = None
    verdict: LiveVerdict | None = None


@task(name="judge the active version")
def judge(workspace: Workspace, params: Params, active: Manifest, sources: Sources) -> LiveEvaluation | None:
    """Compare what both answered since the promotion."""
    with stage("judge the active version") as note:
        judged = evaluate_active(
            workspace,
            params,
            active.model,
            active=active.version,
            fallback=partial(Repository.of(workspace).fallback, active.model),
            since_ns=active.created_ns,
            now_ns=clock.now_ns(),
            sources=sources,
            has_learnt=active.has_learnt,
        )
        note(NO_ROW if judged is None else f"{judged.verdict.decision}: {judged.verdict.reason}")
    return None if judged is None else judged._replace(compared=None)


@task(name="roll back")
def roll_back(workspace: Workspace, params: Params, bad: int, to: int, verdict: LiveVerdict) -> RolledBack:
    """Go back to the fallback; the repository first, which does not need MLflow."""
    with stage("roll back") as note:
        release = Release(workspace, params, running_server(workspace, params), WHO)
        said = (verdict.as_verdict(),)
        done = rollback(release, params.model.name, to=to, bad=bad, reason=verdict.reason, verdicts=said)
        note(f"from {done.version_from} to {done.version_to}")
        return done


@task(name="forget old predictions")
def forget(workspace: Workspace, params: Params) -> None:
    """Delete what is older than the log keeps."""
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
    done: RolledBack | None,
    sources: Sources,
) -> None:
    """Raise and resolve alerts. Rows that have stopped are one of their own; that no client is connected is none."""
    model = active.model
    now_ns = clock.now_ns()
    seen = connected(workspace, params, active, now_ns=now_ns, sources=sources)
    alert_connections(workspace, active, seen, now_ns)
    # Few rows are no alarm of a client that has only begun, or has ended.
    young, idle = (tuple(sources) == tuple(LIVE) and seen.state.name is one for one in _NO_ALARM)
    if verdict is not None and verdict.alarms and not (young or idle):
        alerts.fire(workspace, alerts.LIMITS, model, "; ".join(verdict.alarms))
    elif (verdict is not None and not young) or idle:
        alerts.resolve(workspace, alerts.LIMITS, model)
    if verdict is not None and verdict.decision == ROLL_BACK:
        if fallback is None:
            message = f"version {active.version} has no fallback: {verdict.reason}"
            alerts.fire(workspace, alerts.CANNOT_ROLL_BACK, model, message)
        elif done is not None and done.version_from is not None:
            message = f"version {active.version} was taken back: {verdict.reason}"
            alerts.fire(workspace, alerts.ROLLED_BACK, model, message)
        return
    alerts.resolve(workspace, alerts.CANNOT_ROLL_BACK, model)
    last = [one for one in alerts.firing(workspace) if (one.name, one.about) == (alerts.ROLLED_BACK, model)]
    if last and active.created_ns > last[-1].time_ns:
        alerts.resolve(workspace, alerts.ROLLED_BACK, model, f"version {active.version} was promoted since")


@flow(name="monitor", log_prints=False, timeout_seconds=LONGEST_S)
def monitor(root: str = ".", overrides: Mapping[str, Any] | None = None, sources: Sequence[str] = LIVE) -> Monitored:
    """Judge the active version on live rows; roll it back on a drop, and say so.

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
    """Do what the flow does, once nobody else does it."""
    model, repository = params.model.name, Repository.of(workspace)
    version = repository.active(model)
    if version is None:
        return Monitored(model=model, active=None, fallback=None, decision=None, reason="nothing serves")
    try:
        with repository.reading(model, version):
            # Only read: what it answers is judged here, and what is on the disk elsewhere.
            active = read_manifest(repository.directory(model, version))
            judged = judge(workspace, params, active, sources)
    except VersionGoneError as error:
        return Monitored(model=model, active=None, fallback=None, decision=None, reason=str(error))
    verdict, fallback = (judged.verdict, judged.fallback) if judged else (None, None)
    done = None
    if verdict is not None:
        create_markdown_artifact(key="monitor", markdown=as_markdown(verdict), description=f"{model} {version}")
        if verdict.decision == ROLL_BACK and fallback is not None:
            try:
                done = roll_back(workspace, params, version, fallback, verdict)
            except LobsmithError as error:
                alerts.fire(workspace, alerts.CANNOT_ROLL_BACK, model, f"version {version}: {error}")
                raise
    alert(workspace, params, active, fallback, verdict, done, sources)
    forget(workspace, params)
    if done is not None:
        complete(workspace, params)
    return Monitored(
        model=model,
        active=repository.active(model),
        fallback=repository.fallback(model),
        decision=None if verdict is None else verdict.decision,
        reason=NO_ROW if verdict is None else verdict.reason,
        rolled_back=done,
        verdict=verdict,
    )


def complete(workspace: Workspace, params: Params) -> None:
    """Have the alias follow a rollback; where that is not possible now, the reconcile flow does it later."""
    try:
        follow_the_registry(workspace, params, WHO)
    except LobsmithError as error:
        console.print(f"the alias does not follow yet: {error}")


class Drifted(Struct, frozen=True, kw_only=True):
    """What came of one look for drift; without a mode nothing was looked at, and why.

    `retrain` says what became of a retrain that drift has asked for, `page` is the report.
    """

    model: str
    mode: str | None
    reason: str
    checks: tuple[DriftCheck, ...] = field(default=(), name="looks")
    retrain: str | None = None
    page: str | None = None


@task(name="look for drift")
def check(
    workspace: Workspace,
    params: Params,
    active: Manifest,
    sources: Sources,
    opened: dict[str, int] | None,
) -> list[StreamCheck]:
    """Compare live rows, answers and losses with what the active version has learnt, stream by stream."""
    with stage("look for drift") as note:
        found = check_drift(
            workspace,
            params,
            active,
            partial(Repository.of(workspace).fallback, active.model),
            now_ns=clock.now_ns(),
            before=history.read(workspace, active.model),
            sources=sources,
            opened=opened,
        )
        words = (f"{one.check.instrument}: {kind.kind}: {kind.finding}" for one in found for kind in one.check.verdicts)
        note("; ".join(words))
        return found


@task(name="set the mode")
def set_the_mode(
    workspace: Workspace, params: Params, found: DriftCheck, sources: Sources, state: State | None
) -> ModeUpdate:
    """Take what was found of all streams into account."""
    with stage("set the mode") as note:
        rates = count_hits(workspace, params.modes, found.model, found.version, sources)
        change = apply(workspace, params, found, rates, DRIFT_FLOW, state=state)
        note(f"{change.after.mode}: {change.after.reason}")
        return change


@task(name="ask for a retrain")
def ask_for_a_retrain(workspace: Workspace, model: str, reason: str) -> str:
    """Open a run of the retrain deployment; where there is none, say who has to."""
    try:
        run = cast(FlowRun, run_deployment(RETRAIN, timeout=0, as_subflow=False, tags=["drift"]))
    except (PrefectException, HTTPError) as error:
        forget_retrain(workspace, model)
        why = "is not deployed" if isinstance(error, ObjectNotFound) else f"cannot be run ({type(error).__name__})"
        words = f"drift asks for a retrain and {RETRAIN} {why}: start lobsmith up, or run lobsmith retrain"
        alerts.fire(workspace, alerts.RETRAIN_WANTED, model, words)
        return words
    alerts.resolve(workspace, alerts.RETRAIN_WANTED, model)
    console.print(f"retrain {run.name} was opened: {reason}", markup=False)
    return f"opened as {run.name}"


@task(name="report drift")
def report(workspace: Workspace, params: Params, found: StreamCheck, active: Manifest) -> Reported | None:
    """Keep the look, its page and Evidently's report; link them from this run and from the version's."""
    with stage("report drift") as note:
        try:
            done = report_check(workspace, params, found)
        except LobsmithError as error:
            # What was found may be shown late or never; what follows from it was done before.
            note(f"no report of this look: {error}")
            return None
        create_markdown_artifact(
            key="drift", markdown=done.as_markdown(), description=f"{active.model} {active.version}"
        )
        missed = link_to_run(workspace, done, found.check, active.mlflow_run_id)
        note("; ".join(filter(None, (done.headline, str(done.page), missed))))
        return done


@flow(name="drift", log_prints=False, timeout_seconds=LONGEST_LOOK_S)
def drift(root: str = ".", overrides: Mapping[str, Any] | None = None, sources: Sequence[str] = LIVE) -> Drifted:
    """Look for drift; set the mode, ask for a retrain, report.

    Args:
        root: the project's folder, with `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
        sources: which sessions of the prediction log count: live, replay, demo.
    """
    workspace = Workspace.open(Path(root))
    params = load_params(workspace.params, overrides)
    model = params.model.name
    with unless_held(workspace.drift_lease, f"look for drift of {model}", ttl_s=params.reconcile.lease_s) as held:
        if held is not None:
            return Drifted(model=model, mode=None, reason=held)
        try:
            seen = look_and_act(workspace, params, sources)
        except VersionGoneError as error:
            return Drifted(model=model, mode=None, reason=str(error))
        except LobsmithError as error:
            # The mode's record grows old meanwhile, and clients turn careful by themselves.
            alerts.fire(workspace, alerts.NO_LOOK, model, str(error))
            raise
        alerts.resolve(workspace, alerts.NO_LOOK, model)
        return seen


def look_and_act(workspace: Workspace, params: Params, sources: Sources) -> Drifted:
    """Do what the flow does, once nobody else does it."""
    model, repository = params.model.name, Repository.of(workspace)
    version = repository.active(model)
    if version is None:
        return Drifted(model=model, mode=None, reason="nothing serves")
    with repository.reading(model, version):
        active = read_manifest(repository.directory(model, version), repository.trust)
    live = tuple(sources) == tuple(LIVE)
    seen = connected(workspace, params, active, now_ns=clock.now_ns(), sources=sources)
    if live and not seen.opened:
        return rest(workspace, active, seen.state)
    with repository.reading(model, version):
        found = check(workspace, params, active, sources, seen.opened if live else None)
    if not found:
        return Drifted(model=model, mode=None, reason=f"{model} {version} names no instrument that it was trained on")
    if repository.active(model) != version:
        return Drifted(model=model, mode=None, reason=f"{model} {version} was replaced during the look")
    state = state_after(seen, [one.check for one in found], params.drift.past_pairs) if live else None
    return act_on_drift(workspace, params, active, found, sources, state)


def rest(workspace: Workspace, active: Manifest, state: State) -> Drifted:
    """Keep the mode while there is nothing to look at, and its record fresh for clients that connect later."""
    change = wait(workspace, active.model, active.version, state, DRIFT_FLOW, clock.now_ns())
    alerts.resolve(workspace, alerts.NO_ROWS, active.model, str(state))
    return Drifted(model=active.model, mode=change.after.mode, reason=str(state))


def act_on_drift(
    workspace: Workspace,
    params: Params,
    active: Manifest,
    found: list[StreamCheck],
    sources: Sources,
    state: State | None,
) -> Drifted:
    """Do what follows from a look: the mode first, which clients wait for."""
    change = set_the_mode(workspace, params, together(found), sources, state)
    retrain = ask_for_a_retrain(workspace, active.model, change.after.reason) if change.retrain else None
    alert_mode(workspace, change)
    reports = [report(workspace, params, one, active) for one in found]
    return Drifted(
        model=active.model,
        mode=change.after.mode,
        reason=change.after.reason,
        checks=tuple(one.check for one in found),
        retrain=retrain,
        page=str(reports[0].page) if reports[0] is not None else None,
    )
