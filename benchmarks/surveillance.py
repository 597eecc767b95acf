"""How long surveillance takes over an event, one message a call, as a live feed makes them.

Run `python benchmarks/surveillance.py [SECONDS]`: so many simulated seconds, a flash crash at the end of them. A time is
that of the whole call from Python, the alert's object included. Each session is pushed `_PASSES` times: the maximum of
all is what a busy machine makes of it, the maximum of each message's smallest time is the code's own. An alert is due
within 10 ms of its event.
"""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lobsmith.market.events import Events
from lobsmith.market.simulator import Dynamics, simulate
from lobsmith.market.surveillance import AccumulationMonitor, CrashDetector
from lobsmith.params import load_params

_PASSES = 3
_PARAMS = Path(__file__).parent.parent / "params.yaml"


def measure(name: str, make: Callable[[], Callable[[Events], list[Any]]], events: Events) -> None:
    """Push message by message and print the times of a call."""
    bounds = events.message_bounds().tolist()
    took = np.empty((_PASSES, len(bounds) - 1))
    for one in took:
        push = make()
        results: list[Any] = []
        ends: list[int] = []
        gc.collect()
        gc.disable()
        for m in range(len(one)):
            message = events.slice(bounds[m], bounds[m + 1])
            began = time.perf_counter_ns()
            found = push(message)
            one[m] = (time.perf_counter_ns() - began) / 1e3
            if found:
                results += found
                ends.append(m)
        gc.enable()
    p50, p99, p9999 = np.percentile(took, [50, 99, 99.99])
    print(f"{name}: {_PASSES} times {took.shape[1]} messages of {len(events)} events, us a message:")
    print(f"    p50 {p50:.1f}, p99 {p99:.1f}, p99.99 {p9999:.1f}, max {took.max():.1f}; ", end="")
    print(f"max of each message's smallest {took.min(axis=0).max():.1f}")
    print(f"    {len(results)} results, slowest of those calls {took[:, ends].max():.1f} us; the last: {results[-1]}")


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 1800
    params = load_params(_PARAMS).surveillance
    dynamics = Dynamics(crash_at_s=seconds - 70.0, crash_s=60.0, recovery_s=1.0, crash=3000.0)
    session = simulate(7, seconds, dynamics)
    warm = simulate(8, 5).events
    for name, make in (
        ("crash", lambda: CrashDetector(session.instrument, params.crash)),
        ("accumulation", lambda: AccumulationMonitor(session.instrument, params.accumulation)),
    ):
        make().push(warm)  # compiled now
        measure(name, lambda make=make: make().push, session.events)
        whole = make()
        began = time.perf_counter()
        whole.push(session.events)
        each = (time.perf_counter() - began) / len(session.events) * 1e9
        print(f"{name}: pushed at once, {each:.0f} ns an event")


if __name__ == "__main__":
    main()
