"""The monitor flow: the active version beside its fallback on the same live rows, and back to that one on a drop."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from lobsmith.errors import LeaseError, LobsmithError
from lobsmith.gates.live_verdict import ROLL_BACK, LiveVerdict
from lobsmith.lease import hold_lease
from lobsmith.monitoring import alerts
from lobsmith.monitoring.judged import LIVE, Sources, judge_in_service, last_asked_ns
from lobsmith.monitoring.prediction_log import log_path
from lobsmith.monitoring.retention import expire
from lobsmith.params import Params, load_params
from lobsmith.progress import console, stage
from lobsmith.release.manifest import Manifest, read_manifest
from lobsmith.release.repository import Repository
from lobsmith.release.rollback import RolledBack, rollback
from lobsmith.serving.running import running_server
from lobsmith.workspace import Workspace
from pipelines.reconcile import follow_the_registry
from pipelines.shadow import as_markdown

LONGEST_S = 600
"""A run that takes longer is ended; the next one judges again."""
WHO = "monitor flow"


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
def judge(
    workspace: Workspace, params: Params, active: Manifest, fallback: int | None, sources: Sources
) -> LiveVerdict | None:
    """Compare what both answered since the promotion."""
    with stage("judge the active version") as note:
        judged = judge_in_service(
            workspace,
            params,
            active.model,
            active=active.version,
            fallback=fallback,
            since_ns=active.created_ns,
            now_ns=time.time_ns(),
            sources=sources,
        )
        note("it was asked about no row" if judged is None else f"{judged.verdict.decision}: {judged.verdict.reason}")
    return None if judged is None else judged.verdict


@task(name="roll back")
def roll_back(workspace: Workspace, params: Params, bad: int, verdict: LiveVerdict) -> RolledBack:
    """Go back to the fallback; the repository first, which does not need MLflow."""
    with stage("roll back") as note:
        done = rollback(
            workspace,
            params,
            params.model.name,
            bad=bad,
            server=running_server(workspace, params),
            who=WHO,
            reason=verdict.reason,
            verdicts=(verdict.as_verdict(),),
        )
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
    """Raise and resolve alerts. No data is one of its own: nothing is known then, which is not the same as fine."""
    model = active.model
    asked_ns = last_asked_ns(workspace, model, active.version, sources)
    age_s = None if asked_ns is None else (time.time_ns() - asked_ns) / 1e9
    if age_s is None or age_s > params.rollback.window_s:
        when = "never" if age_s is None else f"{age_s:.0f} s ago"
        alerts.fire(
            workspace, alerts.NO_PREDICTIONS, model, f"version {active.version} was asked {when}, as far as logged"
        )
    else:
        alerts.resolve(workspace, alerts.NO_PREDICTIONS, model)
    if verdict is not None and verdict.alarms:
        alerts.fire(workspace, alerts.LIMITS, model, "; ".join(verdict.alarms))
    elif verdict is not None:
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
    workspace = Workspace(Path(root).resolve())
    params = load_params(workspace.params, overrides)
    model = params.model.name
    with ExitStack() as stack:
        try:
            stack.enter_context(
                hold_lease(workspace.monitor_lease, f"monitor {model}", ttl_s=params.reconcile.lease_s, wait_s=0.0)
            )
        except LeaseError as error:
            return Monitored(model=model, active=None, fallback=None, decision=None, reason=str(error))
        return watch(workspace, params, sources)


def watch(workspace: Workspace, params: Params, sources: Sources) -> Monitored:
    """Do what the flow does, once nobody else does it."""
    model, repository = params.model.name, Repository.of(workspace)
    version, fallback = repository.active(model), repository.fallback(model)
    if version is None:
        return Monitored(model=model, active=None, fallback=None, decision=None, reason="nothing serves")
    # Only read: what it answers is judged here, and what is on the disk elsewhere.
    active = read_manifest(repository.directory(model, version))
    verdict = judge(workspace, params, active, fallback, sources)
    done = None
    if verdict is not None:
        create_markdown_artifact(key="monitor", markdown=as_markdown(verdict), description=f"{model} {version}")
        if verdict.decision == ROLL_BACK and fallback is not None:
            try:
                done = roll_back(workspace, params, version, verdict)
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
        reason="it was asked about no row" if verdict is None else verdict.reason,
        rolled_back=done,
        verdict=verdict,
    )


def complete(workspace: Workspace, params: Params) -> None:
    """Have the alias follow a rollback; where that is not possible now, the reconcile flow does it later."""
    try:
        follow_the_registry(workspace, params, WHO)
    except LobsmithError as error:
        console.print(f"the alias does not follow yet: {error}")
