"""The process of a service and its readiness probe."""

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
    """The process of a service; the kernel kills it with the thread that started it.

    Args:
        service: its definition.
        log: file of its output, appended.
        mark: value of `guard.VARIABLE` in its environment.
        wake: called in another thread when its readiness changes.

    Raises:
        OSError: log or process cannot be opened.
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
                # Ctrl-C reaches the supervisor only.
                start_new_session=True,
            )
        try:
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            # An unwatched process must not hold a port.
            self.kill()
            self._process.wait()
            raise
        self.probe = ReadinessProbe(service, self.pid, self._output, beats, wake)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """Exit status or negative signal; None while it runs."""
        return self._process.returncode

    def exit_reason(self) -> str:
        """Return exit status or signal, with its last error, in one line."""
        code = self._process.returncode
        message = error_line(self._output.lines()) if code > 0 else ""
        return describe_exit(code) + (f": {message}" if message else "")

    def terminate(self) -> None:
        """Send it SIGTERM."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap it and kill the rest of its process group."""
        self.kill()
        self._process.wait()
        self.probe.end()
        os.close(self.pidfd)


class ReadinessProbe:
    """Probes a service in a thread, so that a hanging server does not block the supervisor.

    Attributes:
        why: reason that it is not ready or does not answer, else None.
        silent_since: when it stopped answering, monotonic clock, s.
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
        threading.Thread(target=self._run, name=f"probe {service.name}", daemon=True).start()

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        ready_once = False
        while not self._ended.is_set():
            before, why = self.why, self._probe()
            if why is not None and before is None:
                self.silent_since = time.monotonic()
            self.why = why
            ready_once |= why is None
            if (why is None) != (before is None):
                self._wake()
            self._ended.wait(_READY_POLL_S if why is not None and not ready_once else self._service.probe_s)

    def _probe(self) -> str | None:
        service = self._service
        if service.beat_s is not None:
            age_s = self._beats.age_s()
            if age_s is None:
                return error_line(self._output.lines()) or "it does not report that it is ready"
            if age_s > service.beat_s:
                return f"no heartbeat within {service.beat_s:g} s"
        return None if service.probe is None else service.probe(self._pid)
