"""Keeps services running: starts them in order, watches them, starts them again, and stops them in reverse order.

Everything happens in the main thread, because the kernel kills a service with the thread that started it. It sleeps
until a process ends, a service is seen to answer or not, a signal comes, or something is due.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from lobsmith import clock
from lobsmith.errors import ServiceError
from lobsmith.process import Process
from lobsmith.services import guard
from lobsmith.services.child import Child
from lobsmith.services.logs import SUPERVISOR, log_folder, rotate
from lobsmith.services.run import Run, sole_run, state_path, unusable, write_run
from lobsmith.services.service import Service, ServiceState
from lobsmith.services.watched import Watched
from lobsmith.serving.ports import check_free
from lobsmith.workspace import Workspace

TICK_S = 1.0
_ROTATE_S = 10.0
_LEFTOVER_GRACE_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnChange = Callable[[ServiceState], None]
OnTick = Callable[[Run], None]


def supervise(
    workspace: Workspace,
    services: Sequence[Service],
    prefect_api: str = "",
    *,
    speed: float = 1.0,
    on_change: OnChange = lambda _state: None,
    on_tick: OnTick = lambda _run: None,
) -> None:
    """Run services until SIGINT, SIGTERM or SIGHUP; then leave no process. A second signal kills what still runs.

    Call it in the main thread. A SIGHUP that is ignored already, as under `nohup`, stays so.

    Args:
        workspace: where state and logs lie.
        services: in the order in which they are started.
        prefect_api: the address of Prefect's server, for other commands in this workspace.
        speed: how many times as fast as the machine's the workspace's time passes until then.
        on_change: called at each change of a service's state.
        on_tick: called once a second, and after the changes.

    Raises:
        ClockError: time cannot pass that fast, or the workspace's clock cannot be written.
        ServiceError: services run here already, or their state or logs cannot be written.
        PortBusyError: a port is taken.
    """
    with sole_run(workspace):
        mark = str(workspace.root)
        # What a `lobsmith up` that was killed together with its guard has left would hold the ports.
        guard.end_marked(mark, grace_s=0.0)
        check_free([port for one in services if one.instead is None for port in one.ports])
        logs = log_folder(workspace)
        try:
            logs.mkdir(parents=True, exist_ok=True)
            for one in services:
                one.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(logs, error) from error
        with _signals() as signals, _guard(mark, signals), _clock(workspace, speed):
            watched = [Watched(one, logs / f"{one.name}.log", mark, signals.wake) for one in services]
            _Supervisor(workspace, watched, prefect_api, signals, on_change, on_tick).run()


class _Supervisor:
    def __init__(
        self,
        workspace: Workspace,
        watched: Sequence[Watched],
        prefect_api: str,
        signals: "_Signals",
        on_change: OnChange,
        on_tick: OnTick,
    ) -> None:
        self._workspace = workspace
        self._watched = watched
        self._run = Run(process=Process.this(), started_ns=time.time_ns(), prefect_api=prefect_api)
        self._signals = signals
        self._on_change = on_change
        self._on_tick = on_tick
        self._next_tick = self._next_rotation = time.monotonic()

    def run(self) -> None:
        write_run(self._workspace, self._run)
        try:
            while not self._signals.count:
                for one in self._watched:
                    one.advance({other.service.name: other.state.state for other in self._watched})
                self._note()
                self._tick()
                self._sleep()
        finally:
            for one in reversed(self._watched):
                one.end(hurry=lambda: self._signals.count > 1, wait=self._wait)
                self._note()
            state_path(self._workspace).unlink(missing_ok=True)

    def _note(self) -> None:
        """Tell and write down what has changed."""
        before = {one.name: one for one in self._run.services}
        now = tuple(one.state for one in self._watched)
        changed = [one for one in now if one != before.get(one.name)]
        if not changed:
            return
        self._run = Run(
            process=self._run.process,
            started_ns=self._run.started_ns,
            prefect_api=self._run.prefect_api,
            services=now,
        )
        # A disk that is full now must not end what runs. `lobsmith down` needs only what was written first.
        with suppress(ServiceError):
            write_run(self._workspace, self._run)
        for one in changed:
            with suppress(OSError):
                self._on_change(one)
        self._next_tick = 0.0

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            with suppress(OSError):
                self._on_tick(self._run)
        if now >= self._next_rotation:
            self._next_rotation = now + _ROTATE_S
            for name in (SUPERVISOR, *(one.service.name for one in self._watched)):
                rotate(log_folder(self._workspace) / f"{name}.log")

    def _sleep(self) -> None:
        due = [self._next_tick, *(one.due_s for one in self._watched if one.due_s is not None)]
        self._poll([one.child for one in self._watched if one.child is not None], min(due) - time.monotonic())

    def _wait(self, child: Child, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not child.ended() and self._signals.count < 2 and (left := end - time.monotonic()) > 0:
            self._poll([child], left)
        return child.ended()

    def _poll(self, children: Sequence[Child], seconds: float) -> None:
        poll = select.poll()
        poll.register(self._signals.reader, select.POLLIN)
        for child in children:
            poll.register(child.pidfd, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        self._signals.drain()


class _Signals:
    """Signals that have come, and a pipe that wakes the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.wake()

    def wake(self) -> None:
        # Full is as good as written; closed means that there is nothing left to wake.
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
    ours = [one for one in _SIGNALS if one is not signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signals.note) for number in ours}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals.close()


@contextmanager
def _clock(workspace: Workspace, speed: float) -> Iterator[None]:
    """Let the workspace's time pass so many times as fast as the machine's; services inherit that clock."""
    clock.run(workspace.clock, speed)
    try:
        yield
    finally:
        clock.run(workspace.clock, 1.0)


@contextmanager
def _guard(mark: str, signals: _Signals) -> Iterator[None]:
    """End what services leave behind; a guard beside us does so when we are killed."""
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
        guard.end_marked(mark, 0.0 if signals.count > 1 else _LEFTOVER_GRACE_S)
        child.kill()
        child.wait()
