"""Description of a TensorRT engine: its plans, and what they were built with."""

from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import EngineError

ENGINE = "engine.json"
"""The `EngineBuild` beside the plans."""


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes that an engine is optimised for: least, typical and most streams, and rows of each."""

    name: str
    batch: tuple[int, int, int]
    rows: tuple[int, int, int]


class EngineBuild(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plans of one model. A plan runs only on its builder's version and its compute capability.

    Attributes:
        builder: `tensorrt` or `tensorrt_rtx`.
        builder_version: its full version.
        cuda_version: CUDA's, where the builder states it.
        gpu: name of the GPU that timed the plans; None without one.
        precision: fp32, fp16, bf16 or int8.
        source_sha256: of the ONNX file.
        profiles: what the plans are optimised for.
        plans: compute capability, as "8.9", to file name.
        sha256: file name to SHA-256.
        build_s: seconds.
    """

    builder: str
    builder_version: str
    cuda_version: str | None
    gpu: str | None
    precision: str
    source_sha256: str
    profiles: tuple[Profile, ...]
    plans: dict[str, str]
    sha256: dict[str, str]
    build_s: float


def read_build(directory: Path) -> EngineBuild:
    """Read the description of the plans in a directory.

    Raises:
        EngineError: `engine.json` is missing or invalid.
    """
    path = directory / ENGINE
    try:
        return jsonl.decode(path.read_bytes(), EngineBuild)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}; build it again") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise EngineError(f"{path}: not the description of a build: {error}; build it again") from error


def check_engine(build: EngineBuild, *, builder: str, builder_version: str, capability: str) -> None:
    """Refuse plans that this runtime would not load, or would run wrongly.

    `builder_version` is the full version; `capability` is the GPU's, as "8.9".

    Raises:
        EngineError: another builder, another version, or no plan for that capability.
    """
    built, here = f"{build.builder} {build.builder_version}", f"{builder} {builder_version}"
    if built != here:
        raise EngineError(f"the engine was built with {built} and this is {here}; build it again with {here}")
    if capability not in build.plans:
        raise EngineError(
            f"the engine was built for compute capability {', '.join(build.plans)} and this GPU has {capability}; "
            f"add it to engine.capabilities and build the engine again"
        )


def fits(build: EngineBuild, gpu_capability: str | None, tensorrt: str | None) -> str | None:
    """Return why plans cannot run on a machine, None where they can.

    Args:
        build: the plans.
        gpu_capability: as "8.9"; None without a GPU.
        tensorrt: its version, "10.13.2" or longer; None without it.
    """
    built_for = ", ".join(build.plans)
    if tensorrt is None:
        return f"there is no TensorRT here; the plans need {build.builder_version}"
    if gpu_capability is None:
        return f"there is no GPU here; the plans are for capability {built_for}"
    if gpu_capability not in build.plans:
        return f"the plans are for GPUs of capability {built_for}, the one here has {gpu_capability}"
    # Libraries state three numbers of their version; TensorRT refuses plans of another.
    if tensorrt.split(".")[:3] != build.builder_version.split(".")[:3]:
        return f"the plans were built with TensorRT {build.builder_version}, here is {tensorrt}"
    return None
