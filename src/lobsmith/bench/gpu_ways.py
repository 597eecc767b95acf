"""Ways of the GPU benchmark to run a network: calls from host to host (copy in, compute, copy out, wait)."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from msgspec import structs
from torch import Tensor, nn

from lobsmith.bench.gpu_ceilings import wait
from lobsmith.bench.gpu_networks import DTYPES, WINDOW, Case, export_static
from lobsmith.compress.export import export_onnx
from lobsmith.errors import LobsmithError
from lobsmith.models.networks.network import Network
from lobsmith.params import EngineParams

Call = Callable[[], None]
Function = Callable[..., tuple[Tensor, ...]]
_CAPTURE_WARM_UP = 5
BUILDERS = ("tensorrt", "tensorrt_rtx")
COMPILE_MODE = "max-autotune-no-cudagraphs"
"""Without CUDA graphs, which are a way of their own."""


class UnavailableError(LobsmithError):
    """A way that this machine does not have; the message is the reason in its row."""


@dataclass
class Buffers:
    """Static memory of one case at one batch size, shared by all ways; pinned on the host where there is a GPU.

    A `resident` state is neither copied in nor out.
    """

    device: torch.device
    sources: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    travels_in: tuple[bool, ...]
    travels_out: tuple[bool, ...]

    @classmethod
    def of(cls, case: Case, batch: int, device: torch.device, *, resident: bool) -> "Buffers":
        """Fill the inputs with the case's example; the outputs take their shapes from a call on the CPU."""
        example = case.example(batch)
        with torch.no_grad():
            shapes = [tensor.shape[1:] for tensor in case.make(torch.float32).eval()(*case.example(1))]
        pin = device.type == "cuda"
        sources = tuple(tensor.pin_memory() if pin else tensor for tensor in example)
        return cls(
            device=device,
            sources=sources,
            inputs=tuple(tensor.to(device, copy=True) for tensor in sources),
            outputs=tuple(torch.zeros(batch, *shape, pin_memory=pin) for shape in shapes),
            travels_in=tuple(not (resident and name == "state") for name in case.inputs),
            travels_out=tuple(not (resident and name == "next_state") for name in case.outputs),
        )

    def upload(self) -> None:
        for device, source, travels in zip(self.inputs, self.sources, self.travels_in, strict=True):
            if travels:
                device.copy_(source, non_blocking=True)

    def download(self, results: tuple[Tensor, ...]) -> None:
        for host, result, travels in zip(self.outputs, results, self.travels_out, strict=True):
            if travels:
                host.copy_(result, non_blocking=True)

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of a call to the device, and back."""
        pairs = (zip(self.sources, self.travels_in, strict=True), zip(self.outputs, self.travels_out, strict=True))
        to_device, to_host = (sum(tensor.nbytes for tensor, travels in pair if travels) for pair in pairs)
        return to_device, to_host

    def moved(self) -> int:
        """Return the bytes of all inputs, outputs and state."""
        return sum(tensor.nbytes for tensor in (*self.sources, *self.outputs))


def finish(device: torch.device) -> None:
    """Wait for the stream of the call."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def eager(buffers: Buffers, function: Function) -> Call:
    def call() -> None:
        buffers.upload()
        buffers.download(function(*buffers.inputs))
        finish(buffers.device)

    return call


def graph(buffers: Buffers, function: Function) -> Call:
    """Capture copies and kernels once and replay them with one launch."""
    if buffers.device.type != "cuda":
        raise UnavailableError("CUDA graphs need a CUDA GPU")

    def work() -> None:
        buffers.upload()
        buffers.download(function(*buffers.inputs))

    stream = torch.cuda.current_stream(buffers.device)
    side = torch.cuda.Stream(buffers.device)  # type: ignore[no-untyped-call]
    captured = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        # Libraries allocate and autotune at their first calls, which a CUDA capture must not contain.
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            for _ in range(_CAPTURE_WARM_UP):
                work()
        stream.wait_stream(side)
        wait(buffers.device)
        with torch.cuda.graph(captured):
            work()

    def call() -> None:
        captured.replay()
        finish(buffers.device)

    return call


def compiled(way: Callable[[Buffers, Function], Call], buffers: Buffers, module: nn.Module) -> Call:
    """Run the module in a way, compiled for the shapes of its first call."""
    return way(buffers, torch.compile(module, mode=COMPILE_MODE, dynamic=False))


def onnx_cpu(case: Case, batch: int, buffers: Buffers) -> Call:
    """Run the exported file through ONNX Runtime on all cores, inputs and outputs bound in place."""
    session = _session(case, batch, ["CPUExecutionProvider"])
    binding = session.io_binding()
    _bind(binding, case, buffers.sources, buffers.outputs, ("cpu", 0))
    return lambda: session.run_with_iobinding(binding)


def onnx_cuda(case: Case, batch: int, buffers: Buffers) -> Call:
    """Run the exported file through ONNX Runtime on the GPU, bound to the device's buffers, on PyTorch's stream."""
    if buffers.device.type != "cuda":
        raise UnavailableError("ONNX Runtime on CUDA needs a CUDA GPU")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UnavailableError("this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu")
    index = buffers.device.index or 0
    stream = torch.cuda.current_stream(buffers.device).cuda_stream
    options = {"device_id": str(index), "use_tf32": "0", "user_compute_stream": str(stream)}
    session = _session(case, batch, [("CUDAExecutionProvider", options), "CPUExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise UnavailableError(
            "ONNX Runtime could not load its CUDA provider; its CUDA and cuDNN versions must be installed"
        )
    results = tuple(torch.empty_like(output, device=buffers.device) for output in buffers.outputs)
    binding = session.io_binding()
    _bind(binding, case, buffers.inputs, results, ("cuda", index))
    run = onnxruntime.RunOptions()
    # Work of a stream is in order; the wait at the end is enough.
    run.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def call() -> None:
        buffers.upload()
        session.run_with_iobinding(binding, run)
        buffers.download(results)
        finish(buffers.device)

    return call


def _session(case: Case, batch: int, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_static(case, batch, path)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _bind(
    binding: Any, case: Case, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], place: tuple[str, int]
) -> None:
    for name, tensor in zip(case.inputs, inputs, strict=True):
        binding.bind_input(name, *place, np.float32, tuple(tensor.shape), tensor.data_ptr())
    for name, tensor in zip(case.outputs, outputs, strict=True):
        binding.bind_output(name, *place, np.float32, tuple(tensor.shape), tensor.data_ptr())


@dataclass
class Engines:
    """TensorRT engines by network, builder and precision, built at first use and kept for all batches.

    They are the served engines: step and window share an engine, which answers every row of a window.
    """

    settings: EngineParams
    directory: Path
    largest_batch: int
    _built: dict[tuple[int, str, str], Any] = field(default_factory=dict)

    def call(self, case: Case, builder: str, precision: str, buffers: Buffers) -> Call:
        """Return the call of a case through its engine.

        Raises:
            LobsmithError: there is no GPU or no such builder, or it does not take the network.
        """
        if buffers.device.type != "cuda":
            raise UnavailableError("TensorRT engines run on a CUDA GPU")
        if not all(buffers.travels_in):
            raise UnavailableError("the engine's runner takes the state from the host; measure it with --state host")
        engine = self._engine(case.network, builder, precision)
        features = buffers.sources[0].numpy()
        state = buffers.sources[1].numpy() if len(buffers.sources) > 1 else engine.cold_state(len(features))

        def call() -> None:
            answers = tuple(torch.from_numpy(answer) for answer in engine.run(features, state))
            for host, answer in zip(buffers.outputs, case.from_served(answers), strict=True):
                host.copy_(answer)

        return call

    def _engine(self, network: Network, builder: str, precision: str) -> Any:
        key = id(network), builder, precision
        if key not in self._built:
            try:
                self._built[key] = self._build(network, builder, precision)
            except LobsmithError as error:
                self._built[key] = error
        if isinstance(self._built[key], LobsmithError):
            raise self._built[key]
        return self._built[key]

    def _build(self, network: Network, builder: str, precision: str) -> Any:
        try:
            from lobsmith.compress.graph.fp16 import convert_half
            from lobsmith.compress.tensorrt.build import build_engine
            from lobsmith.compress.tensorrt.run import EngineModel
        except ImportError as error:
            raise UnavailableError(f"engines cannot be built: {error}") from error
        name = f"{builder}-{precision}-{len(self._built)}"
        source = self.directory / f"{name}.onnx"
        export_onnx(network, source)
        if precision != "fp32":
            convert_half(source, source, "bf16" if precision == "bf16" else "fp16")
        settings = structs.replace(
            self.settings,
            builder=builder,
            capabilities=(),
            largest_batch=self.largest_batch,
            largest_chunk=max(WINDOW, self.settings.largest_chunk),
        )
        build_engine(source, self.directory / name, settings, precision=precision)
        return EngineModel(self.directory / name)


def lowered(case: Case, precision: str, device: torch.device) -> nn.Module:
    return case.make(DTYPES[precision]).eval().to(device)
