"""Time of a call relative to a reference, timed in alternation.

Times of one call differ by a factor of two between runs on shared machines, ratios within a run do not.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.compress.runtime import Float, StepModel
from lobsmith.units import NS_PER_US

USES = {"step": (1, 1), "chunk": (1, 32), "batch": (32, 1)}
"""Uses of a model: streams of a call and rows of each."""
_OPENINGS = 6
_STUDENT = 2.571
"""97.5th percentile of Student's t of five degrees of freedom."""
_CALLS_IN_TURN = 20
_WARM_CALLS = 50


class Timing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of one call, microseconds, over all openings; `speedup` has a 95 % interval, see `compare_times`.

    `runtime` is `onnxruntime` or `compiled` (the compiled step).
    """

    use: str
    runtime: str
    calls: int
    p50_us: float
    p99_us: float
    reference_p50_us: float
    reference_p99_us: float
    speedup: float
    low: float
    high: float


def compare_times(
    model: Callable[[], StepModel],
    reference: Callable[[], StepModel],
    use: str,
    rows: Float,
    calls: int,
    *,
    forgets: bool = False,
) -> Timing:
    """Time a model beside a reference, each on its own rows and state.

    A model's place in memory makes some percent of its time, so both are opened six times; the speed-up's interval is
    Student's t of the logarithms of the six ratios of medians. A call includes writing its rows.

    Args:
        model: opens the model.
        reference: opens the reference.
        use: its name in the result.
        rows: float32 [N, F], fed in a cycle.
        calls: of each, rounded up to whole turns.
        forgets: whether the reference starts each call cold, as a model of windows does.
    """
    turns = -(-calls // (_OPENINGS * _CALLS_IN_TURN))
    times = np.empty((2, _OPENINGS, turns, _CALLS_IN_TURN), np.int64)
    runtime = ""
    with _without_collector():
        for opening in range(_OPENINGS):
            # The model timed first finds memory and caches as the other left them.
            order = (0, 1) if opening % 2 == 0 else (1, 0)
            sides = {number: _Side((model, reference)[number](), rows, forgets and number == 1) for number in order}
            runtime = sides[0].model.runtime
            for number in order:
                sides[number].run(_WARM_CALLS)
            for turn in range(turns):
                for number in order:
                    times[number, opening, turn] = sides[number].run(_CALLS_IN_TURN)
    speedup, low, high = _speedup(np.median(times, axis=(2, 3)))
    (p50, p99), (reference_p50, reference_p99) = np.percentile(times.reshape(2, -1), [50, 99], axis=1).T / NS_PER_US
    return Timing(
        use=use,
        runtime=runtime,
        calls=times[0].size,
        p50_us=float(p50),
        p99_us=float(p99),
        reference_p50_us=float(reference_p50),
        reference_p99_us=float(reference_p99),
        speedup=speedup,
        low=low,
        high=high,
    )


class _Side:
    """A model and its input rows."""

    def __init__(self, model: StepModel, rows: Float, forgets: bool) -> None:
        self.model, self.forgets = model, forgets
        self.streams, length, width = model.features.shape
        self.calls = rows[: len(rows) // length * length].reshape(-1, length, width)
        self.next = 0

    def run(self, calls: int) -> npt.NDArray[np.int64]:
        """Return the time of each of some calls, int64, nanoseconds."""
        model, clock = self.model, time.perf_counter_ns
        times = np.empty(calls, np.int64)
        for number in range(calls):
            # Streams of a batch are offset, so that no two are equal.
            rows = self.calls.take(range(self.next, self.next + self.streams), axis=0, mode="wrap")
            self.next = (self.next + 1) % len(self.calls)
            begin = clock()
            model.features[:] = rows
            if self.forgets:
                model.state[:] = 0.0
            model.step()
            times[number] = clock() - begin
        return times


def _speedup(medians: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios of medians [2, N], with its 95 % interval."""
    ratios = np.log(medians[1] / medians[0])
    margin = _STUDENT * ratios.std(ddof=1) / np.sqrt(_OPENINGS)
    middle = ratios.mean()
    return float(np.exp(middle)), float(np.exp(middle - margin)), float(np.exp(middle + margin))


@contextmanager
def _without_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
