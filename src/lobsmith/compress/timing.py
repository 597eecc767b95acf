"""How long a call takes, held against a reference that is timed in the same run, a few calls of each in turn.

These machines are shared: between two runs the same call may take twice as long. What two models share in one run is
the noise, so a ratio is worth more than either time.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.compress.runtime import Float, Stepping

USES = {"step": (1, 1), "chunk": (1, 32), "batch": (32, 1)}
"""What a model is used for, with the streams of a call and the rows of each."""
_CALLS_IN_TURN = 20
_WARM_CALLS = 50
_DRAWS = 1000


class Timing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of one call, microseconds; `speedup` is the reference's median by this one's, with a 95 % interval.

    `runtime` is what answered: `onnxruntime`, or `compiled` for the compiled step.
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
    model: Stepping, reference: Stepping, use: str, rows: Float, calls: int, *, forgets: bool = False
) -> Timing:
    """Time a model beside a reference, each on the real rows that it is given.

    Both walk through a stream with their own states. A call begins with the hand-over of its rows and ends with its
    answer. The interval of the speed-up is a bootstrap over turns.

    Args:
        model: what is timed.
        reference: what it is held against.
        use: its name in the result.
        rows: float32 [N, F], fed one call after another and from the beginning again.
        calls: of each.
        forgets: whether the reference begins each call with a cold state, as a model of windows does.
    """
    sides = (_Side(model, rows, forgets=False), _Side(reference, rows, forgets=forgets))
    turns = max(calls // _CALLS_IN_TURN, 3)
    times = np.empty((2, turns, _CALLS_IN_TURN), np.int64)
    with _without_collector():
        for side in sides:
            side.run(_WARM_CALLS)
        for turn in range(turns):
            for number, side in enumerate(sides):
                times[number, turn] = side.run(_CALLS_IN_TURN)
    low, high = _speedup_interval(times)
    (p50, p99), (reference_p50, reference_p99) = np.percentile(times.reshape(2, -1), [50, 99], axis=1).T / 1e3
    return Timing(
        use=use,
        runtime=model.runtime,
        calls=turns * _CALLS_IN_TURN,
        p50_us=float(p50),
        p99_us=float(p99),
        reference_p50_us=float(reference_p50),
        reference_p99_us=float(reference_p99),
        speedup=float(reference_p50 / p50),
        low=low,
        high=high,
    )


class _Side:
    """A model and the rows that it is fed."""

    def __init__(self, model: Stepping, rows: Float, *, forgets: bool) -> None:
        self.model, self.forgets = model, forgets
        streams, steps, width = model.features.shape
        count = len(rows) // steps * steps
        calls = rows[:count].reshape(-1, steps, width)
        # Each stream of a batch is some rows further on, so that no two of them are the same.
        self.inputs = [np.stack([calls[(i + k) % len(calls)] for k in range(streams)]) for i in range(len(calls))]
        self.next = 0

    def run(self, calls: int) -> npt.NDArray[np.int64]:
        """Return the time that each of some calls took, int64, nanoseconds."""
        model, clock = self.model, time.perf_counter_ns
        taken = np.empty(calls, np.int64)
        for number in range(calls):
            rows = self.inputs[self.next]
            self.next = (self.next + 1) % len(self.inputs)
            begin = clock()
            model.features[:] = rows
            if self.forgets:
                model.state[:] = 0.0
            model.step()
            taken[number] = clock() - begin
        return taken


def _speedup_interval(times: npt.NDArray[np.int64]) -> tuple[float, float]:
    medians = np.median(times, axis=2)
    drawn = np.random.default_rng(0).integers(0, medians.shape[1], (_DRAWS, medians.shape[1]))
    ratios = np.median(medians[1][drawn], axis=1) / np.median(medians[0][drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


@contextmanager
def _without_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
