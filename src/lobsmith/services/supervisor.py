"""Starts services in order, watches and restarts them, and stops them in reverse order.

All in the main thread, as the kernel kills a service with the thread that started it. It sleeps until a process ends, a
probe's result changes, a signal comes, or a restart or tick is due.
"""

import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from msgspec.structs import replace

from lobsmith import clock
from lobsmith.errors import ServiceError
from lobsmith.process import Process
from lobsmith.services import guard
from lobsmith.services.child import Child
from lobsmith.services.logs import SUPERVISOR, log_folder, rotate
from lobsmith.services.run import Run, file_error, sole_run, state_path, write_run
from lobsmith.services.service import Service, ServiceState
from lobsmith.services.watched import Watched
from lobsmith.serving.ports import check_free
from lobsmith.workspace import Workspace

TICK_S = 1.0
_ROTATE_S = 10.0
_LEFTOVER_GRACE_S = 5.0
INTERRUPT_S = 3.5
"""Time from Ctrl-C to SIGKILL of what has not ended, s."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnChange = Callable[[ServiceState], None]
OnTick = Callable[[Run], None]


def supervise(
    workspace: Workspace,
    services: Sequence[Service],
    prefect_api: str = "",
    page: str = "",
    *,
    speed: float = 1.0,
    on_change: OnChange = lambda _state: None,
    on_tick: OnTick = lambda _run: None,
) -> None:
    """Run services until SIGINT, SIGTERM or SIGHUP, then end them; a second signal kills them.

    After SIGINT, that is Ctrl-C, they have `INTERRUPT_S` together; after the others each has its own deadline. Call it
    in the main thread. An ignored SIGHUP, as under `nohup`, stays ignored.

    Args:
        workspace: of the project.
        services: in start order.
        prefect_api: address of Prefect's API.
        page: address of the landing page.
        speed: of the workspace's clock relative to the machine's.
        on_change: called with each new state of a service.
        on_tick: called once a second, and after changes.

    Raises:
        ClockError: the speed is not allowed, or the clock cannot be written.
        ServiceError: another `lobsmith up` runs, or state or logs cannot be written.
        PortBusyError: a port is taken.
    """
    with sole_run(workspace):
        mark = str(workspace.root)
        # Leftovers of a `lobsmith up` killed with its guard hold ports.
        guard.end_marked(mark, grace_s=0.0)
        check_free([port for service in services if service.instead is None for port in service.ports])
        logs = log_folder(workspace)
        try:
            logs.mkdir(parents=True, exist_ok=True)
            for service in services:
                service.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(logs, error) from error
        with _signals() as signals, _guard(mark, signals), _clock(workspace, speed):
            watched = [Watched(service, logs / f"{service.name}.log", mark, signals.wake) for service in services]
            run = Run(process=Process.this(), started_ns=time.time_ns(), prefect_api=prefect_api, page=page)
            _Supervisor(workspace, watched, run, signals, on_change, on_tick).run()


class _Supervisor:
    def __init__(
        self,
        workspace: Workspace,
        watched: Sequence[Watched],
        run: Run,
        signals: "_Signals",
        on_change: OnChange,
        on_tick: OnTick,
    ) -> None:
        self._workspace = workspace
        self._watched = watched
        self._run = run
        self._signals = signals
        self._on_change = on_change
        self._on_tick = on_tick
        self._next_tick = self._next_rotation = time.monotonic()

    def run(self) -> None:
        write_run(self._workspace, self._run)
        try:
            while not self._signals.count:
                for watched in self._watched:
                    watched.advance({other.service.name: other.state.state for other in self._watched})
                self._publish_changes()
                self._tick()
                self._sleep()
        finally:
            for watched in reversed(self._watched):
                watched.end(hurry=self._signals.hurry, wait=self._wait)
                self._publish_changes()
            state_path(self._workspace).unlink(missing_ok=True)

    def _publish_changes(self) -> None:
        before = {state.name: state for state in self._run.services}
        now = tuple(watched.state for watched in self._watched)
        changed = [state for state in now if state != before.get(state.name)]
        if not changed:
            return
        self._run = replace(self._run, services=now)
        # On a full disk services go on; `lobsmith down` needs only the first state.
        with suppress(ServiceError):
            write_run(self._workspace, self._run)
        for state in changed:
            with suppress(OSError):
                self._on_change(state)
        self._next_tick = 0.0

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            with suppress(OSError):
                self._on_tick(self._run)
        if now >= self._next_rotation:
            self._next_rotation = now + _ROTATE_S
            for name in (SUPERVISOR, *(watched.service.name for watched in self._watched)):
                rotate(log_folder(self._workspace) / f"{name}.log")

    def _sleep(self) -> None:
        due = [self._next_tick, *(watched.due_s for watched in self._watched if watched.due_s is not None)]
        children = [watched.child for watched in self._watched if watched.child is not None]
        self._poll(children, min(due) - time.monotonic())

    def _wait(self, child: Child, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not child.ended() and not self._signals.hurry() and (left := end - time.monotonic()) > 0:
            self._poll([child], min(left, self._signals.left_s()))
        return child.ended()

    def _poll(self, children: Sequence[Child], seconds: float) -> None:
        poll = select.poll()
        poll.register(self._signals.reader, select.POLLIN)
        for child in children:
            poll.register(child.pidfd, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        self._signals.drain()


class _Signals:
    """Count of signals, and a pipe that wakes the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self._kill_s = math.inf
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if number == signal.SIGINT and math.isinf(self._kill_s):
            self._kill_s = time.monotonic() + INTERRUPT_S
        self.wake()

    def left_s(self) -> float:
        """Return the time until what has not ended is killed, s."""
        return max(0.0, self._kill_s - time.monotonic())

    def hurry(self) -> bool:
        """Return whether it is to be killed now."""
        return self.count > 1 or not self.left_s()

    def wake(self) -> None:
        # Full: wakes anyhow; closed: no reader.
        with suppress(OSError):
            os.write(self._writer, b"\0")

    def drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.reader, 4096)

    def close(self) -> None:
        writer, self._writer = self._writer, -1
        os.close(writer)
        os.close(self.reader)


@contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    handled = [
        number for number in _SIGNALS if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, signals.note) for number in handled}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals.close()


@contextmanager
def _clock(workspace: Workspace, speed: float) -> Iterator[None]:
    """Set the speed of the workspace's clock for the block."""
    clock.run(workspace.clock, speed)
    try:
        yield
    finally:
        clock.run(workspace.clock, 1.0)


@contextmanager
def _guard(mark: str, signals: _Signals) -> Iterator[None]:
    """End leftover processes at the end, or by a guard process when this one is killed."""
    environment = {name: value for name, value in os.environ.items() if name != guard.VARIABLE}
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        cwd="/",
    )
    try:
        yield
    finally:
        guard.end_marked(mark, 0.0 if signals.count > 1 else min(_LEFTOVER_GRACE_S, signals.left_s()))
        child.kill()
        child.wait()
