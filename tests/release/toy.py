"""A model of a few nodes that keeps the wire contract, and variants that do not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from lobsmith.compress.golden import Golden, golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.market.instrument import Instrument
from lobsmith.params import Params, load_params
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Manifest, write_manifest
from lobsmith.release.version.recipe import environment
from lobsmith.release.version.signing import Trust, signer
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace
from tests.release.scores import write_reference, write_score

F, S, HORIZONS = 3, 2, (100, 1000)
CONTRACT = WireContract(feature_count=F, state_size=S, horizons_ms=HORIZONS, definitions_sha256="5" * 64)
PASSED = Verdict(gate="parity", passed=True, value=1e-7, threshold=1e-5)
REFUSED = Verdict(gate="skill", passed=False, value=1.2, threshold=1.0)
SIM = Instrument(venue="simulator", symbol="SIM", tick_size=0.01, lot_size=0.001)
ROWS = np.random.default_rng(3).normal(size=(20, F)).astype(np.float32)


def workspace_of(version: Path) -> Workspace:
    """Return the workspace in whose repository a version lies."""
    return Workspace(version.parents[2])


def trust_of(version: Path) -> Trust:
    """Return what that workspace trusts."""
    return Trust.of(workspace_of(version))


def manifest(model: str, version: int, created_ns: int, **changes: Any) -> Manifest:
    """Return the manifest of a version that was trained here, on data that do not matter."""
    return structs.replace(
        Manifest(
            model=model,
            version=version,
            artifact_id="0" * 64,
            created_ns=created_ns,
            files={},
            contract=CONTRACT,
            prime_rows=1,
            instruments=(),
            precision="float32",
            gpu_architecture=None,
            git_commit=None,
            data_fingerprint="",
            params={},
            mlflow_run_id=None,
            verdicts=(),
            metrics={},
            environment=environment(1),
        ),
        **changes,
    )


def seal(version: Path, manifest: Manifest) -> None:
    """Write a manifest as an honest publisher of the version's workspace would."""
    write_manifest(version, manifest, signer(workspace_of(version)))


def params(**overrides: Any) -> Params:
    """The project's parameters; overrides are dotted names with `__` for the dot."""
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_params(
        Path(__file__).parents[2] / "params.yaml",
        {"serving.warmup": 2, "serving.warmup_rows": 50, "client.deadline_s": 10.0, **named},
    )


def write_model(
    path: Path,
    *,
    scale: float = 0.3,
    offset: float = 0.0,
    outlook_offset: float = 0.0,
    names: dict[str, str] | None = None,
    features: int = F,
    batch: str | int = "batch",
    external: bool = False,
) -> Path:
    """Write a running mean of the features, carried in the state with a count of rows, through a softmax.

    Args:
        path: the file.
        scale: of the logits; 0 makes every answer the same.
        offset: added to the probabilities; NaN makes every one of them NaN.
        outlook_offset: the same for the outlook.
        names: tensors under other names.
        features: F.
        batch: dimension of the batch; a number fixes it.
        external: keep the weights in a side file, `weights.bin`.
    """
    slopes = np.linspace(-scale, scale, 2 * 3, dtype=np.float32).reshape(2, 3)
    constants: dict[str, Any] = {
        "slopes": slopes,
        "offset": np.array([offset], np.float32),
        "outlook_slopes": np.linspace(-1, 1, 2 * 5, dtype=np.float32).reshape(2, 5),
        "outlook_offset": np.array([outlook_offset], np.float32),
        "time_axis": np.array(1, np.int64),
        "last_axes": np.array([2, 3], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "minus_one": np.array([-1], np.int64),
        "end": np.array([2**31 - 1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("CumSum", ["mean", "time_axis"], ["sums"]),
        helper.make_node("Slice", ["state", "zero", "one", "one"], ["old_sum"]),
        helper.make_node("Slice", ["state", "one", "two", "one"], ["old_count"]),
        helper.make_node("Add", ["sums", "old_sum"], ["carried"]),
        helper.make_node("Unsqueeze", ["carried", "last_axes"], ["wide"]),
        helper.make_node("Mul", ["wide", "slopes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["softmax"], axis=3),
        helper.make_node("Add", ["softmax", "offset"], ["probabilities"]),
        helper.make_node("Mul", ["wide", "outlook_slopes"], ["sloped"]),
        helper.make_node("Sigmoid", ["sloped"], ["sigmoid"]),
        helper.make_node("Add", ["sigmoid", "outlook_offset"], ["outlook"]),
        helper.make_node("Slice", ["carried", "minus_one", "end", "one"], ["last"]),
        helper.make_node("Shape", ["features"], ["shape"], start=1, end=2),
        helper.make_node("Cast", ["shape"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["old_count", "rows"], ["count"]),
        helper.make_node("Concat", ["last", "count"], ["next_state"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, "time", features]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [batch, S]),
        ],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, "time", 2, 3]),
            helper.make_tensor_value_info("outlook", TensorProto.FLOAT, [batch, "time", 2, 5]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [batch, S]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    for old, new in (names or {}).items():
        for tensor in (*graph.input, *graph.output):
            tensor.name = new if tensor.name == old else tensor.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save_model(model, path)
    return path


def golden(path: Path) -> Golden:
    """Return what a model file answers."""
    return golden_vectors(OnnxModel(path), ROWS)


def artifact(
    folder: Path,
    *,
    scale: float = 0.3,
    verdicts: tuple[Verdict, ...] = (PASSED,),
    rows: int = 7,
    step_scale: float | None = None,
    precision: str = "fp32",
    scored: bool = False,
    score_scale: float = 1.0,
    instruments: tuple[Instrument, ...] = (SIM,),
) -> Artifact:
    """Write a valid model into a folder and return the artifact of a retrain.

    With `step_scale` it has a graph for one row too; one of another scale is not the same network.
    Where it is `scored` it has a drift score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = write_model(folder / "model.onnx", scale=scale)
    step = None if step_scale is None else write_model(folder / "step.onnx", scale=step_scale, batch=1)
    return Artifact(
        reference_path=write_reference(folder / "reference.safetensors", features=F) if scored else None,
        score_path=write_score(folder / "drift.onnx", features=F, scale=score_scale) if scored else None,
        model_path=path,
        step_path=step,
        precision=precision,
        golden=golden(path),
        prime_rows=rows,
        instruments=instruments,
        data_fingerprint="f" * 64,
        verdicts=verdicts,
        metrics={"log_loss_100": 0.9},
    )
