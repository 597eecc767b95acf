"""Time of surveillance per event, one message a call, as a live feed makes them.

Run `python benchmarks/studies/surveillance.py [SECONDS]`: so many simulated seconds with a flash crash at their end. A
time is that of the whole call from Python, the alert's object included. Each session is pushed `_PASSES` times: the
maximum of all includes the machine's noise, the maximum of each message's smallest time is the code's own. An alert is
due within 10 ms of its event.
"""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.simulator import Dynamics, simulate
from lobsmith.market.simulator.feed import START_NS
from lobsmith.params import CrashParams, load_params
from lobsmith.surveillance import AccumulationMonitor, CrashDetector
from lobsmith.units import NS_PER_MS, NS_PER_S, NS_PER_US

_PASSES = 3
_PARAMS = Path(__file__).parents[2] / "params.yaml"


def measure(name: str, make: Callable[[], Callable[[Events], list[Any]]], events: Events) -> None:
    """Push message by message and print the times of a call."""
    bounds = events.message_bounds().tolist()
    took = np.empty((_PASSES, len(bounds) - 1))
    for times_us in took:
        push = make()
        results: list[Any] = []
        ends: list[int] = []
        gc.collect()
        gc.disable()
        for m in range(len(times_us)):
            message = events.slice(bounds[m], bounds[m + 1])
            began = time.perf_counter_ns()
            alerts = push(message)
            times_us[m] = (time.perf_counter_ns() - began) / NS_PER_US
            if alerts:
                results += alerts
                ends.append(m)
        gc.enable()
    p50, p99, p9999 = np.percentile(took, [50, 99, 99.99])
    print(f"{name}: {_PASSES} times {took.shape[1]} messages of {len(events)} events, us a message:")
    print(f"    p50 {p50:.1f}, p99 {p99:.1f}, p99.99 {p9999:.1f}, max {took.max():.1f}; ", end="")
    print(f"max of each message's smallest {took.min(axis=0).max():.1f}")
    print(f"    {len(results)} results, slowest of those calls {took[:, ends].max():.1f} us; the last: {results[-1]}")


def worst_cases(instrument: Instrument, params: CrashParams) -> None:
    """Print the times of the most costly messages: after a silence, and with bids too far apart for the window."""
    near = np.arange(600_000, 599_988, -1)
    apart = np.array([600_000, 599_999, 599_998, *range(560_000, 559_000, -1)])
    for name, prices, silence_s in (
        ("the longest silence that is kept", near, params.average_s),
        ("a silence that begins all anew", near, params.average_s + 1),
        ("bids 40,000 ticks apart", apart, 0.1),
    ):
        took = []
        for _ in range(20):
            push = CrashDetector(instrument, params).push
            for time_ns in (START_NS, START_NS + NS_PER_MS):
                push(_snapshot(time_ns, prices))
            message = _snapshot(START_NS + round(silence_s * NS_PER_S), prices).slice(0, 1)
            message.kind[0], message.side[0], message.price[0], message.size[0] = LEVEL, BID, prices[1], 2.0
            message.flags[0] = END
            began = time.perf_counter_ns()
            push(message)
            took.append((time.perf_counter_ns() - began) / NS_PER_US)
        print(f"crash, {name}: {min(took):.1f} us, at most {max(took):.1f}")


def _snapshot(time_ns: int, bids: npt.NDArray[np.int64]) -> Events:
    count = len(bids) + 2
    kind = np.full(count, LEVEL, np.uint8)
    side = np.full(count, BID, np.int8)
    flags = np.zeros(count, np.uint8)
    kind[0], side[0], side[-1], flags[-1] = CLEAR, 0, ASK, END
    local = np.full(count, time_ns)
    price = np.concatenate([[0], bids, bids[:1] + 1])
    return Events(local, local, kind, side, flags, price, np.ones(count), np.ones(count, np.int64))


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
        each = (time.perf_counter() - began) / len(session.events) * NS_PER_S
        print(f"{name}: pushed at once, {each:.0f} ns an event")
    worst_cases(session.instrument, params.crash)


if __name__ == "__main__":
    main()
