"""The state machine of a supervised service."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lobsmith.errors import PortBusyError
from lobsmith.services.child import Child
from lobsmith.services.service import NEVER_STARTED, Phase, Service, ServiceState
from lobsmith.serving.ports import check_free

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 10.0
STEADY_S = 60.0
"""Run time after which the back-off starts anew, s."""
SLOW_START_S = 15.0
"""Time in `STARTING` until the probe's reason is shown, s."""
_FINAL = (Phase.FINISHED, Phase.STOPPED, *NEVER_STARTED)


class Watched:
    """A service with process and state.

    Args:
        service: its definition.
        log: file of its output, appended.
        mark: value of `guard.VARIABLE` in its environment.
        wake: called in another thread when its readiness changes.
    """

    def __init__(self, service: Service, log: Path, mark: str, wake: Callable[[], None]) -> None:
        self.service = service
        self.child: Child | None = None
        self._log = log
        self._mark = mark
        self._wake = wake
        self._state, self._why = service.instead or (Phase.WAITING, "")
        self._restarts = 0
        self._in_a_row = 0
        self._due_s = 0.0

    @property
    def state(self) -> ServiceState:
        """Its current state and process."""
        child = self.child
        return ServiceState(
            name=self.service.name,
            state=self._state,
            why=self._why,
            address=self.service.address,
            page=self.service.page,
            pid=None if child is None else child.pid,
            started_ns=None if child is None else child.started_ns,
            restarts=self._restarts,
        )

    @property
    def due_s(self) -> float | None:
        """Time of the next restart, monotonic clock, s, else None."""
        return self._due_s if self._state is Phase.RESTARTING else None

    def advance(self, others: Mapping[str, Phase]) -> None:
        """Start it if due, or update its state.

        Args:
            others: states of all services; a missing one counts as ready.
        """
        if self._state in _FINAL:
            return
        if self.child is not None:
            self._check(self.child)
        elif self._state is Phase.RESTARTING:
            if time.monotonic() >= self._due_s:
                self._start()
        else:
            usable = (Phase.READY, *NEVER_STARTED)
            unready = [name for name in self.service.after if others.get(name, Phase.READY) not in usable]
            self._why = f"for {' and '.join(unready)}" if unready else ""
            if not unready:
                self._start()

    def end(self, *, hurry: Callable[[], bool], wait: Callable[[Child, float], bool]) -> None:
        """End its process: SIGTERM, then SIGKILL after `stop_deadline_s`.

        Args:
            hurry: whether to kill at once.
            wait: waits some seconds for the end of a process; returns whether it has ended.
        """
        child = self.child
        if child is not None and not child.ended():
            child.terminate()
            if hurry() or not wait(child, self.service.stop_deadline_s):
                child.kill()
        self._close_child()
        if self._state not in _FINAL:
            self._set_state(Phase.STOPPED, "")

    def _start(self) -> None:
        try:
            check_free(self.service.ports)
            self.child = Child(self.service, self._log, self._mark, self._wake)
        except PortBusyError as error:
            self._restart_later(str(error), ran_s=0.0)
        except OSError as error:
            self._restart_later(f"{error.filename or 'a process'}: {error.strerror}", ran_s=0.0)
        else:
            self._set_state(Phase.STARTING, "")
            if self.child.probe.why is None:
                self._set_state(Phase.READY, "")

    def _check(self, child: Child) -> None:
        now = time.monotonic()
        ran_s = now - child.started_s
        if child.ended():
            if self.service.finishes and child.exit_code == 0:
                self._close_child()
                self._set_state(Phase.FINISHED, "")
            else:
                reason = child.exit_reason()
                self._close_child()
                self._restart_later(reason, ran_s)
            return
        why = child.probe.why
        if why is None:
            self._set_state(Phase.READY, "")
        elif self._state is Phase.STARTING:
            if ran_s > self.service.start_deadline_s:
                self._kill(child, f"not ready within {self.service.start_deadline_s:g} s: {why}", ran_s)
            elif ran_s > SLOW_START_S:
                self._set_state(Phase.STARTING, why)
        elif now - child.probe.silent_since > self.service.silent_s:
            self._kill(child, f"no answer for {self.service.silent_s:g} s: {why}", ran_s)
        else:
            self._set_state(Phase.SILENT, why)

    def _kill(self, child: Child, why: str, ran_s: float) -> None:
        child.kill()
        self._close_child()
        self._restart_later(why, ran_s)

    def _restart_later(self, why: str, ran_s: float) -> None:
        self._in_a_row = 0 if ran_s >= STEADY_S else self._in_a_row
        pause_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 16)
        self._restarts += 1
        self._due_s = time.monotonic() + pause_s
        self._set_state(Phase.RESTARTING, f"{why}; again in {pause_s:g} s")

    def _close_child(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None

    def _set_state(self, state: Phase, why: str) -> None:
        self._state, self._why = state, why
