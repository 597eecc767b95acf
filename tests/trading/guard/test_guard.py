"""The guard's thread: the mode before, without and after a health check."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
import pytest

from lobsmith.monitoring.mode.machine import Mode
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guard import Guard
from tests.small import small_params
from tests.trading.client.test_stream import Clock
from tests.trading.recorded import eventually
from tests.trading.scores import NOW_NS, Modes, Scores, record

BLOCK = 16
S = 1_000_000_000
NO_SIGNAL = (Mode.CONSERVATIVE, Abstain.NO_SIGNAL)
REFERENCE = (Mode.CONSERVATIVE, Abstain.REFERENCE)
NORMAL = (Mode.NORMAL, None)
PARAMS: dict[str, Any] = {
    "reference.block_rows": BLOCK,
    "drift.every_ms": 1,
    "client.poll_s": 0.01,
    "guard.every_rows": 4,
    "guard.silent_s": 30.0,
}


@contextmanager
def guarding(
    modes: Modes, open_transport: Callable[[], Scores], *, clock: Clock | None = None, features: int = 2, **changes: Any
) -> Iterator[Guard]:
    guard = Guard(
        "lob",
        features,
        small_params(**{**PARAMS, **changes}),
        modes,
        open_transport,
        clock=clock or Clock(),
        wall=Clock(NOW_NS),
    )
    try:
        yield guard
    finally:
        guard.close()


def holds(guard: Guard) -> tuple[Mode, Abstain | None]:
    effective, _ = guard.state
    return effective.mode, effective.abstain


def come(guard: Guard, rows: int, *, start: int = 0, version: int = 1, value: float = 0.0) -> None:
    for index in range(start, start + rows):
        guard.observe(np.full(2, value, np.float32), index * 1_000_000, version)
        guard.throttle()


def test_nothing_is_normal_before_the_first_check() -> None:
    opened, go = Event(), Event()

    def open_transport() -> Scores:
        opened.set()
        assert go.wait(60)
        return Scores()

    with guarding(Modes(record()), open_transport) as guard:
        assert opened.wait(60)
        guard.observe(np.zeros(2, np.float32), 0, 1)
        assert holds(guard) == NO_SIGNAL
        go.set()
        eventually(lambda: holds(guard) == NORMAL)


def test_every_block_of_a_replay_is_scored_at_its_row() -> None:
    scores = Scores()
    with guarding(Modes(), lambda: scores, **{"client.poll_s": 60.0}) as guard:
        come(guard, 40)
        assert holds(guard) == NORMAL
        assert guard.counts.scored_blocks == 7
    assert [len(rows) for _, rows in scores.asked] == [BLOCK] * 7


def test_another_version_and_a_gap_are_checked_at_once() -> None:
    # Without rows the thread would sleep.
    scores, modes = Scores(), Modes(record())
    with guarding(modes, lambda: scores, **{"client.poll_s": 60.0}) as guard:
        come(guard, BLOCK)
        assert holds(guard) == NORMAL
        guard.reset()
        eventually(lambda: holds(guard) == NORMAL)
        modes.says = record(version=2)
        guard.observe(np.zeros(2, np.float32), 0, 2)
        eventually(lambda: holds(guard) == NORMAL)
        modes.says = None
        come(guard, BLOCK, start=1, version=2)
        assert holds(guard) == NORMAL
    assert [version for version, _ in scores.asked] == [1, 2]


@pytest.mark.parametrize("change", [Guard.reset, lambda guard: guard.observe(np.zeros(2, np.float32), 0, 2)])
def test_until_then_the_last_result_does_not_hold(change: Callable[[Guard], object]) -> None:
    requested, go, modes = Event(), Event(), Modes(record())

    def read() -> object:
        requested.set()
        assert go.wait(60)
        return modes.says

    with guarding(modes, Scores) as guard:
        guard.observe(np.zeros(2, np.float32), 0, 1)
        eventually(lambda: holds(guard) == NORMAL)
        modes.read = read
        assert requested.wait(60)
        assert holds(guard) == NORMAL
        change(guard)
        assert holds(guard) == NO_SIGNAL
        go.set()


def test_an_unexpected_error_is_no_signal_counted_and_over_with_the_next_check() -> None:
    opened = []

    def open_transport() -> Scores:
        opened.append(Scores(says=ArithmeticError("a bug") if not opened else 0.5))
        return opened[-1]

    with guarding(Modes(), open_transport) as guard:
        for index in range(BLOCK):
            guard.observe(np.zeros(2, np.float32), index * 1_000_000, 1)
        eventually(lambda: guard.counts.faults == 1 and holds(guard) == NORMAL)
        assert len(opened) == 2
        assert guard.counts.restarts == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_is_no_signal_counted_and_restarted() -> None:
    class Death(BaseException):
        pass

    modes = Modes(record())
    with guarding(modes, Scores) as guard:
        guard.observe(np.zeros(2, np.float32), 0, 1)
        eventually(lambda: holds(guard) == NORMAL)
        modes.read = lambda: (_ for _ in ()).throw(Death())
        # On the thread itself: reading the state would restart it.
        eventually(lambda: not guard._thread.is_alive())
        del modes.read
        assert holds(guard) == NO_SIGNAL
        assert guard.counts.restarts == 1
        eventually(lambda: holds(guard) == NORMAL)


def test_a_check_that_hangs_is_no_signal() -> None:
    clock, requested, go = Clock(), Event(), Event()

    class Hanging(Scores):
        def score(self, *arguments: Any) -> Any:
            requested.set()
            assert go.wait(60)
            return super().score(*arguments)

    with guarding(Modes(record()), Hanging, clock=clock) as guard:
        guard.observe(np.zeros(2, np.float32), 0, 1)
        eventually(lambda: holds(guard) == NORMAL)
        for index in range(1, BLOCK):
            guard.observe(np.zeros(2, np.float32), index * 1_000_000, 1)
        assert requested.wait(60)
        clock.now += 29 * S
        assert holds(guard) == NORMAL
        clock.now += 2 * S
        assert holds(guard) == NO_SIGNAL
        assert guard.counts.restarts == 0
        go.set()
        eventually(lambda: holds(guard) == NORMAL)


def test_what_is_paused_stays_so_while_nothing_is_known() -> None:
    clock = Clock()
    with guarding(Modes(record(Mode.PAUSED)), Scores, clock=clock, **{"client.poll_s": 60.0}) as guard:
        eventually(lambda: holds(guard)[0] is Mode.PAUSED)
        clock.now += 91 * S
        assert holds(guard) == (Mode.PAUSED, Abstain.PAUSED)


def test_with_the_monitor_gone_rows_that_drift_turn_it_by_themselves() -> None:
    class Sizes(Scores):
        def score(self, model: str, version: int, rows: np.ndarray, deadline_s: float) -> Any:
            self.says = float(np.abs(rows).mean())
            return super().score(model, version, rows, deadline_s)

    with guarding(Modes(), Sizes) as guard:
        come(guard, 60, value=0.5)
        assert holds(guard) == NORMAL
        come(guard, BLOCK + 8, start=60, value=2.0)
        assert holds(guard) == REFERENCE
        come(guard, BLOCK + 4 * 8, start=60 + BLOCK + 8, value=0.5)
        assert holds(guard) == NORMAL
