"""Networks on a GPU in every way that the machine has, from host to host, beside what the card can do at most.

See benchmarks/README.md for what is measured and how it is counted.
"""

import gc
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lobsmith.bench.gpu_ceilings import Ceilings, describe_machine, floor, measure_ceilings
from lobsmith.bench.gpu_networks import DTYPES, Case, cases, count_flops, weight_bytes
from lobsmith.bench.gpu_report import REFERENCES, Plan, Report, Row
from lobsmith.bench.gpu_ways import (
    BUILDERS,
    Buffers,
    Call,
    Engines,
    compiled,
    eager,
    graph,
    lowered,
    onnx_cpu,
    onnx_cuda,
)
from lobsmith.errors import LobsmithError
from lobsmith.params import Params
from lobsmith.units import NS_PER_S, NS_PER_US

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference from eager float32, as a share of the largest answer where that is above 1."""
_ENOUGH_FOR_P999 = 1000
_WARM_UP_CALLS = 50
_SETTLING_CALLS = 3
"""Untimed, at the beginning of each turn: the way before has left its own data in the caches."""

Note = Callable[[str], None]


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
        except LobsmithError as error:
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
            flops = count_flops(case)
            for batch in plan.batches:
                note(f"{case.name}, batch {batch}")
                rows += _bench_case(case, batch, flops * batch, device, plan, ceilings, engines)
    return Report(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(device),
        plan=plan,
        weights="random" if directory is None else "trained",
        ceilings=ceilings,
        references=tuple(one for one in REFERENCES if one.network in plan.networks),
        rows=tuple(rows),
    )


def _device(name: str) -> torch.device:
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise LobsmithError(f"{name}: no such device; write cuda, cuda:1 and so on, or cpu for a rehearsal")
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
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the tail."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Work on a stream of our own: ONNX Runtime can be told to share it, the default one it cannot tell from none."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_device(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def _bench_case(
    case: Case, batch: int, flops: int, device: torch.device, plan: Plan, ceilings: Ceilings, engines: Engines
) -> list[Row]:
    """Measure all ways of one case at one batch size, taking turns."""
    try:
        buffers = Buffers.of(case, batch, device, resident=plan.resident)
        reference = _reference(case, buffers)
    except RuntimeError as error:  # PyTorch's own for a card that is out of memory, or that an earlier way has broken
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Row(network=case.name, way="eager", precision="fp32", batch=batch, reason=reason)]
    attempts = _attempts(case, batch, buffers, plan, engines)
    for attempt in attempts:
        attempt.difference = attempt.guard(partial(_check, attempt, buffers, reference, plan))
    with _no_collection():
        for _ in range(plan.rounds):
            for attempt in attempts:
                attempt.guard(partial(_time, attempt, -(-plan.calls // plan.rounds), plan.seconds / plan.rounds))
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
            attempt("eager", precision, partial(eager, buffers, module))
            attempt("graph", precision, partial(graph, buffers, module))
            if plan.compile:
                attempt("compiled", precision, partial(compiled, eager, buffers, module))
                attempt("compiled graph", precision, partial(compiled, graph, buffers, module))
            for builder in BUILDERS:
                attempt(builder, precision, partial(engines.call, case, builder, precision, buffers))
        attempt("onnx cpu", "fp32", partial(onnx_cpu, case, batch, buffers))
        attempt("onnx cuda", "fp32", partial(onnx_cuda, case, batch, buffers))
    return made


def _reference(case: Case, buffers: Buffers) -> tuple[Tensor, ...]:
    """Return what eager float32 answers on the device, as float64 on the host."""
    with torch.inference_mode():
        return tuple(tensor.cpu().double() for tensor in lowered(case, "fp32", buffers.device)(*buffers.inputs))


def _check(attempt: Attempt, buffers: Buffers, reference: tuple[Tensor, ...], plan: Plan) -> float:
    """Warm a way up, then return its largest difference from the reference; not a number where it gave none."""
    assert attempt.call is not None  # noqa: S101
    with torch.inference_mode():
        attempt.call()  # compiles what is compiled at the first call
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
    with torch.inference_mode():
        for _ in range(_SETTLING_CALLS):
            call()
        last = clock() + int(seconds * NS_PER_S)
        for _ in range(calls):
            started = clock()
            call()
            ended = clock()
            times.append(ended - started)
            if ended > last:
                break


def _row(case: Case, batch: int, attempt: Attempt, buffers: Buffers, ceilings: Ceilings, flops: int) -> Row:
    if attempt.reason is not None or not attempt.nanoseconds:
        return Row(network=case.name, way=attempt.way, precision=attempt.precision, batch=batch, reason=attempt.reason)
    times = np.array(attempt.nanoseconds) / NS_PER_US
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
