"""Training runs in MLflow, and the registered versions made of them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from lobsmith.compress import MODEL
from lobsmith.errors import ReleaseError
from lobsmith.files import sha256_file
from lobsmith.release.registry.aliases import ARTIFACT_ID, SERVING, Registered, find_registered
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.units import NS_PER_MS
from lobsmith.workspace import SQLITE, Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

WINDOW = "window"
"""Tag: the training's recipe; see `lobsmith.release.version.recipe.window_id`."""
# Limits of one MLflow call.
_BATCH = 100
_LONGEST_VALUE = 6000


@dataclass(frozen=True)
class RunRef:
    """A run in MLflow, its logged model and the registered version of that."""

    run_id: str
    model_uri: str
    registry_version: int


def log_run(
    workspace: Workspace,
    *,
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, float]] = (),
    artifacts: Sequence[Path] = (),
    model_path: Path,
    model_name: str,
    tags: Mapping[str, str] | None = None,
) -> RunRef:
    """Log a training run and register its model.

    Args:
        workspace: whose MLflow store is used; made on first use, which takes seconds.
        experiment: of the run; made on first use.
        run_name: on MLflow's page.
        params: nested tables; logged under dotted names.
        metrics: final values.
        history: metrics of each epoch, the first being MLflow's step 0.
        artifacts: files and folders to keep.
        model_path: the ONNX file, without side files.
        model_name: the registered model.
        tags: of run and registered version.

    Raises:
        ReleaseError: the store cannot be reached, is locked, or refused a call; or its copy of the model differs.
    """
    artifact_id = sha256_file(model_path)
    tags = dict(tags or {})
    with mlflow_store(workspace) as client:
        run_id = client.create_run(_experiment(client, workspace, experiment), run_name=run_name, tags=tags).info.run_id
        try:
            _log_numbers(client, run_id, flatten(params), metrics, history)
            for path in artifacts:
                client.log_artifact(run_id, str(path))
            model_uri = _log_model(run_id, model_path, artifact_id)
            version = _register(client, model_name, model_uri, run_id, {**tags, ARTIFACT_ID: artifact_id})
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)
    return RunRef(run_id, model_uri, version)


def log_again(workspace: Workspace, run_id: str, path: Path) -> None:
    """Replace a file that is kept with a run.

    Raises:
        ReleaseError: the store cannot be reached, is locked, or refused the call.
    """
    with mlflow_store(workspace) as client:
        client.log_artifact(run_id, str(path))


def already_trained(workspace: Workspace, model: str, window: str) -> Registered | None:
    """Return the newest registered version with a training's recipe that has a status (tag `serving`).

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    # Without a status the run was killed, and is repeated.
    versions = find_registered(workspace, model, {WINDOW: window})
    return next((version for version in reversed(versions) if SERVING in version.tags), None)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested tables as one table with dotted names.

    >>> flatten({"train": {"epochs": 6}, "labels": {"horizons_ms": [100, 1000]}})
    {'train.epochs': '6', 'labels.horizons_ms': '[100, 1000]'}
    """
    flat: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return flat


def _experiment(client: "MlflowClient", workspace: Workspace, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A server has its own artifact location.
    embedded = workspace.mlflow_uri.startswith(SQLITE)
    location = workspace.mlflow_artifacts.absolute().as_uri() if embedded else None
    return client.create_experiment(name, artifact_location=location)


def _log_numbers(
    client: "MlflowClient",
    run_id: str,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
) -> None:
    from mlflow.entities import Metric, Param

    now_ms = time.time_ns() // NS_PER_MS
    rows = [Param(key, value[:_LONGEST_VALUE]) for key, value in params.items()]
    numbers = [Metric(key, value, now_ms, step) for step, epoch in enumerate(history) for key, value in epoch.items()]
    numbers += [Metric(key, value, now_ms, 0) for key, value in metrics.items()]
    for start in range(0, len(rows), _BATCH):
        client.log_batch(run_id, params=rows[start : start + _BATCH])
    for start in range(0, len(numbers), _BATCH):
        client.log_batch(run_id, metrics=numbers[start : start + _BATCH])


def _log_model(run_id: str, path: Path, artifact_id: str) -> str:
    import mlflow
    import mlflow.onnx
    import onnxruntime

    model = onnx.load_model(str(path), load_external_data=False)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.onnx.log_model(
            model,
            name="model",
            # By default the weights go to a side file, which the model repository refuses.
            save_as_external_data=False,
            # By default a child process loads the model to infer them.
            pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
            onnx_execution_providers=["CPUExecutionProvider"],
            signature=_signature(model),
        )
    copy = Path(mlflow.artifacts.download_artifacts(logged.model_uri)) / MODEL
    if sha256_file(copy) != artifact_id:
        raise ReleaseError(f"{copy}: MLflow wrote the model with other bytes than {path}; export the model again")
    return str(logged.model_uri)


def _signature(model: Any) -> "ModelSignature":
    """Return the tensors as MLflow's signature; -1 stands for batch and time."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Any) -> Schema:
        return Schema(
            [
                TensorSpec(
                    onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type),
                    tuple(
                        dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.type.tensor_type.shape.dim
                    ),
                    tensor.name,
                )
                for tensor in tensors
            ]
        )

    return ModelSignature(inputs=schema(model.graph.input), outputs=schema(model.graph.output))


def _register(client: "MlflowClient", name: str, uri: str, run_id: str, tags: dict[str, str]) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return int(client.create_model_version(name, uri, run_id=run_id, tags=tags).version)
