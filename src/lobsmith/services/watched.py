"""One service under supervision: from waiting over ready to ended and started again."""

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
"""Time that a service has to run before its next end counts as the first one again, s."""
SLOW_START_S = 15.0
"""Time after which a service that is still starting is asked why, s."""
_SETTLED = (Phase.FINISHED, Phase.STOPPED, *NEVER_STARTED)


class Watched:
    """A service, its process and its state.

    Args:
        service: the service.
        log: where its output is appended.
        mark: the value of the mark that its processes carry.
        wake: called from another thread when there is news of it.
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
        """Its state and its process, as they are now."""
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
        """When it is started again, on the monotonic clock; None where that is not planned."""
        return self._due_s if self._state is Phase.RESTARTING else None

    def advance(self, others: Mapping[str, Phase]) -> None:
        """Do what is due: start, start again, or take note of how its process does.

        Args:
            others: the states of all services; one that it waits for and that is not among them is none of ours.
        """
        if self._state in _SETTLED:
            return
        if self.child is not None:
            self._watch(self.child)
        elif self._state is Phase.RESTARTING:
            if time.monotonic() >= self._due_s:
                self._start()
        else:
            settled = (Phase.READY, *NEVER_STARTED)
            missing = [name for name in self.service.after if others.get(name, Phase.READY) not in settled]
            self._why = f"for {' and '.join(missing)}" if missing else ""
            if not missing:
                self._start()

    def end(self, *, hurry: Callable[[], bool], wait: Callable[[Child, float], bool]) -> None:
        """End its process: SIGTERM first, SIGKILL after `stop_deadline_s` or where there is a hurry.

        Args:
            hurry: whether to kill at once.
            wait: waits for the end of a process for some seconds and says whether it has ended.
        """
        child = self.child
        if child is not None and not child.ended():
            child.terminate()
            if hurry() or not wait(child, self.service.stop_deadline_s):
                child.kill()
        self._forget()
        if self._state not in _SETTLED:
            self._say(Phase.STOPPED, "")

    def _start(self) -> None:
        try:
            check_free(self.service.ports)
            self.child = Child(self.service, self._log, self._mark, self._wake)
        except PortBusyError as error:
            self._again(str(error), ran_s=0.0)
        except OSError as error:
            self._again(f"{error.filename or 'a process'}: {error.strerror}", ran_s=0.0)
        else:
            self._say(Phase.STARTING, "")
            if self.child.probe.why is None:
                self._say(Phase.READY, "")

    def _watch(self, child: Child) -> None:
        now = time.monotonic()
        ran_s = now - child.started_s
        if child.ended():
            if self.service.finishes and child.exit_code == 0:
                self._forget()
                self._say(Phase.FINISHED, "")
            else:
                why = child.how_it_ended()
                self._forget()
                self._again(why, ran_s)
            return
        trouble = child.probe.why
        if trouble is None:
            self._say(Phase.READY, "")
        elif self._state is Phase.STARTING:
            if ran_s > self.service.start_deadline_s:
                self._kill(child, f"not ready within {self.service.start_deadline_s:g} s: {trouble}", ran_s)
            elif ran_s > SLOW_START_S:
                self._say(Phase.STARTING, trouble)
        elif now - child.probe.silent_since > self.service.silent_s:
            self._kill(child, f"no answer for {self.service.silent_s:g} s: {trouble}", ran_s)
        else:
            self._say(Phase.SILENT, trouble)

    def _kill(self, child: Child, why: str, ran_s: float) -> None:
        child.kill()
        self._forget()
        self._again(why, ran_s)

    def _again(self, why: str, ran_s: float) -> None:
        self._in_a_row = 0 if ran_s >= STEADY_S else self._in_a_row
        pause_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 16)
        self._restarts += 1
        self._due_s = time.monotonic() + pause_s
        self._say(Phase.RESTARTING, f"{why}; again in {pause_s:g} s")

    def _forget(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None

    def _say(self, state: Phase, why: str) -> None:
        self._state, self._why = state, why
