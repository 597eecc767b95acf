"""Validation of a version in a child process, because a model file may crash or hang its reader.

`python -m lobsmith.release.checks.validation DIRECTORY TRUSTED` checks hashes and signature (keys in TRUSTED), loads
the model with ONNX Runtime or TensorRT, and compares its answers, as one chunk and step by step, with the golden
vectors; also the drift score. Prints one JSON object; exit status 0 if valid, else 1.
"""

import importlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from msgspec import Struct

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import Golden, load_golden
from lobsmith.compress.runtime import Float, ModelOutputs, OnnxModel
from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import fits
from lobsmith.drift import SCORE
from lobsmith.errors import LobsmithError, ReleaseError
from lobsmith.process import run_module
from lobsmith.release.version.contract import CLASSES, OUTLOOKS, WireContract
from lobsmith.release.version.manifest import Manifest, check_files
from lobsmith.release.version.signing import Trust

TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 5e-2, "int8_static": 2e-2, "int8_dynamic": 1e-1}
"""Largest difference from the golden vectors by precision: absolute up to 1, relative above.

Integer arithmetic differs between one chunk, steps and processors: a last bit decides a rounding, and dynamic ranges
are those of a call.
"""

PLAN_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 1e-1}
"""The same for a plan, by its precision: TensorRT sums in another order."""

_SUM_TOLERANCE = 1e-3


class _Model(Protocol):
    def run(self, features: Float, state: Float) -> ModelOutputs: ...


class Validation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Output of the process: rows of golden vectors and the largest difference, or the reason of a refusal."""

    proven: bool
    rows: int = 0
    largest_difference: float = 0.0
    reason: str = ""


def validate(directory: Path, trust: Trust, deadline_s: float) -> Validation:
    """Validate a version's directory, staged or published, in a child process.

    Raises:
        ReleaseError: the version is invalid, or the process crashed or took longer than `deadline_s`.
    """
    try:
        completed = run_module(
            "lobsmith.release.checks.validation", str(directory), str(trust.path), deadline_s=deadline_s
        )
    except subprocess.TimeoutExpired:
        raise ReleaseError(f"{directory}: not validated within {deadline_s:g} s; nothing was published") from None
    lines = completed.stdout.splitlines()
    try:
        validation = msgspec.json.decode(lines[-1], type=Validation)
    except (IndexError, msgspec.DecodeError) as error:
        status = completed.returncode
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        output = completed.stderr.decode(errors="replace").strip().splitlines()
        last = output[-1] if output else "no output"
        raise ReleaseError(f"{directory}: its validation crashed ({how}): {last}") from error
    if not validation.proven or completed.returncode:
        reason = validation.reason or f"{directory}: its validation ended with status {completed.returncode}"
        raise ReleaseError(reason)
    return validation


def check_version(directory: Path, trust: Trust) -> Validation:
    """Validate a version's directory in this process.

    Raises:
        ReleaseError: a file is not as in the manifest; the model cannot be loaded; its answers are not finite, are
            constant, are no probabilities or differ from the golden vectors; or its score is invalid.
    """
    manifest = check_files(directory, trust)
    golden = load_golden(directory / GOLDEN)
    _check_golden(directory / GOLDEN, golden, manifest.contract)
    path, model, tolerance = _open(directory, manifest)
    at_once = _run(model, path, golden.features, golden.state)
    answers = [(path, "as one chunk", at_once), (path, "step by step", _run_steps(model, path, golden))]
    if STEP in manifest.files:
        step = directory / STEP
        answers.append((step, "step by step", _run_steps(OnnxModel(step), step, golden)))
    largest = 0.0
    for path, how, answer in answers:
        for name, have in answer._asdict().items():
            want = getattr(golden, name)
            difference = largest_difference(have, want)
            if difference > tolerance:
                raise ReleaseError(
                    f"{path}: {name} {how} differ from the golden vectors by {difference:.3g}, "
                    f"more than {tolerance:g}; export the model again"
                )
            largest = max(largest, difference)
    probabilities = at_once.probabilities
    if np.ptp(probabilities, axis=1).max() == 0:
        raise ReleaseError(f"{path}: its answers are the same for every row; train it again")
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=3) - 1).max() > _SUM_TOLERANCE:
        raise ReleaseError(f"{path}: its answers are no probabilities; export it with the softmax")
    if SCORE in manifest.files:
        # `onnx` takes half a second to import.
        from lobsmith.release.checks.score_validation import check_score

        check_score(directory, manifest.contract)
    return Validation(proven=True, rows=golden.features.shape[1], largest_difference=largest)


def _run_steps(model: _Model, path: Path, golden: Golden) -> ModelOutputs:
    parts, state = [], golden.state
    for row in range(golden.features.shape[1]):
        part = _run(model, path, golden.features[:, row : row + 1], state)
        state = part.next_state
        parts.append(part)
    return ModelOutputs(
        np.concatenate([part.probabilities for part in parts], axis=1),
        np.concatenate([part.outlook for part in parts], axis=1),
        state,
    )


def _open(directory: Path, manifest: Manifest) -> tuple[Path, _Model, float]:
    """Return the model's file, the model and its tolerance.

    Raises:
        ReleaseError: it cannot be loaded, or this machine cannot run all of the plans.
    """
    build = manifest.engine
    if build is None:
        if manifest.precision not in TOLERANCE:
            raise ReleaseError(f"{directory}: its precision is {manifest.precision!r}, none of {', '.join(TOLERANCE)}")
        return directory / MODEL, OnnxModel(directory / MODEL), TOLERANCE[manifest.precision]
    gpu = this_gpu()
    capability = None if gpu is None else gpu.capability
    reason = fits(build, capability, _installed_tensorrt())
    foreign = [plan_capability for plan_capability in build.plans if plan_capability != capability]
    if reason or foreign:
        raise ReleaseError(
            f"{directory}: a plan can only be validated on a GPU of capability {', '.join(build.plans)}: "
            f"{reason or 'the one here has ' + str(capability)}; publish from such a machine, plans for each by itself"
        )
    # PyTorch takes two seconds to import; ONNX models do not need it.
    from lobsmith.compress.tensorrt.run import EngineModel

    [name] = build.plans.values()
    return directory / name, EngineModel(directory), PLAN_TOLERANCE[build.precision]


def _installed_tensorrt() -> str | None:
    try:
        return str(importlib.import_module("tensorrt").__version__)
    except (ImportError, OSError):
        return None


def _check_golden(path: Path, golden: Golden, contract: WireContract) -> None:
    """Refuse golden vectors that do not distinguish a good model from a bad one."""
    rows = golden.features.shape[1] if golden.features.ndim == 3 else 0
    shapes = {
        "features": (1, rows, contract.feature_count),
        "state": (1, contract.state_size),
        "probabilities": (1, rows, len(contract.horizons_ms), len(CLASSES)),
        "outlook": (1, rows, len(contract.horizons_ms), len(OUTLOOKS)),
        "next_state": (1, contract.state_size),
    }
    for name, shape in shapes.items():
        have = getattr(golden, name)
        if rows < 2 or have.shape != shape or have.dtype != np.float32:
            raise ReleaseError(
                f"{path}: {name} is {have.dtype} {list(have.shape)}, not float32 {list(shape)} with 2 rows or more; "
                "make the golden vectors again"
            )
        if not np.isfinite(have).all():
            raise ReleaseError(f"{path}: {name} holds numbers that are not finite; make the golden vectors again")


def _run(model: _Model, path: Path, features: Float, state: Float) -> ModelOutputs:
    try:
        answer = model.run(features, state)
    except ReleaseError as error:
        raise ReleaseError(f"{path}: {error}") from error
    except Exception as error:  # exceptions of runtimes share no base class
        reason = " ".join(str(error).split())
        raise ReleaseError(f"{path}: it cannot be run: {reason}; export it again") from error
    if not all(np.isfinite(array).all() for array in answer):
        raise ReleaseError(f"{path}: its answers are not finite; train it again")
    return answer


def largest_difference(have: Float, want: Float) -> float:
    """Return the largest difference: absolute up to 1, relative above; infinite for unequal shapes."""
    if have.shape != want.shape:
        return float("inf")
    return float((np.abs(have - want) / np.maximum(1, np.abs(want))).max())


def _main(arguments: list[str]) -> int:
    directory = Path(arguments[0])
    try:
        validation = check_version(directory, Trust(Path(arguments[1])))
    except LobsmithError as error:
        validation = Validation(proven=False, reason=str(error))
    sys.stdout.write(msgspec.json.encode(validation).decode() + "\n")
    return 0 if validation.proven else 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
