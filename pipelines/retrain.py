"""The retrain flow: market data in, a proven version that Triton serves out."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec import Struct
from prefect import flow, task

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import load_golden
from lobsmith.errors import DataError
from lobsmith.features.dataset import build_features, training_datasets
from lobsmith.gates.compression import SUMMARY, Compressed, compress
from lobsmith.gates.evaluate import EVALUATION, REPORT, evaluate
from lobsmith.gates.evaluation import Evaluation
from lobsmith.gates.validate import CONTRACT, EVENTS_DOCS, Validated, validate, validate_features
from lobsmith.gates.verdict import Verdict
from lobsmith.market.ingest import MARKET, ingest
from lobsmith.market.session import Accounting
from lobsmith.models.train import WEIGHTS, Epoch, train_stage
from lobsmith.params import Params, as_table, load_params
from lobsmith.progress import Note, console, stage
from lobsmith.release.contract import wire_contract
from lobsmith.release.manifest import Manifest
from lobsmith.release.plans import build_and_publish
from lobsmith.release.publish import Artifact, publish
from lobsmith.release.registry import RunRef, log_run, set_champion, tag_version
from lobsmith.serving.control import connect
from lobsmith.serving.running import running_server
from lobsmith.workspace import Workspace


class Retrained(Struct, frozen=True, kw_only=True):
    """What a retrain leaves behind."""

    model: str
    version: int
    run_directory: str
    manifest: str
    report: str
    mlflow_run_id: str
    served: bool
    plans: str


@task(name="ingest market data")
def ingest_market_data(params: Params, captures: list[Path] | None, directory: Path) -> None:
    """Read recorded files, or simulate, into the run's store."""
    with stage("ingest market data") as note:
        done = ingest(params.data, captures, directory / MARKET)
        note("; ".join(_summary(name, one.accounting) for name, one in done.done.items()))
    for name, error in done.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")


def _summary(name: str, a: Accounting) -> str:
    faults = ", ".join(f"{count} {fault}" for fault, count in a.faults.items()) or "no fault"
    return (
        f"{name}: {a.records:,} records, {a.depth_messages:,} depth, {a.trades:,} trades, {a.seconds:,.0f} s, "
        f"{a.sequence_breaks} breaks, {a.crossed} crossed, {faults}"
    )


@task(name="validate market data")
def validate_market_data(params: Params, directory: Path) -> Validated:
    """Hold every instrument against the data contract."""
    with stage("validate market data") as note:
        done = validate(params, directory / MARKET, directory)
        note(f"tradable: {', '.join(done.tradable)}; {directory / EVENTS_DOCS / 'index.html'}")
    for name, error in done.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return done


@task(name="compute features")
def compute_features(params: Params, directory: Path, validated: Validated) -> tuple[Verdict, ...]:
    """Turn the market data into labelled rows, hold them against the contract; return all verdicts on the data."""
    with stage("compute features") as note:
        built = build_features(params, directory / MARKET, directory, validated.tradable)
        verdict = validate_features(params, built, directory)
        note("; ".join(f"{name}: {len(one.rows):,} rows" for name, one in built.datasets.items()))
    for name, error in built.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return *validated.verdicts[str(built.chosen.instrument)], verdict


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
    """Prune, quantise and export; take the fastest candidate that loses little enough."""
    with stage("compress and export") as note:
        summary = compress(params, directory, on_progress=note)
        note(
            f"{summary.name} of {len(summary.candidates)} candidates, {summary.bytes:,} bytes, "
            f"primed by {summary.prime_rows} rows"
        )
        return summary


@task(name="evaluate and gate")
def evaluate_and_gate(params: Params, directory: Path) -> Evaluation:
    """Score on held-out rows and ask the gates."""
    with stage("evaluate and gate") as note:
        result = evaluate(params, directory, on_train=note)
        note("; ".join(str(verdict) for verdict in result.verdicts))
        return result


@task(name="record in MLflow", retries=2, retry_delay_seconds=5)
def record_in_mlflow(
    workspace: Workspace, params: Params, evaluation: Evaluation, history: list[Epoch], directory: Path
) -> RunRef:
    """Log parameters, metrics, reports and the model, and register it."""
    with stage("record in MLflow") as note:
        run = log_run(
            workspace,
            experiment=params.model.name,
            run_name=directory.name,
            params=as_table(params),
            metrics=evaluation.metrics(),
            history=[{"train_loss": one.train_loss, "validation_loss": one.validation_loss} for one in history],
            artifacts=[directory / one for one in (EVALUATION, REPORT, WEIGHTS, SUMMARY)],
            model_path=directory / MODEL,
            model_name=params.model.name,
            tags={"data_fingerprint": evaluation.data_fingerprint},
        )
        note(f"run {run.run_id}")
        return run


@task(name="publish version")
def publish_version(
    workspace: Workspace,
    params: Params,
    data_verdicts: tuple[Verdict, ...],
    evaluation: Evaluation,
    summary: Compressed,
    run: RunRef,
    directory: Path,
) -> Manifest:
    """Prove the version in a process of its own, publish it and have a running server load it."""
    with stage("publish version") as note:
        artifact = Artifact(
            model_path=directory / MODEL,
            golden=load_golden(directory / GOLDEN),
            prime_rows=summary.prime_rows,
            precision=summary.precision,
            candidate=summary.name,
            run=directory.name,
            step_path=directory / STEP,
            instruments=(evaluation.instrument,),
            data_fingerprint=evaluation.data_fingerprint,
            verdicts=(*data_verdicts, *evaluation.verdicts),
            metrics=evaluation.metrics(),
            mlflow_run_id=run.run_id,
        )
        manifest = publish(
            workspace,
            params,
            artifact,
            model=params.model.name,
            contract=wire_contract(params),
            server=running_server(workspace, params),
        )
        note(f"{manifest.model} {manifest.version}")
        return manifest


@task(name="build and publish plans")
def build_and_publish_plans(
    workspace: Workspace, params: Params, summary: Compressed, manifest: Manifest, directory: Path
) -> str:
    """Build TensorRT plans where this machine can, and publish them beside the ONNX model, which stays the fallback."""
    with stage("build and publish plans") as note:
        outcome = build_and_publish(
            workspace, params, summary, manifest, directory, server=running_server(workspace, params), on_progress=note
        )
        note(outcome)
        return outcome


@task(name="name the champion", retries=2, retry_delay_seconds=5)
def name_the_champion(workspace: Workspace, manifest: Manifest, run: RunRef) -> None:
    """Point the registry's alias at the published version."""
    with stage("name the champion") as note:
        tag_version(workspace, manifest.model, run.registry_version, manifest)
        set_champion(workspace, manifest.model, run.registry_version)
        note(f"{manifest.model}@champion is registered version {run.registry_version}")


def run_to_resume(workspace: Workspace, name: str) -> Path:
    """Return the folder of a run whose market data are whole.

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
) -> Retrained:
    """Train on the newest window of data and publish the result.

    Args:
        root: the project's folder, with `params.yaml`.
        captures: recorded files, read in order as one stream; None takes what `params.yaml` names.
        overrides: parameters to replace, keyed by dotted name.
        resume: name of a run that was killed; its market data are kept, and training goes on from its last epoch.
    """
    workspace = Workspace(Path(root).resolve())
    params = load_params(workspace.params, overrides)
    if resume:
        directory = run_to_resume(workspace, resume)
    else:
        directory = workspace.runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
        directory.mkdir(parents=True)
        ingest_market_data(params, [Path(name) for name in captures] if captures else None, directory)
    validated = validate_market_data(params, directory)
    data_verdicts = compute_features(params, directory, validated)
    history = train_network(params, directory)
    summary = compress_and_export(params, directory)
    evaluation = evaluate_and_gate(params, directory)
    run = record_in_mlflow(workspace, params, evaluation, history, directory)
    manifest = publish_version(workspace, params, data_verdicts, evaluation, summary, run, directory)
    name_the_champion(workspace, manifest, run)
    plans = build_and_publish_plans(workspace, params, summary, manifest, directory)
    return Retrained(
        model=manifest.model,
        version=manifest.version,
        run_directory=str(directory),
        manifest=str(workspace.repository / manifest.model / str(manifest.version) / "manifest.json"),
        report=str(directory / REPORT),
        mlflow_run_id=run.run_id,
        served=connect(workspace) is not None,
        plans=plans,
    )
