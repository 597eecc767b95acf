"""Networks on a GPU in every way that the machine has, from host to host, beside what the card can do at most.

See README.md in this folder for what is measured and how it is counted.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from benchmarks.gpu_ceilings import Ceilings, Machine, describe_machine, floor, measure_ceilings
from benchmarks.gpu_networks import DTYPES, Case, cases, count_flops, weight_bytes
from benchmarks.gpu_ways import (
    Buffers,
    Call,
    Engines,
    UnavailableError,
    compiled,
    eager,
    graph,
    lowered,
    onnx_cpu,
    onnx_cuda,
)
from lobsmith.errors import LobsmithError
from lobsmith.params import Params

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference from eager float32, as a share of the largest answer where that is above 1."""
_ENOUGH_FOR_P999 = 1000
_WARM_UP_CALLS = 50
_SETTLING_CALLS = 3
"""Untimed, at the begin of each turn: the way before has left its own data in the caches."""

Note = Callable[[str], None]


class Reference(Struct, frozen=True, kw_only=True):
    """What somebody else has measured."""

    network: str
    machine: str
    p99_us: float
    about: str


_AUDITED = "audited result of a tuned stack for STAC-ML Markets (Inference); not comparable method for method"
REFERENCES = (
    Reference(network="lstm_a", machine="A100", p99_us=35.2, about=_AUDITED),
    Reference(network="lstm_a", machine="GH200", p99_us=4.70, about=_AUDITED),
)


class Plan(Struct, frozen=True, kw_only=True):
    """What to run.

    Attributes:
        device: `cuda`, `cuda:1` or `cpu`; the last is a rehearsal.
        networks: of `step`, `window` and `lstm_a`.
        precisions: of PyTorch and TensorRT.
        batches: streams a call.
        calls: for each row, over all rounds.
        seconds: bound of each row's timed calls.
        rounds: in which the ways take turns.
        resident: whether a state stays on the device where the way can keep it there.
        compile: whether `torch.compile` is among the ways.
    """

    device: str
    networks: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    calls: int
    seconds: float
    rounds: int
    resident: bool
    compile: bool


class Row(Struct, frozen=True, kw_only=True):
    """One network, way, precision and batch size. Where there was nothing to measure, only `reason` says why.

    Attributes:
        count: timed calls.
        p50_us, p99_us, p999_us: host to host; the last one only of 1000 calls or more.
        rows_per_s: new rows answered: streams over the mean time of a call, however many rows of a window it reads.
        bytes: weights, state, inputs and outputs, each once.
        flops: of matrix products and convolutions; a multiply-add counts two.
        floor_us: least time by the card's measured ceilings; `bound` names the ceiling that sets it.
        floor_ratio: p50 over that floor.
        difference: largest one from eager fp32, over the largest answer where that is above 1.
        wrong: a number that is not finite, or a difference beyond the precision's tolerance.
    """

    network: str
    way: str
    precision: str
    batch: int
    reason: str | None = None
    count: int = 0
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    rows_per_s: float | None = None
    bytes: int | None = None
    flops: int | None = None
    floor_us: float | None = None
    bound: str | None = None
    floor_ratio: float | None = None
    difference: float | None = None
    wrong: bool = False


class Report(Struct, frozen=True, kw_only=True):
    """All that is printed, or kept as a result."""

    machine: Machine
    plan: Plan
    weights: str
    ceilings: Ceilings
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]


@dataclass
class Attempt:
    """A way on its way to a row."""

    way: str
    precision: str
    call: Call | None = None
    reason: str | None = None
    difference: float | None = None
    nanoseconds: list[int] = field(default_factory=list)

    def guard(self, work: Callable[[], Any]) -> Any:
        """Do something for this way; whatever goes wrong becomes the reason in its row."""
        if self.reason is not None:
            return None
        try:
            return work()
        except UnavailableError as error:
            self.reason = str(error)
        except Exception as error:  # noqa: BLE001 - compilers and runtimes raise anything; the other ways must go on
            self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.call = None
        return None


def bench_gpu(params: Params, directory: Path | None, plan: Plan, *, note: Note) -> Report:
    """Measure every chosen network, batch size, way and precision.

    Args:
        params: all of `params.yaml`.
        directory: holds a trained network; None takes random weights.
        plan: what to run.
        note: told what runs.

    Raises:
        LobsmithError: there is no such device, network or precision.
    """
    device = _device(plan.device)
    unknown = [name for name in plan.precisions if name not in DTYPES]
    if unknown:
        raise LobsmithError(f"precisions are {', '.join(DTYPES)}; there is no {unknown[0]}")
    chosen = cases(params, directory, plan.networks)
    rows: list[Row] = []
    with _exact_float32(), _own_stream(device), tempfile.TemporaryDirectory() as folder:
        note("ceilings")
        ceilings = measure_ceilings(device)
        engines = Engines(params.engine, Path(folder), max(plan.batches))
        for case in chosen:
            for batch in plan.batches:
                note(f"{case.name}, batch {batch}")
                rows += _bench_case(case, batch, device, plan, ceilings, engines)
    return Report(
        machine=describe_machine(device),
        plan=plan,
        weights="random" if directory is None else "trained",
        ceilings=ceilings,
        references=tuple(one for one in REFERENCES if one.network in plan.networks),
        rows=tuple(rows),
    )


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise LobsmithError(
            f"no CUDA GPU: torch.cuda.is_available() is False with torch {torch.__version__}; install a CUDA build of "
            "PyTorch on a machine with an NVIDIA GPU, or pass --device cpu for a rehearsal"
        )
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise LobsmithError(f"{name}: this machine has {torch.cuda.device_count()} CUDA GPUs; number them from 0")
    return torch.device("cuda", index)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Keep float32 what it says: cuDNN's convolutions and LSTMs would take TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Work on a stream of our own: ONNX Runtime can be told to share it, the default one it cannot tell from none."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_device(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def _bench_case(
    case: Case, batch: int, device: torch.device, plan: Plan, ceilings: Ceilings, engines: Engines
) -> list[Row]:
    """Measure all ways of one case at one batch size, taking turns."""
    try:
        buffers = Buffers.of(case, batch, device, resident=plan.resident)
        reference = _reference(case, buffers)
    except torch.OutOfMemoryError as error:
        reason = f"out of memory: {' '.join(str(error).split())[:300]}"
        return [Row(network=case.name, way="eager", precision="fp32", batch=batch, reason=reason)]
    attempts = _attempts(case, batch, buffers, plan, engines)
    for attempt in attempts:
        attempt.difference = attempt.guard(lambda one=attempt: _check(one, buffers, reference, plan))
    for _ in range(plan.rounds):
        for attempt in attempts:
            attempt.guard(lambda one=attempt: _time(one, -(-plan.calls // plan.rounds), plan.seconds / plan.rounds))
    flops = count_flops(case, batch)
    return [_row(case, batch, attempt, buffers, ceilings, flops) for attempt in attempts]


def _attempts(case: Case, batch: int, buffers: Buffers, plan: Plan, engines: Engines) -> list[Attempt]:
    made = []

    def attempt(way: str, precision: str, make: Callable[[], Call]) -> None:
        one = Attempt(way, precision)
        one.call = one.guard(make)
        made.append(one)

    if plan.compile:
        # Dynamo gives up on a function after a few shapes, without a word.
        torch.compiler.reset()
    with torch.no_grad():
        for precision in plan.precisions:
            module = lowered(case, precision, buffers.device)
            attempt("eager", precision, lambda module=module: eager(buffers, module))
            attempt("graph", precision, lambda module=module: graph(buffers, module))
            if plan.compile:
                attempt("compiled", precision, lambda module=module: eager(buffers, compiled(module)))
                attempt("compiled graph", precision, lambda module=module: graph(buffers, compiled(module)))
            attempt("engine", precision, lambda precision=precision: engines.call(case, precision, buffers))
        attempt("onnx cpu", "fp32", lambda: onnx_cpu(case, batch, buffers))
        attempt("onnx cuda", "fp32", lambda: onnx_cuda(case, batch, buffers))
    return made


def _reference(case: Case, buffers: Buffers) -> tuple[Tensor, ...]:
    """Return what eager float32 answers on the device, as float64 on the host."""
    with torch.inference_mode():
        return tuple(tensor.cpu().double() for tensor in lowered(case, "fp32", buffers.device)(*buffers.inputs))


def _check(attempt: Attempt, buffers: Buffers, reference: tuple[Tensor, ...], plan: Plan) -> float:
    """Warm a way up, then return its largest difference from the reference; not a number where it gave none."""
    assert attempt.call is not None  # noqa: S101
    with torch.inference_mode():
        started = time.monotonic()
        for _ in range(_WARM_UP_CALLS):
            attempt.call()
            if time.monotonic() - started > plan.seconds:
                break
        for output in buffers.outputs:
            output.fill_(float("nan"))
        attempt.call()
        return largest_difference(buffers.outputs, reference, buffers.travels_out)


def largest_difference(outputs: tuple[Tensor, ...], reference: tuple[Tensor, ...], travels: tuple[bool, ...]) -> float:
    """Return the largest difference of outputs that came back; it counts relative to the largest answer above 1."""
    differences = [
        float((output.double() - expected).abs().max() / max(1.0, float(expected.abs().max())))
        for output, expected, came_back in zip(outputs, reference, travels, strict=True)
        if came_back
    ]
    return float(np.max(differences))  # unlike max() it does not lose a NaN


def _time(attempt: Attempt, calls: int, seconds: float) -> None:
    """Add the time of each call to the attempt's, until there are enough or the time is up."""
    assert attempt.call is not None  # noqa: S101
    call, clock, times = attempt.call, time.perf_counter_ns, attempt.nanoseconds
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            for _ in range(_SETTLING_CALLS):
                call()
            last = clock() + int(seconds * 1e9)
            for _ in range(calls):
                started = clock()
                call()
                ended = clock()
                times.append(ended - started)
                if ended > last:
                    break
    finally:
        gc.enable()


def _row(case: Case, batch: int, attempt: Attempt, buffers: Buffers, ceilings: Ceilings, flops: int) -> Row:
    if attempt.reason is not None or not attempt.nanoseconds:
        return Row(network=case.name, way=attempt.way, precision=attempt.precision, batch=batch, reason=attempt.reason)
    times = np.array(attempt.nanoseconds) / 1e3
    p50, p99, p999 = (float(value) for value in np.quantile(times, [0.5, 0.99, 0.999]))
    to_device, to_host = buffers.traffic()
    moved = weight_bytes(lowered(case, attempt.precision, torch.device("cpu"))) + buffers.moved()
    least = floor(ceilings, attempt.precision, moved=moved, flops=flops, to_device=to_device, to_host=to_host)
    # ONNX Runtime on the CPU never meets the card, so the card's ceilings say nothing of it.
    on_card = attempt.way != "onnx cpu" or buffers.device.type == "cpu"
    assert attempt.difference is not None  # noqa: S101
    return Row(
        network=case.name,
        way=attempt.way,
        precision=attempt.precision,
        batch=batch,
        count=len(times),
        p50_us=p50,
        p99_us=p99,
        p999_us=p999 if len(times) >= _ENOUGH_FOR_P999 else None,
        rows_per_s=batch * len(times) / float(times.sum()) * 1e6,
        bytes=moved,
        flops=flops,
        floor_us=least.us if on_card else None,
        bound=least.bound if on_card else None,
        floor_ratio=p50 / least.us if on_card else None,
        difference=attempt.difference if np.isfinite(attempt.difference) else None,
        wrong=not attempt.difference <= TOLERANCES[attempt.precision],
    )
