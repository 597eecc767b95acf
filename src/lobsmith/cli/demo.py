"""`lobsmith demo`: the whole lifecycle on embedded defaults."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from lobsmith.cli.options import (
    capture_arguments,
    json_option,
    model_option,
    overrides,
    prefect,
    print_json,
    results,
    set_option,
)
from lobsmith.cli.replay import recorded_line
from lobsmith.errors import ReleaseError
from lobsmith.params import Params, load_params
from lobsmith.progress import stage
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.features.dataset import Dataset
    from lobsmith.pipelines.retrain import Retrained
    from lobsmith.trading.replay import ReplayResult

SHORT = {
    "data.simulator.seconds": 1200,
    # Minutes of data, not hours.
    "window.minimum_coverage": 0.0,
    "window.minimum_rows": 5000,
    "train.epochs": 20,
    "walk_forward.folds": 2,
    "walk_forward.epochs": 4,
    # Four candidates, not fifteen, each timed in fewer calls.
    "compress.pruning": [0.25],
    "compress.precisions": ["fp32", "int8_dynamic"],
    "compress.fine_tune_epochs": 6,
    "compress.calls": 600,
}
"""Parameters outside the wire contract, so that scheduled retrains continue the model."""
_ROWS = {"grpc": 5000, "http": 500}
"""Held-out rows sent over each protocol, in single requests."""


@click.command()
@capture_arguments
@model_option
@click.option("--drift", is_flag=True, help="Show drift: a simulated market that changes under the model.")
@set_option
@json_option
@click.pass_obj
def demo(
    workspace: Workspace,
    captures: tuple[Path, ...],
    more: tuple[Path, ...],
    model: str | None,
    drift: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Simulate or read a market, retrain, serve with Triton, and replay held-out rows through it.

    lobsmith up and all commands use the published version. Refused where a version of no demonstration is in service.
    """
    replaced = overrides(settings, model)
    if drift:
        from lobsmith.cli.demo_drift import demonstrate_drift

        if captures or more:
            raise click.UsageError("--drift changes a simulated market: leave captures out")
        demonstrate_drift(workspace, replaced, as_json=as_json)
        return
    refuse_production(workspace, load_params(workspace.params, replaced).model.name)
    changes = {**SHORT, **replaced}
    files = [str(path.resolve()) for path in (*captures, *more)]
    with prefect(workspace, "lobsmith.pipelines.retrain"):
        from lobsmith.pipelines.retrain import retrain as flow

        # Forced: the window may have been trained on before.
        retrained = flow(str(workspace.root), files or None, changes, force=True, demo=True)
    params = load_params(workspace.params, changes)

    from lobsmith.features.dataset import DATASET, load_dataset

    dataset = load_dataset(Path(retrained.run_directory or "") / DATASET)
    measured = _serve_and_replay(workspace, params, dataset)
    if as_json:
        print_json({"retrained": retrained, "replay": measured})
        return
    _show(workspace, params, retrained, dataset, measured)


def refuse_production(workspace: Workspace, model: str) -> None:
    """Check that a demonstration replaces demonstrations only.

    Raises:
        ReleaseError: active version or candidate is of no demonstration.
    """
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.manifest import read_manifest
    from lobsmith.release.version.names import candidate_model, is_demo

    repository = Repository.of(workspace)
    for name in (model, candidate_model(model)):
        version = repository.active(name)
        if version is not None and not is_demo(read_manifest(repository.directory(name, version)).run):
            raise ReleaseError(
                f"{name} {version} is in service and is no demonstration's, which would take its place; pass "
                "lobsmith --root DIR demo for a folder of its own, or --model NAME"
            )


def _serve_and_replay(workspace: Workspace, params: Params, dataset: "Dataset") -> "dict[str, ReplayResult]":
    """Replay held-out rows through the running server, else one on free ports."""
    from msgspec.structs import replace

    from lobsmith.models.split import split
    from lobsmith.monitoring.log.writer import Source
    from lobsmith.serving.supervisor import running_triton, with_free_ports
    from lobsmith.serving.triton.control import connect
    from lobsmith.trading.replay import replay
    from lobsmith.trading.session import open_stream

    first = int(split(dataset, params.split).test[0])

    def replay_all() -> "dict[str, ReplayResult]":
        measured = {}
        for name, rows in _ROWS.items():
            with stage(f"replay over {name}") as note:
                with open_stream(
                    dataset.instrument,
                    root=workspace,
                    params=params,
                    transport=name,
                    record=Source.DEMO,
                    backpressure=True,
                ) as stream:
                    answers = replay(
                        stream,
                        dataset,
                        first,
                        limit=rows,
                        on_progress=lambda done, total, note=note: note(f"{done:,} of {total:,} rows"),  # type: ignore[misc]
                    )
                measured[name] = replace(answers, recorded=stream.recorded)
                note(f"{measured[name].answered:,} of {measured[name].rows:,} rows answered")
        return measured

    if connect(workspace) is not None:
        return replay_all()
    with stage("serve with Triton") as note:
        server = running_triton(workspace, with_free_ports(params))
        control = server.__enter__()
        note(f"{control.endpoint.http_url}, versions {control.ready_versions(params.model.name)}")
    try:
        return replay_all()
    finally:
        server.__exit__(None, None, None)


def _show(
    workspace: Workspace,
    params: Params,
    retrained: "Retrained",
    dataset: "Dataset",
    measured: "dict[str, ReplayResult]",
) -> None:
    from lobsmith.evaluation.baselines import load_baselines, predict_baselines
    from lobsmith.evaluation.results import MODEL
    from lobsmith.models.training_data import parts_of
    from lobsmith.trading.replay import quality_by_horizon, replayed_rows

    parts = parts_of([dataset], params.split)
    served = measured["grpc"]
    rows = replayed_rows(dataset, int(parts[0].split.test[0]), _ROWS["grpc"])
    baselines = load_baselines(params, Path(retrained.run_directory or ""))
    metrics = {MODEL: served.quality}
    for name, probabilities in predict_baselines(baselines, parts, dataset, rows).items():
        metrics[name] = quality_by_horizon(probabilities, dataset.labels[rows], dataset.horizons_ms)
    table = Table(title=f"{dataset.instrument}: {served.rows:,} held-out rows through Triton over gRPC")
    table.add_column("predictor")
    for horizon in dataset.horizons_ms:
        table.add_column(f"accuracy, {horizon} ms", justify="right")
        table.add_column(f"log-loss, {horizon} ms", justify="right")
    for predictor, by_horizon in metrics.items():
        cells = [text for values in by_horizon for text in (f"{values.accuracy:.3f}", f"{values.log_loss:.3f}")]
        table.add_row(predictor, *cells)
    results.print(table)
    command = "lobsmith" if shutil.which("lobsmith") else os.path.relpath(sys.argv[0])
    other = params.model.name != load_params(workspace.params).model.name
    up = f"{command} up" + (f" --model {params.model.name}" if other else "")
    for name, value in (
        ("served", f"{params.model.name} version {', '.join(map(str, served.versions))}"),
        ("retrained", f"{retrained.outcome}: {retrained.model} {retrained.version}; {retrained.reason}"),
        *((f"latency {name}", _latency(result)) for name, result in measured.items()),
        *((f"log {name}", recorded_line(result.recorded)) for name, result in measured.items() if result.recorded),
        ("MLflow run", f"{retrained.mlflow_run_id}  (mlflow ui --backend-store-uri {workspace.mlflow_uri})"),
        ("manifest", retrained.manifest),
        ("report", f"{retrained.report}  (all held-out rows, training curve, calibration)"),
        ("next", f"{up}: serves it, retrains it on schedule and watches it, until Ctrl-C"),
        ("", f"{up} --live --simulate 7: the same, with a simulated feed to see it live"),
    ):
        results.print(f"{name:<13} {value}", soft_wrap=True)


def _latency(result: "ReplayResult") -> str:
    if not result.answered:
        return f"no answer: {result.reasons}"
    p50, p99 = (result.latency_us[name] for name in ("p50", "p99"))
    return f"p50 {p50:,.0f} µs, p99 {p99:,.0f} µs, {result.answered:,} answers"
