"""What is known of a TensorRT engine: which plans it has, and what they were built with."""

from msgspec import Struct


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
