"""A small version that was really trained, compressed, evaluated and published, without Prefect and MLflow."""

import shutil
from pathlib import Path

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import load_golden
from lobsmith.drift import REFERENCE, SCORE
from lobsmith.features.dataset import training_datasets
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.manifest import Manifest
from lobsmith.stages.compress import compress
from lobsmith.stages.evaluate import evaluate
from lobsmith.stages.features import build_features
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.reference import describe_window
from lobsmith.stages.train import train_stage
from lobsmith.workspace import Workspace
from tests.small import params_file

RUN = "20240101T000000-abcdef"


def project(root: Path, params: Params, captures: list[Path] | None = None) -> Workspace:
    """Return a workspace with a run whose network is trained."""
    shutil.copy(params_file(), root / "params.yaml")
    workspace = Workspace(root)
    directory = workspace.runs / RUN
    ingest(params.data, captures, directory / MARKET)
    build_features(params, directory / MARKET, directory)
    train_stage(params, training_datasets(params, directory), directory)
    return workspace


def published(workspace: Workspace, params: Params) -> Manifest:
    """Compress, evaluate and publish the run's network."""
    directory = workspace.runs / RUN
    describe_window(params, directory)
    summary = compress(params, directory)
    evaluation = evaluate(params, directory)
    artifact = Artifact(
        model_path=directory / MODEL,
        step_path=directory / STEP,
        reference_path=directory / REFERENCE,
        score_path=directory / SCORE,
        golden=load_golden(directory / GOLDEN),
        prime_rows=summary.prime_rows,
        precision=summary.precision,
        candidate=summary.name,
        run=RUN,
        instruments=(evaluation.instrument,),
        data_fingerprint=evaluation.data_fingerprint,
        verdicts=evaluation.verdicts,
        metrics=evaluation.metrics(),
    )
    return publish(Release(workspace, params), artifact, model=params.model.name, contract=wire_contract(params))
