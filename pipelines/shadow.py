"""The shadow flow: a candidate beside the active version on the same live rows, until promoted or rejected."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from lobsmith import clock
from lobsmith.errors import DataError, VersionGoneError
from lobsmith.monitoring.drift.gates import evaluate_period
from lobsmith.monitoring.live_evaluation import LIVE, Sources, evaluate_candidate
from lobsmith.monitoring.shadow_page import shadow_path, write_shadow
from lobsmith.monitoring.waiting import Uncompared, uncompared
from lobsmith.online.evidence import PROMOTE, REJECT, LiveVerdict
from lobsmith.params import Params, load_params
from lobsmith.pipelines.reconcile import follow_and_build
from lobsmith.progress import console, stage
from lobsmith.release.reconcile.shadow_pair import VersionPair, apply_decision, pair_of, promote_on_gates
from lobsmith.release.registry.aliases import SHADOW, tag
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import candidate_model
from lobsmith.serving.report_files import landing_page, linked
from lobsmith.workspace import Workspace

NO_ROW = "no row was put to both yet"
LONGEST_S = 1800
"""A longer run is ended; the next one evaluates again."""


class Shadowed(Struct, frozen=True, kw_only=True):
    """Result of the shadow flow; without a decision there was nothing to evaluate."""

    model: str
    active: int | None
    candidate: int | None
    decision: str | None
    reason: str
    verdict: LiveVerdict | None = None


@task(name="find the pair")
def find_pair(workspace: Workspace, model: str) -> VersionPair | str:
    """Return the champion/challenger pair, or why there is none."""
    return pair_of(workspace, model)


@task(name="judge the candidate")
def evaluate(workspace: Workspace, params: Params, pair: VersionPair, sources: Sources) -> LiveVerdict | None:
    """Compare both versions on rows since the candidate was published, and write the page of the comparison."""
    with stage("judge the candidate") as note:
        if not pair.candidate.shares_a_market_with(pair.active):
            note("it shares no instrument with the active version")
            return None
        evaluation = evaluate_candidate(
            workspace,
            params,
            params.model.name,
            active=pair.active.version,
            candidate=pair.candidate.version,
            since_ns=pair.candidate.created_ns,
            sources=sources,
        )
        note(NO_ROW if evaluation is None else f"{evaluation.verdict.decision}: {evaluation.verdict.reason}")
    if evaluation is None:
        return None
    if evaluation.compared is not None:
        evaluated = pair.candidate.model, pair.candidate.version
        try:
            write_shadow(workspace.reports, evaluated, evaluation.verdict, evaluation.compared, params.paired)
        except DataError as error:
            # The decision does not wait for its page.
            console.print(str(error), markup=False)
    return evaluation.verdict


@task(name="check drift since the candidate's training window")
def check_period_drift(
    workspace: Workspace, params: Params, pair: VersionPair, verdict: LiveVerdict, sources: Sources
) -> LiveVerdict:
    """Refuse a promotion whose training window differs from the market of its shadow period."""
    with stage("check drift since the candidate's training window") as note:
        with_market = verdict.beside_market(evaluate_period(workspace, params, pair.candidate, sources=sources))
        note(f"{with_market.decision}: {with_market.reason}")
        return with_market


@task(name="find clients that wait for the candidate")
def find_waiting_clients(workspace: Workspace, params: Params, pair: VersionPair) -> Uncompared | None:
    """Return whether the candidate cannot be compared although clients ask for it."""
    with stage("find clients that wait for the candidate") as note:
        outcome = uncompared(workspace, params, pair.active, pair.candidate, now_ns=clock.now_ns())
        note("none" if outcome is None else outcome.reason)
        return outcome


@task(name="act on the verdict")
def act(workspace: Workspace, params: Params, pair: VersionPair, verdict: LiveVerdict) -> bool:
    """Tag the registered version with the verdict and move the aliases; False where these have changed meanwhile."""
    model, challenger = params.model.name, pair.challenger.version
    tag(workspace, model, challenger, {SHADOW: msgspec.json.encode(verdict.as_verdict()).decode()})
    path = shadow_path(workspace.reports, verdict, pair.candidate.model, pair.candidate.version)
    links = (linked(workspace, "Page", path) if path.is_file() else "", landing_link(workspace))
    create_markdown_artifact(key="shadow", markdown=as_markdown(verdict, *links), description=f"registry:{challenger}")
    return apply_decision(workspace, params, model, pair, verdict)


def landing_link(workspace: Workspace) -> str:
    """Return a link to the landing page as Markdown; empty where nothing serves it."""
    page = landing_page(workspace)
    return "" if page is None else f"[What serves now]({page})"


def as_markdown(verdict: LiveVerdict, *links: str) -> str:
    """Return a verdict as a page for Prefect, with links as Markdown."""
    table = msgspec.to_builtins(verdict)
    rows = "\n".join(f"| {name} | {value} |" for name, value in table.items())
    more = ", ".join(filter(None, links))
    return f"# {verdict.gate}: {verdict.decision}\n\n{verdict.reason}\n\n{more}\n\n| | |\n|---|---|\n{rows}\n"


def evaluate_and_act(
    workspace: Workspace, params: Params, pair: VersionPair, sources: Sources
) -> tuple[str | None, str, LiveVerdict | None]:
    """Evaluate a pair and act on it; return the decision, the reason, and the verdict if there is one."""
    repository = Repository.of(workspace)
    with (
        repository.reading(pair.active.model, pair.active.version),
        repository.reading(pair.candidate.model, pair.candidate.version),
    ):
        verdict = evaluate(workspace, params, pair, sources)
        if verdict is not None and verdict.decision == PROMOTE:
            verdict = check_period_drift(workspace, params, pair, verdict, sources)
    if verdict is not None:
        decision, reason, acted = verdict.decision, verdict.reason, act(workspace, params, pair, verdict)
    else:
        outcome = find_waiting_clients(workspace, params, pair)
        if outcome is None or not outcome.promote:
            return None, NO_ROW if outcome is None else outcome.reason, None
        decision, reason, acted = (
            PROMOTE,
            outcome.reason,
            promote_on_gates(workspace, params, params.model.name, pair, outcome.reason),
        )
    if not acted:
        return None, f"aliases or versions have changed meanwhile; it was: {reason}", verdict
    if decision in (PROMOTE, REJECT):
        follow_and_build(workspace, params, "shadow flow")
    return decision, reason, verdict


@flow(name="shadow", log_prints=False, timeout_seconds=LONGEST_S)
def shadow(root: str = ".", overrides: Mapping[str, Any] | None = None, sources: Sequence[str] = LIVE) -> Shadowed:
    """Evaluate the candidate on all live rows so far; promote it, reject it, or go on.

    A candidate that no row can be compared for is promoted on its gates, where clients wait for it and none would lose
    its answers.

    Args:
        root: the project's folder, with `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
        sources: which sessions of the prediction log count: live, replay, demo.
    """
    workspace = Workspace.open(Path(root))
    params = load_params(workspace.params, overrides)
    model, repository = params.model.name, Repository.of(workspace)
    decision = verdict = None
    try:
        pair = find_pair(workspace, model)
        if isinstance(pair, str):
            reason = pair
        else:
            decision, reason, verdict = evaluate_and_act(workspace, params, pair, sources)
    except VersionGoneError as error:
        reason = str(error)
    return Shadowed(
        model=model,
        active=repository.active(model),
        candidate=repository.active(candidate_model(model)),
        decision=decision,
        reason=reason,
        verdict=verdict,
    )
