"""The retrain flow: from market data to a validated candidate; a model's first version is promoted at once."""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from msgspec import Struct
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.states import Completed

from lobsmith import clock
from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import load_golden
from lobsmith.drift import NULL, REFERENCE, SCORE
from lobsmith.errors import DataError, LeaseError, LobsmithError, ThinWindowError
from lobsmith.evaluation.results import EVALUATION, REPORT, Evaluation
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.files import sha256_file
from lobsmith.gates.compression import Compressed
from lobsmith.lease import hold_lease
from lobsmith.market.instrument import Instrument
from lobsmith.market.session import Accounting
from lobsmith.models.train import WEIGHTS
from lobsmith.models.trainer import Epoch
from lobsmith.monitoring.drift.gates import evaluate_windows, require
from lobsmith.params import Params, as_table, load_params
from lobsmith.pipelines.reconcile import follow_and_build, lost_the_lease
from lobsmith.progress import Note, console, stage
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.reconcile.requests import in_service, register_challenger, tag_status
from lobsmith.release.registry.aliases import SERVING
from lobsmith.release.registry.runs import WINDOW, RunRef, already_trained, log_again, log_run
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.manifest import MANIFEST, Manifest
from lobsmith.release.version.names import DEMO_RUN, candidate_model
from lobsmith.release.version.recipe import git_commit, window_id
from lobsmith.serving.running_server import running_server
from lobsmith.serving.triton.control import connect
from lobsmith.stages.captured import LIVE, captured_feed
from lobsmith.stages.compress import SUMMARY, compress
from lobsmith.stages.evaluate import evaluate, name_version
from lobsmith.stages.features import build_features, validate_features
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.reference import describe_window, measure_null
from lobsmith.stages.train import train_stage
from lobsmith.stages.validate import CONTRACT, EVENTS_DOCS, Validated, validate
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace

_LEASE_S = 120.0


class Retrained(Struct, frozen=True, kw_only=True):
    """Result of a retrain.

    `model` and `version` name the Triton model: the production model after PROMOTED and IN_SERVICE, the candidate
    deployment after CANDIDATE. After SKIPPED there is no version, only a `reason`.
    """

    outcome: str
    reason: str
    model: str
    version: int | None = None
    run_directory: str | None = None
    manifest: str | None = None
    report: str | None = None
    mlflow_run_id: str | None = None
    registered: int | None = None
    served: bool = False
    plans: str = "no plans: nothing was promoted"


PROMOTED, CANDIDATE, IN_SERVICE, SKIPPED = "promoted", "candidate", "in service", "skipped"
"""Outcomes. IN_SERVICE: training gave the same bits as the active version."""


@task(name="ingest market data")
def ingest_market_data(workspace: Workspace, params: Params, captures: list[Path] | None, directory: Path) -> None:
    """Ingest files, a live feed's captures, or a simulation into the run's store."""
    with stage("ingest market data") as note, ExitStack() as feeds:
        if not captures and params.data.source == LIVE:
            feed = captured_feed(workspace.captures, directory / "captures", params.window)
            captures = feeds.enter_context(feed)
        ingested = ingest(params.data, captures, directory / MARKET)
        note("; ".join(_summary(name, instrument.accounting) for name, instrument in ingested.done.items()))
    for name, error in ingested.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")


def _summary(name: str, a: Accounting) -> str:
    faults = ", ".join(f"{count} {fault}" for fault, count in a.faults.items()) or "no fault"
    return (
        f"{name}: {a.records:,} records, {a.depth_messages:,} depth, {a.trades:,} trades, {a.seconds:,.0f} s, "
        f"{a.sequence_breaks} breaks, {a.crossed} crossed, {faults}"
    )


@task(name="validate market data")
def validate_market_data(params: Params, directory: Path, *, demo: bool = False) -> Validated:
    """Check every instrument against the data contract; a demonstration needs no price of bitcoin."""
    with stage("validate market data") as note:
        validated = validate(params, directory / MARKET, directory, allow_unpriced=demo)
        note(f"tradable: {', '.join(validated.tradable)}; {directory / EVENTS_DOCS / 'index.html'}")
    for name, error in validated.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    for name in validated.unpriced:
        console.print(
            f"[yellow]warning[/yellow] {name}: its liquidity in BTC cannot be told without a price of bitcoin, and is "
            "not judged; a retrain needs a BTC symbol's capture too, or contract.liquidity.btc_price"
        )
    return validated


@task(name="compute features")
def compute_features(params: Params, directory: Path, validated: Validated) -> tuple[tuple[Verdict, ...], str]:
    """Compute labelled rows and check them against the contract.

    Returns:
        All verdicts on the data, and the id of the window.
    """
    with stage("compute features") as note:
        built = build_features(params, directory / MARKET, directory, validated.tradable)
        verdict = validate_features(params, built, directory)
        note("; ".join(f"{name}: {len(dataset.rows):,} rows" for name, dataset in built.datasets.items()))
    for name, error in built.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    trained = built.datasets.values() if params.train.pool else [built.chosen]
    window = window_id(params, [dataset.data_fingerprint for dataset in trained], git_commit(directory))
    return (*validated.verdicts[str(built.chosen.instrument)], verdict), window


@task(name="check drift since the training window")
def check_window_drift(workspace: Workspace, params: Params, directory: Path) -> tuple[Verdict, ...]:
    """Refuse a window of a market that has gone, or of a broken feed, before training.

    Raises:
        GateError: a gate refuses it.
    """
    with stage("check drift since the training window") as note:
        windows = map(load_dataset, training_datasets(params, directory))
        verdicts = evaluate_windows(workspace, params, windows, directory)
        note("; ".join(f"{verdict.gate}: {verdict.evidence.get('finding') or verdict}" for verdict in verdicts))
        require(verdicts)
        return verdicts


@task(name="describe the training window")
def describe_training_window(params: Params, directory: Path) -> None:
    """Write the reference window and the drift score."""
    with stage("describe the training window") as note:
        note(str(describe_window(params, directory)))


@task(name="train network")
def train_network(params: Params, directory: Path) -> list[Epoch]:
    """Train, keeping the best epoch."""
    with stage("train network") as note:
        trained = train_stage(
            params, training_datasets(params, directory), directory, on_epoch=partial(_show_epoch, note, params)
        )
        return list(trained.history)


def _show_epoch(note: Note, params: Params, epoch: Epoch) -> None:
    note(
        f"epoch {epoch.epoch} of {params.train.epochs}, loss {epoch.train_loss:.4f}, "
        f"validation {epoch.validation_loss:.4f}"
    )


@task(name="compress and export")
def compress_and_export(params: Params, directory: Path) -> Compressed:
    """Prune, quantise and export; take the fastest candidate within the loss budget."""
    with stage("compress and export") as note:
        summary = compress(params, directory, on_progress=note)
        note(
            f"{summary.name} of {len(summary.candidates)} candidates, {summary.bytes:,} bytes, "
            f"primed by {summary.prime_rows} rows"
        )
        return summary


@task(name="evaluate and gate")
def evaluate_and_gate(params: Params, directory: Path) -> Evaluation:
    """Evaluate on held-out rows and run the gates."""
    with stage("evaluate and gate") as note:
        result = evaluate(params, directory, run=directory.name, on_train=note)
        note("; ".join(str(verdict) for verdict in result.verdicts))
        return result


@task(name="measure the null distribution")
def measure_null_distribution(params: Params, directory: Path) -> None:
    """Write the null distribution of the training window, for the first checks of the version."""
    with stage("measure the null distribution") as note:
        note(str(measure_null(params, directory)))


@task(name="log to MLflow", retries=2, retry_delay_seconds=5)
def log_to_mlflow(
    workspace: Workspace,
    params: Params,
    evaluation: Evaluation,
    history: list[Epoch],
    directory: Path,
    window: str,
) -> RunRef:
    """Log parameters, metrics, reports and the model, and register it."""
    with stage("log to MLflow") as note:
        run = log_run(
            workspace,
            experiment=params.model.name,
            run_name=directory.name,
            params=as_table(params),
            metrics=evaluation.metrics(),
            history=[{"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss} for epoch in history],
            artifacts=[directory / name for name in (EVALUATION, REPORT, WEIGHTS, SUMMARY)],
            model_path=directory / MODEL,
            model_name=params.model.name,
            tags={"data_fingerprint": evaluation.data_fingerprint, WINDOW: window},
        )
        note(f"run {run.run_id}, registered version {run.registry_version}")
        return run


@task(name="publish candidate", retries=1, retry_condition_fn=lost_the_lease)
def publish_candidate(
    workspace: Workspace,
    params: Params,
    data_verdicts: tuple[Verdict, ...],
    evaluation: Evaluation,
    summary: Compressed,
    run: RunRef,
    directory: Path,
) -> Manifest:
    """Validate the candidate in a child process, deploy it to a running server, and request its shadow evaluation."""
    model = params.model.name
    with stage("publish candidate") as note:
        artifact = Artifact(
            model_path=directory / MODEL,
            golden=load_golden(directory / GOLDEN),
            prime_rows=summary.prime_rows,
            precision=summary.precision,
            candidate=summary.name,
            run=directory.name,
            step_path=directory / STEP,
            reference_path=directory / REFERENCE,
            score_path=directory / SCORE,
            null_path=directory / NULL,
            instruments=trained_instruments(params, evaluation, directory),
            data_fingerprint=evaluation.data_fingerprint,
            verdicts=(*data_verdicts, *evaluation.verdicts),
            metrics=evaluation.metrics(),
            mlflow_run_id=run.run_id,
        )
        release = Release(workspace, params, running_server(workspace, params))
        manifest = register_challenger(release, artifact, model=model, contract=wire_contract(params), run=run)
        note(f"{manifest.model} {manifest.version}, registered version {run.registry_version}")
        return manifest


def trained_instruments(params: Params, evaluation: Evaluation, directory: Path) -> tuple[Instrument, ...]:
    """Return the instruments that a run was trained on, the evaluated one first."""
    if not params.train.pool:
        return (evaluation.instrument,)
    return tuple(load_dataset(path).instrument for path in training_datasets(params, directory))


def run_to_resume(workspace: Workspace, name: str) -> Path:
    """Return the folder of a run with validated market data.

    Raises:
        DataError: there is no such run, or it was killed before its data were validated.
    """
    directory = workspace.runs / name
    if Path(name).name != name or not (directory / CONTRACT).is_file():
        raise DataError(
            f"{directory}: no run whose data were read and validated; start a new one with lobsmith retrain"
        )
    return directory


@flow(name="retrain", log_prints=False)
def retrain(
    root: str = ".",
    captures: list[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: str | None = None,
    force: bool = False,
    scheduled: bool = False,
    demo: bool = False,
) -> Retrained:
    """Train on the newest window of data and publish the result as a candidate.

    Args:
        root: the project's folder, with `params.yaml`.
        captures: captured files, read in order as one stream; None takes those of `params.yaml`.
        overrides: parameters to replace, keyed by dotted name.
        resume: name of a killed run; its market data are kept, and training continues after its last epoch.
        force: train although the same window was trained with the same parameters before.
        scheduled: end as skipped, instead of failing, where another run trains, where a newer window was trained since
            this run was due, or where a live feed has not been captured for long enough.
        demo: a demonstration's run: its version may be replaced by that of another one.

    Raises:
        LeaseError: another run trains.
    """
    workspace = Workspace.open(Path(root))
    params = load_params(workspace.params, overrides)
    model = params.model.name
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lease(workspace.retrain_lease, f"retrain {model}", ttl_s=_LEASE_S, wait_s=0.0))
        except LeaseError as error:
            if not scheduled:
                raise
            return skipped(model, str(error))
        if scheduled and (newer := newer_than(workspace, model, flow_run.scheduled_start_time)):
            return skipped(model, newer)
        try:
            return train_and_register(workspace, params, captures, resume, force=force or bool(resume), demo=demo)
        except ThinWindowError as error:
            if not scheduled or params.data.source != LIVE:
                raise
            return skipped(model, str(error))


def train_and_register(
    workspace: Workspace,
    params: Params,
    captures: list[str] | None,
    resume: str | None,
    *,
    force: bool,
    demo: bool = False,
) -> Retrained:
    """Run the flow under its lease."""
    model = params.model.name
    if resume:
        directory = run_to_resume(workspace, resume)
    else:
        directory = workspace.runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}{DEMO_RUN if demo else ''}"
        directory.mkdir(parents=True)
        ingest_market_data(workspace, params, [Path(name) for name in captures] if captures else None, directory)
    validated = validate_market_data(params, directory, demo=demo)
    data_verdicts, window = compute_features(params, directory, validated)
    if not force and (before := already_trained(workspace, model, window)):
        registered = f"registry:{before.version}, {before.tags.get(SERVING)}"
        return skipped(model, f"the same window was trained before: {registered}; --force trains it again")
    data_verdicts += check_window_drift(workspace, params, directory)
    describe_training_window(params, directory)
    history = train_network(params, directory)
    summary = compress_and_export(params, directory)
    evaluation = evaluate_and_gate(params, directory)
    measure_null_distribution(params, directory)
    run = log_to_mlflow(workspace, params, evaluation, history, directory, window)
    settings = {
        "run_directory": str(directory),
        "report": str(directory / REPORT),
        "mlflow_run_id": run.run_id,
        "registered": run.registry_version,
        "served": connect(workspace) is not None,
    }
    if (version := in_service(workspace, model, sha256_file(directory / MODEL))) is not None:
        tag_status(workspace, model, run, f"the same bits are active as {model} {version}")
        title_page(workspace, directory, run, f"{model} {version}")
        reason = "training has led to the bits that are active already"
        return _retrained(workspace, IN_SERVICE, reason, model, version, settings)
    candidate = publish_candidate(workspace, params, data_verdicts, evaluation, summary, run, directory)
    title_page(workspace, directory, run, f"{candidate.model} {candidate.version}")
    if Repository.of(workspace).active(model) is not None:
        reason = "it waits for the verdict of live traffic"
        return _retrained(workspace, CANDIDATE, reason, candidate.model, candidate.version, settings)
    reconciled, plans = follow_and_build(workspace, params, "retrain flow")
    if reconciled.promoted is None:
        reason = (
            reconciled.unreachable
            or "; ".join(reconciled.refused.values())
            or "the registry's aliases ask for something else"
        )
        return _retrained(workspace, CANDIDATE, reason, candidate.model, candidate.version, settings)
    title_page(workspace, directory, run, f"{model} {reconciled.promoted}")
    reason = "nothing was in service to compare it with, and its gates have passed"
    return _retrained(workspace, PROMOTED, reason, model, reconciled.promoted, {**settings, "plans": plans})


def title_page(workspace: Workspace, directory: Path, run: RunRef, version: str) -> None:
    """Name the published version on the evaluation page, in the run's folder and in MLflow."""
    try:
        log_again(workspace, run.run_id, name_version(directory, version))
    except LobsmithError as error:
        console.print(f"the evaluation page does not name {version}: {error}", markup=False)


def skipped(model: str, reason: str) -> Retrained:
    """End a run as skipped, with the reason on Prefect's page."""
    console.print(f"skipped: {reason}")
    result = Retrained(outcome=SKIPPED, reason=reason, model=model)
    # Prefect takes a state that a flow returns for the run's own, and hands its data to the caller.
    return cast(Retrained, Completed(name="Skipped", message=reason, data=result))


def newer_than(workspace: Workspace, model: str, due: datetime) -> str | None:
    """Return which candidate was trained since a run was due: of several late runs only the first is needed."""
    deployment, due_ns = candidate_model(model), clock.from_wall(int(due.timestamp() * NS_PER_S))
    made = [
        entry
        for entry in journal.read(workspace.journal)
        if entry.model == deployment and entry.action in (journal.PUBLISHED, journal.REFUSED) and entry.time_ns > due_ns
    ]
    if not made:
        return None
    at, due = (datetime.fromtimestamp(ns / NS_PER_S, UTC) for ns in (made[-1].time_ns, due_ns))
    return f"this run was due at {due:%Y-%m-%d %H:%M:%S}; a newer window was trained by {at:%Y-%m-%d %H:%M:%S} UTC"


def _retrained(
    workspace: Workspace, outcome: str, reason: str, model: str, version: int, settings: dict[str, Any]
) -> Retrained:
    manifest = Repository.of(workspace).directory(model, version) / MANIFEST
    return Retrained(outcome=outcome, reason=reason, model=model, version=version, manifest=str(manifest), **settings)
