"""TensorRT's builder in a child process: it may crash, hang or exhaust memory.

`python -m lobsmith.compress.tensorrt.child REQUEST` writes one plan per compute capability and prints a `BuildResult`
as JSON. The packages `tensorrt` (10 and 11) and `tensorrt_rtx` have one Python API.
"""

import importlib
import importlib.metadata
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from lobsmith.compress.tensorrt.gpu import Gpu, this_gpu
from lobsmith.compress.tensorrt.plan import Profile
from lobsmith.errors import EngineError
from lobsmith.files import write_atomic
from lobsmith.process import end_with

INPUTS = {"features": 3, "state": 2}
"""Dimensions of the inputs [B, T, F] and [B, S]."""

_ERRORS_KEPT = 5


class BuildRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to build. Empty `capabilities` stand for this machine's GPU."""

    parent: int
    source: str
    directory: str
    builder: str
    capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    workspace_mib: int
    cache: str | None


class BuildResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The build's result. `plans`: compute capability to file name; `reason`: why there are none."""

    reason: str = ""
    builder_version: str = ""
    cuda_version: str | None = None
    gpu: str | None = None
    profiles: tuple[Profile, ...] = ()
    plans: dict[str, str] = msgspec.field(default_factory=dict)
    build_s: float = 0.0


def build_plans(request: BuildRequest) -> BuildResult:
    """Build plans in this process.

    Raises:
        EngineError: the builder is missing, cannot build for a capability, or refuses the network.
        OSError: a file could not be read or written.
    """
    started = time.monotonic()
    try:
        trt = importlib.import_module(request.builder)
    except (ImportError, OSError) as error:
        raise EngineError(f"{request.builder} cannot be imported: {error}") from error
    gpu = this_gpu()
    targets = _targets(trt, request, gpu)
    log = error_log(trt)
    builder = trt.Builder(log)
    network, parser = _parse(trt, builder, log, Path(request.source))
    profiles = fit_profiles(request.profiles, {name: tuple(tensor.shape) for name, tensor in _inputs(network).items()})
    cuda_version = _cuda_version(request.builder)
    cache = TimingCache(request, trt.__version__, cuda_version, gpu)
    plans = {}
    for capability in targets:
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
        # TF32 rounds factors to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        for profile in profiles:
            _add_profile(builder, config, network, profile)
        if request.builder == "tensorrt_rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(_offered(trt)[capability], 0)
        cache.attach(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"no plan for {capability}: {log.message()}{_remedy(log.message())}")
        cache.keep(config)
        plans[capability] = f"model.sm{capability.replace('.', '')}.plan"
        write_atomic(Path(request.directory) / plans[capability], bytes(plan))
    # The parser owns the network's weights.
    del parser
    return BuildResult(
        builder_version=trt.__version__,
        cuda_version=cuda_version,
        # TensorRT-RTX times no kernels in a build: its plans do not depend on this GPU.
        gpu=gpu.name if gpu and request.builder == "tensorrt" else None,
        profiles=profiles,
        plans=plans,
        build_s=time.monotonic() - started,
    )


def fit_profiles(profiles: tuple[Profile, ...], shapes: dict[str, tuple[int, ...]]) -> tuple[Profile, ...]:
    """Return distinct profiles within the dimensions that a network fixes.

    `shapes` are those of `features` [B, T, F] and `state` [B, S]; -1 is free.

    Raises:
        EngineError: no profile covers a fixed dimension.
    """
    batch, rows, _ = shapes["features"]
    fitted: list[Profile] = []
    for profile in profiles:
        spans = [(profile.batch, batch), (profile.rows, rows)]
        if any(size != -1 and not span[0] <= size <= span[2] for span, size in spans):
            continue
        fixed = [span if size == -1 else (size, size, size) for span, size in spans]
        if all(fixed != [other.batch, other.rows] for other in fitted):
            fitted.append(structs.replace(profile, batch=fixed[0], rows=fixed[1]))
    if not fitted:
        raise EngineError(f"the network takes features [{batch}, {rows}] only, which no profile covers")
    return tuple(fitted)


def _remedy(message: str) -> str:
    """Return the remedy of an out-of-memory failure."""
    if "OutOfMemory" not in message:
        return ""
    return "; lower engine.largest_batch or largest_chunk, or raise engine.memory_mib, of which a quarter is workspace"


def _targets(trt: Any, request: BuildRequest, gpu: Gpu | None) -> tuple[str, ...]:
    own = (gpu.capability,) if gpu else ()
    targets = tuple(dict.fromkeys(request.capabilities)) or own
    offered = tuple(_offered(trt)) if request.builder == "tensorrt_rtx" else own
    if not targets:
        raise EngineError("this machine has no GPU to build for; name compute capabilities in engine.capabilities")
    refused = [capability for capability in targets if capability not in offered]
    if refused and request.builder == "tensorrt":
        raise EngineError(
            f"it builds for the GPU of its own machine only ({own[0] if own else 'there is none'}), "
            f"not for compute capability {', '.join(refused)}; build there, or with tensorrt_rtx"
        )
    if refused:
        raise EngineError(
            f"version {trt.__version__} offers compute capabilities {', '.join(offered)}, not {', '.join(refused)}"
        )
    return targets


def _offered(trt: Any) -> dict[str, Any]:
    """Return TensorRT-RTX's capabilities, as "8.9" to the enumeration's member."""
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members if re.fullmatch(r"SM\d{2,3}", name)}


def error_log(trt: Any) -> Any:
    """Return a logger that keeps the first errors; later ones follow from them."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            serious = severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
            if serious and len(self.errors) < _ERRORS_KEPT:
                self.errors.append(text)

        def message(self) -> str:
            return "; ".join(self.errors) or "no reason"

    return Log()


def _parse(trt: Any, builder: Any, log: Any, source: Path) -> tuple[Any, Any]:
    # TensorRT 11 has strongly typed networks only and may drop the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(source.read_bytes()):
        errors = [parser.get_error(i) for i in range(min(parser.num_errors, _ERRORS_KEPT))]
        raise EngineError("; ".join(_parser_message(error) for error in errors) or log.message())
    if set(_inputs(network)) != set(INPUTS) or not network.num_outputs:
        raise EngineError(f"its inputs are {sorted(_inputs(network))} and it has {network.num_outputs} outputs")
    for name, tensor in _inputs(network).items():
        if len(tensor.shape) != INPUTS[name] or min(tensor.shape[INPUTS[name] - 1 :]) < 1:
            raise EngineError(f"its input {name} is {list(tensor.shape)}: only batch and time may be free")
    return network, parser


def _parser_message(error: Any) -> str:
    """Return a parser's error: node, kind and message."""
    node = f"node {error.node_name() or error.node()} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{error.code().name}: {error.desc()}"


def _inputs(network: Any) -> dict[str, Any]:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    return {tensor.name: tensor for tensor in tensors}


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    shapes = builder.create_optimization_profile()
    for name, tensor in _inputs(network).items():
        size = tensor.shape[-1]
        streams = zip(profile.batch, profile.rows, strict=True)
        shapes.set_shape(name, *[(b, t, size) if name == "features" else (b, size) for b, t in streams])
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"the profile {profile.name} does not fit the network's inputs")


class TimingCache:
    """Kernel times of earlier builds; a cache that cannot be read or written is ignored.

    TensorRT-RTX has none: it chooses its kernels at run time.
    """

    def __init__(self, request: BuildRequest, version: str, cuda_version: str | None, gpu: Gpu | None) -> None:
        self._path: Path | None = None
        if request.cache and gpu and request.builder == "tensorrt":
            key = f"{request.builder}-{version}-cuda{cuda_version}-{gpu.name}-sm{gpu.capability}"
            self._path = Path(request.cache) / f"{re.sub(r'[^A-Za-z0-9.]+', '-', key)}.timing"

    def attach(self, config: Any) -> None:
        """Give a build the cache, or an empty one."""
        if self._path is None:
            return
        for content in (self._read(), b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return

    def keep(self, config: Any) -> None:
        """Write the cache after a build."""
        if self._path is None or (cache := config.get_timing_cache()) is None:
            return
        try:
            write_atomic(self._path, bytes(cache.serialize()))
        except OSError as error:
            sys.stderr.write(f"{self._path}: the timing cache was not kept: {error}\n")

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes() if self._path else b""
        except OSError:
            return b""


def _cuda_version(builder: str) -> str | None:
    """Return CUDA's major version, from the required package's name, as `tensorrt_cu13`."""
    try:
        needs = importlib.metadata.requires(builder) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    match = re.search(r"_cu(\d+)", " ".join(needs).replace("-", "_"))
    return match[1] if match else None


def _main(arguments: list[str]) -> int:
    request = msgspec.json.decode(arguments[0], type=BuildRequest)
    end_with(request.parent)
    try:
        result = build_plans(request)
    except (EngineError, OSError, MemoryError) as error:
        result = BuildResult(reason=str(error) or type(error).__name__)
    sys.stdout.write("\n" + msgspec.json.encode(result).decode() + "\n")
    return 1 if result.reason else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
