"""What is known of a TensorRT engine: which plans it has, and what they were built with."""

from msgspec import Struct

from lobsmith.errors import EngineError


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes that an engine is optimised for: least, usual and most streams, and rows of each."""

    name: str
    batch: tuple[int, int, int]
    rows: tuple[int, int, int]


class EngineBuild(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plans of one model. A plan runs only with the builder's version and on the capability that it was built for.

    Attributes:
        builder: `tensorrt` or `tensorrt_rtx`.
        builder_version: its full version.
        cuda_version: CUDA's, as the builder states it; None where it does not.
        gpu: name of the GPU that plans were timed on; None for a build without one.
        precision: fp32, fp16, bf16 or int8.
        source_sha256: of the ONNX file that was built.
        profiles: what the plans are optimised for.
        plans: compute capability, as "8.9", to the plan's file name.
        sha256: plan's file name to its SHA-256.
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


def check_engine(build: EngineBuild, *, builder: str, builder_version: str, capability: str) -> None:
    """Refuse plans that this runtime would not load, or would load and run wrongly.

    Args:
        build: what the plans were built with.
        builder: the runtime's name: `tensorrt` or `tensorrt_rtx`.
        builder_version: its full version; plans are only good for the very same.
        capability: compute capability of the GPU, as "8.9".

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
