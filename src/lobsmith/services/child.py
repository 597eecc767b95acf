"""One run of a service: a process that the kernel kills with its parent, and how it is seen to be ready."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lobsmith.process import HEARTBEAT, Heartbeat, heartbeat_memory
from lobsmith.services.guard import VARIABLE
from lobsmith.services.logs import Output
from lobsmith.services.service import Service
from lobsmith.serving import launcher
from lobsmith.serving.triton.embedded import describe_exit, error_line

_READY_POLL_S = 0.1


class Child:
    """A running service. The thread that makes it must live as long: the kernel kills the process with that thread.

    Args:
        service: what to run.
        log: where its output is appended.
        mark: the value of the mark that its processes carry.
        wake: called from another thread when there is news of it.

    Raises:
        OSError: its log cannot be opened, or no process can be started or watched.
    """

    def __init__(self, service: Service, log: Path, mark: str, wake: Callable[[], None]) -> None:
        self.service = service
        self.started_ns = time.time_ns()
        self.started_s = time.monotonic()
        self._output = Output(log)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **service.environment, VARIABLE: mark}
        with log.open("ab") as file, heartbeat_memory() as descriptor:
            beats = Heartbeat(descriptor)
            if service.beat_s is not None:
                environment[HEARTBEAT] = str(descriptor)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *service.command],
                cwd=service.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=() if service.beat_s is None else (descriptor,),
                # Ctrl-C is for the supervisor, which ends services in their order.
                start_new_session=True,
            )
        try:
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            # What nothing watches must not hold a port.
            self.kill()
            self._process.wait()
            raise
        self.probe = ReadinessProbe(service, self.pid, self._output, beats, wake)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> bool:
        """Say whether the process has ended."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """Exit status, None while it runs; negative is the signal that killed it."""
        return self._process.returncode

    def how_it_ended(self) -> str:
        """Say in one line how it ended, with its last error."""
        code = self._process.returncode
        words = error_line(self._output.lines()) if code > 0 else ""
        return describe_exit(code) + (f": {words}" if words else "")

    def terminate(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what is in its process group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap it after its end, with what it left behind in its process group."""
        self.kill()
        self._process.wait()
        self.probe.end()
        os.close(self.pidfd)


class ReadinessProbe:
    """A thread that finds out whether a service answers; a server that hangs must not hold the supervisor up.

    `why` is why it is not ready or does not answer, None where it does; `silent_since` tells since when, on the
    monotonic clock, it has not answered.
    """

    def __init__(self, service: Service, pid: int, output: Output, beats: Heartbeat, wake: Callable[[], None]) -> None:
        self._service = service
        self._pid = pid
        self._output = output
        self._beats = beats
        self._wake = wake
        self._ended = threading.Event()
        self.silent_since: float = time.monotonic()
        self.why: str | None = "starting"
        if service.probe is None and service.beat_s is None:
            self.why = None
            return
        threading.Thread(target=self._run, name=f"look at {service.name}", daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self) -> None:
        ready_once = False
        while not self._ended.is_set():
            before, why = self.why, self._trouble()
            if why is not None and before is None:
                self.silent_since = time.monotonic()
            self.why = why
            ready_once |= why is None
            if (why is None) != (before is None):
                self._wake()
            self._ended.wait(_READY_POLL_S if why is not None and not ready_once else self._service.probe_s)

    def _trouble(self) -> str | None:
        service = self._service
        if service.beat_s is not None:
            age_s = self._beats.age_s()
            if age_s is None:
                return error_line(self._output.lines()) or "it does not report that it is ready"
            if age_s > service.beat_s:
                return f"no heartbeat within {service.beat_s:g} s"
        return None if service.probe is None else service.probe(self._pid)
