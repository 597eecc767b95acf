"""Faults of what has been made small and fast: F4, F29, F30, F31, F33."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from msgspec import structs

from lobsmith.compress import MODEL
from lobsmith.compress.quantise.quantise import quantise
from lobsmith.compress.quantise.ranges import calibration_streams
from lobsmith.compress.runtime import Float, ModelOutputs, OnnxModel, StatefulModel
from lobsmith.compress.tensorrt.plan import EngineBuild, fits
from lobsmith.errors import PrecisionError, ServingError, TrainingError
from lobsmith.features.dataset import DATASET, build_dataset, load_dataset, save_dataset
from lobsmith.files import exclusive_lock
from lobsmith.gates.compression import Compressed
from lobsmith.market.simulator import simulate
from lobsmith.models.split import split
from lobsmith.models.train import WEIGHTS
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.publish import built_plans
from lobsmith.release.publish.built_plans import build_and_publish
from lobsmith.stages.compress import compress, load_summary
from lobsmith.stages.engines import plan_verdicts
from lobsmith.stages.train import train_stage
from lobsmith.workspace import Workspace
from tests.small import small_params


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params(**{"compress.precisions": ["fp32", "int8_static"]})


@pytest.fixture(scope="module")
def run(params: Params, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compressed]:
    directory = shutil.copytree(small_run, tmp_path_factory.mktemp("run"), dirs_exist_ok=True)
    return directory, compress(
        structs.replace(params, compress=structs.replace(params.compress, candidate="fp32")), directory
    )


class Engine(StatefulModel):
    """An engine that computes a little differently from the file that it was built from."""

    def __init__(self, path: Path, sharpness: float = 1.0, broken: float | None = None) -> None:
        self._model = OnnxModel(path)
        self.feature_count, self.state_size = self._model.feature_count, self._model.state_size
        self._sharpness, self._broken = sharpness, broken

    def run(self, features: Float, state: Float) -> ModelOutputs:
        answer = self._model.run(features, state)
        changed = answer.probabilities**self._sharpness
        changed /= changed.sum(axis=3, keepdims=True)
        if self._broken is not None:
            changed[:] = self._broken
        return answer._replace(probabilities=changed.astype(np.float32))


def passed_gates(params: Params, run: tuple[Path, Compressed], engine: Engine) -> dict[str, bool]:
    return {verdict.gate: verdict.passed for verdict in plan_verdicts(params, *run, engine)}


def test_an_engine_that_is_the_network_passes(params: Params, run: tuple[Path, Compressed]) -> None:
    assert passed_gates(params, run, Engine(run[0] / MODEL)) == {"parity": True, "compression": True}


def test_f31_an_accuracy_loss_that_only_the_engine_has(params: Params, run: tuple[Path, Compressed]) -> None:
    """Within the tolerance of its arithmetic at every row, and worse all the same."""
    loose = structs.replace(params, engine=structs.replace(params.engine, precision="int8"))
    tight = structs.replace(loose, compress=structs.replace(params.compress, log_loss=1e-4))
    dull = Engine(run[0] / MODEL, sharpness=0.8)
    assert passed_gates(tight, run, dull) == {"parity": True, "compression": False}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1 / 3])
def test_f30_an_engine_whose_answers_are_none(value: float, params: Params, run: tuple[Path, Compressed]) -> None:
    answers = passed_gates(params, run, Engine(run[0] / MODEL, broken=value))
    assert answers["parity"] is False


def test_f4_plans_for_another_gpu_or_version_have_a_reason() -> None:
    build = EngineBuild(
        builder="tensorrt",
        builder_version="10.13.2.6",
        cuda_version="13",
        gpu="NVIDIA L4",
        precision="fp32",
        source_sha256="0" * 64,
        profiles=(),
        plans={"8.9": "model.sm89.plan"},
        sha256={"model.sm89.plan": "0" * 64},
        build_s=1.0,
    )
    assert fits(build, "8.9", "10.13.2") is None
    for capability, version, named in (
        ("9.0", "10.13.2", "9.0"),
        ("8.9", "11.4.0", "11.4.0"),
        (None, "10.13.2", "no GPU"),
    ):
        reason = fits(build, capability, version)
        assert reason is not None
        assert named in reason


FAILURES = [
    ServingError("the server is gone"),
    PrecisionError("out of range"),
    OSError(28, "No space"),
    RuntimeError("CUDA"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_what_becomes_of_plans_never_fails_a_retrain(
    error: Exception, run: tuple[Path, Compressed], params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(built_plans, "build_plans", fail)
    # The manifest is not read before there are plans.
    outcome = build_and_publish(Release(Workspace(tmp_path), params), run[1], Mock(), run[0])
    assert outcome == f"no plans: {error}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_f29_an_integer_graph_hides_what_is_not_finite(
    value: float, params: Params, run: tuple[Path, Compressed], tmp_path: Path
) -> None:
    """So requests are refused before they reach it: `tests/serving/test_engine.py` and the backend's tests."""
    source = run[0] / "candidates" / "full" / "int8_static" / MODEL
    model = OnnxModel(source)
    features = load_dataset(run[0] / DATASET).rows.features[-20:].copy()
    features[5, 3] = value
    probabilities = model.predict(features)[0]
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("kind", ["nothing", "not finite", "constant"])
def test_f33_calibration_on_degenerate_rows(
    kind: str, params: Params, run: tuple[Path, Compressed], tmp_path: Path
) -> None:
    source, target = run[0] / "candidates" / "full" / MODEL, tmp_path / "int8.onnx"
    dataset = load_dataset(run[0] / DATASET)
    streams = calibration_streams(dataset, split(dataset, params.split).train, 256, 1)
    streams = {
        "nothing": [],
        "not finite": [*streams, np.full_like(streams[0], np.nan)],
        "constant": [np.ones_like(stream) for stream in streams],
    }[kind]
    if kind == "constant":
        quantise(source, target, "int8_static", streams, params.compress)
        assert np.isfinite(OnnxModel(target).predict(dataset.rows.features[-50:])[0]).all()
    else:
        with pytest.raises(PrecisionError):
            quantise(source, target, "int8_static", streams, params.compress)
        assert list(tmp_path.iterdir()) == []


def copied(run: tuple[Path, Compressed], target: Path) -> Path:
    shutil.copytree(run[0], target)
    return target


def test_candidates_of_other_weights_are_not_evaluated(run: tuple[Path, Compressed], tmp_path: Path) -> None:
    directory = copied(run, tmp_path / "run")
    other = small_params(**{"train.seed": 12})
    train_stage(other, [directory / DATASET], directory)
    with pytest.raises(TrainingError, match="of other weights; run the compress stage again"):
        load_summary(directory)


def test_what_an_earlier_stage_has_left_is_not_taken_for_new(
    run: tuple[Path, Compressed], params: Params, tmp_path: Path
) -> None:
    directory = copied(run, tmp_path / "run")
    (directory / WEIGHTS).unlink()
    with pytest.raises(TrainingError, match="weights.safetensors"):
        compress(params, directory)
    with pytest.raises(TrainingError, match="run the compress stage again"):
        load_summary(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels.horizons_ms": [100, 500]}, "the parameters have 75 and 100, 500 ms; run the features stage again"),
        ({"labels.horizons_ms": [50, 100, 500], "train.horizon_weights": [1, 1, 1]}, "run the features stage again"),
    ],
)
def test_f3_parameters_of_another_contract(
    changes: dict[str, object], message: str, run: tuple[Path, Compressed], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        compress(small_params(**changes), copied(run, tmp_path / "run"))


def test_f3_rows_of_another_contract(run: tuple[Path, Compressed], tmp_path: Path) -> None:
    directory, other = copied(run, tmp_path / "run"), small_params(**{"labels.horizons_ms": [100, 500]})
    save_dataset(build_dataset(simulate(seed=3, seconds=60), other), directory / DATASET)
    with pytest.raises(TrainingError, match="the rows have 75 and 100, 500 ms; run the train stage again"):
        compress(other, directory)


def test_two_at_once_do_not_mix_their_files(run: tuple[Path, Compressed], params: Params, tmp_path: Path) -> None:
    directory = copied(run, tmp_path / "run")
    before = load_summary(directory)
    with exclusive_lock(directory / ".compress.lock", 1.0), pytest.raises(TrainingError, match="another process"):
        compress(params, directory)
    assert load_summary(directory) == before


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    run: tuple[Path, Compressed], params: Params, tmp_path: Path
) -> None:
    directory = copied(run, tmp_path / "run")
    shutil.rmtree(directory / "candidates")
    (directory / "candidates").write_text("in the way")
    with pytest.raises(TrainingError, match="candidates.*: .*no candidate to serve"):
        compress(params, directory)
