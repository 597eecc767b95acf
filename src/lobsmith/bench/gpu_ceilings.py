"""The machine of the GPU benchmark, and the limits of its card."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from msgspec import Struct

from lobsmith.bench.gpu_networks import DTYPES

_REPEATS = 5
_LAUNCHES = 1000
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "triton", "numpy")


class Machine(Struct, frozen=True, kw_only=True):
    """The measured machine; None where there is no GPU or the value is unknown."""

    device: str
    gpu: str | None
    capability: str | None
    memory_gib: float | None
    driver: str | None
    cuda: str | None
    cudnn: str | None
    cpu: str
    cores: int
    python: str
    packages: dict[str, str]


class Ceilings(Struct, frozen=True, kw_only=True):
    """The highest measured rates, each alone.

    `memory_gb_s` counts bytes read and written by a copy; `matmul_tflop_s` is per precision, TF32 off.
    """

    memory_gb_s: float
    matmul_tflop_s: dict[str, float]
    to_device_gb_s: float
    to_host_gb_s: float
    launch_us: float
    """An empty kernel, launched and waited for: median."""


class Floor(Struct, frozen=True, kw_only=True):
    """The shortest time that the ceilings allow a call, and the ceiling that sets it."""

    us: float
    bound: str


def describe_machine(device: torch.device) -> Machine:
    """Return the device, its driver and the versions of the packages."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    cudnn = torch.backends.cudnn.version() if gpu else None  # type: ignore[no-untyped-call]
    return Machine(
        device=str(device),
        gpu=gpu.name if gpu else None,
        capability=f"{gpu.major}.{gpu.minor}" if gpu else None,
        memory_gib=gpu.total_memory / 2**30 if gpu else None,
        driver=_driver() if gpu else None,
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        packages=packages,
    )


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = completed.stdout.split()
    return lines[0] if completed.returncode == 0 and lines else None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure_ceilings(device: torch.device) -> Ceilings:
    """Measure memory, arithmetic, the link to the host and the launch of a kernel."""
    on_gpu = device.type == "cuda"
    # Beyond any cache of a GPU; a rehearsal on the CPU only has to run.
    large, side = (2**30, 8192) if on_gpu else (2**24, 256)
    source = torch.zeros(large, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    memory = 2 * large / _fastest(device, lambda: target.copy_(source)) / 1e9
    matmul = {name: _matmul(device, side, dtype) for name, dtype in DTYPES.items()}
    host = torch.zeros(large // 4, dtype=torch.uint8, pin_memory=on_gpu)
    part = source[: large // 4]
    to_device = _fastest(device, lambda: part.copy_(host, non_blocking=True))
    to_host = _fastest(device, lambda: host.copy_(part, non_blocking=True))
    scalar = torch.zeros(1, device=device)
    launches = [_seconds(device, lambda: scalar.add_(1), 1) for _ in range(_LAUNCHES)]
    return Ceilings(
        memory_gb_s=memory,
        matmul_tflop_s=matmul,
        to_device_gb_s=len(host) / to_device / 1e9,
        to_host_gb_s=len(host) / to_host / 1e9,
        launch_us=median(launches) * 1e6,
    )


def floor(ceilings: Ceilings, precision: str, *, moved: int, flops: int, to_device: int, to_host: int) -> Floor:
    """Return the roofline's floor (Williams, Waterman & Patterson 2009), with the link and the launch as further roofs.

    Args:
        ceilings: of this machine.
        precision: of the arithmetic.
        moved: bytes of weights, state, inputs and outputs, each once through the device's memory.
        flops: of the call.
        to_device: bytes from the host.
        to_host: bytes back.
    """
    times = {
        "memory": moved / ceilings.memory_gb_s / 1e3,
        "compute": flops / ceilings.matmul_tflop_s[precision] / 1e6,
        "link": to_device / ceilings.to_device_gb_s / 1e3 + to_host / ceilings.to_host_gb_s / 1e3,
        "launch": ceilings.launch_us,
    }
    bound = max(times, key=times.__getitem__)
    return Floor(us=times[bound], bound=bound)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matmul(device: torch.device, side: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _fastest(device, lambda: torch.matmul(left, right, out=out)) / 1e12


def _fastest(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest run; several calls make a run, so that launches hide behind work."""
    calls = 10 if device.type == "cuda" else 2
    _seconds(device, work, calls)
    return min(_seconds(device, work, calls) for _ in range(_REPEATS))


def _seconds(device: torch.device, work: Callable[[], object], calls: int) -> float:
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    wait(device)
    return (time.perf_counter() - started) / calls
