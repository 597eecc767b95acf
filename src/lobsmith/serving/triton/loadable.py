"""Which versions a server on this machine can load, checked beforehand: hashes, and plans against GPU and TensorRT.

A failed load can make all versions of a model unavailable or crash the server.
"""

import ctypes

from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import fits
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.triton_config import PLANS_BACKEND
from lobsmith.serving.triton.embedded import backends_folder
from lobsmith.workspace import Workspace

_TENSORRT = ("libnvinfer.so.11", "libnvinfer.so.10")


def loadable(workspace: Workspace, model: str) -> tuple[list[int], dict[int, str]]:
    """Split a model's listed versions for the workspace's server.

    Returns:
        Valid versions that this machine can run, ascending, and the reason for each other.

    Raises:
        ReleaseError: a configuration is unreadable.
    """
    repository = Repository.of(workspace)
    valid, skipped = repository.valid(model)
    if not valid or not repository.is_plans(model):
        return valid, skipped
    backend = backends_folder(workspace) / PLANS_BACKEND
    if not backend.is_dir():
        missing = f"Triton has no tensorrt backend in {backend.parent}; the ONNX model answers"
        return [], {**skipped, **dict.fromkeys(valid, missing)}
    tensorrt = _tensorrt_version()
    gpu = this_gpu()
    capability = None if gpu is None else gpu.capability
    fitting = []
    for version in valid:
        build = repository.verify(model, version).engine
        reason = "it has no plans" if build is None else fits(build, capability, tensorrt)
        if reason is None:
            fitting.append(version)
        else:
            skipped[version] = f"{reason}; the ONNX model answers"
    return fitting, skipped


def _tensorrt_version() -> str | None:
    """Return the version of the TensorRT library here, as "10.13.2", or None."""
    for name in _TENSORRT:
        try:
            number = int(ctypes.CDLL(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
        # NvInferVersion.h: NV_TENSORRT_VERSION is major * 10000 + minor * 100 + patch.
        return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    return None
