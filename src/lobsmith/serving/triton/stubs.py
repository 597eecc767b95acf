"""Watches the stub processes in which Triton's Python backend runs versions; Triton does not notice hangs and crashes.

A version whose stub crashed stays READY without answers. A stub that hangs in a load blocks every later control call of
its model; two seconds after its kill Triton gives the version up. Other versions answer all the time.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from lobsmith.errors import ServingError
from lobsmith.process import start_ticks
from lobsmith.serving.triton.control import READY, TritonControl

_GRACE_S = 15.0
"""For Triton to give up a version whose stub was killed."""

_Version = tuple[str, int]


class StubWatch:
    """Watches one run of Triton; call `check` about every half second."""

    def __init__(self, control: TritonControl, load_deadline_s: float) -> None:
        self._control = control
        self._triton = control.endpoint.triton_pid
        self._deadline_s = load_deadline_s
        self._loading: dict[_Version, float] = {}
        self._stubs: dict[int, _Version] = {}
        self._suspects: set[int] = set()

    def check(self) -> str | None:
        """Kill the stub of a version that has been loading for too long.

        Returns:
            Why Triton must be restarted, None where it need not.
        """
        try:
            rows = self._control.index()
        except ServingError:
            # The supervisor watches Triton itself.
            return None
        now = time.monotonic()
        versions = {(row.model, row.version): row.state for row in rows if row.version is not None}
        self._loading = {
            version: self._loading.get(version, now) for version, state in versions.items() if state == "LOADING"
        }
        alive, dead = _children(self._triton)
        self._stubs |= {pid: version for pid in alive - self._stubs.keys() if (version := _served_by(pid))}
        for version, since in self._loading.items():
            if now > since + self._deadline_s + _GRACE_S:
                return f"{version[0]}/{version[1]} hangs while it loads, and Triton does not give it up"
            if now > since + self._deadline_s:
                _kill([pid for pid in alive if self._stubs.get(pid) == version])
        # Triton notices the exit of a stub that it was starting or ending.
        busy = not {"LOADING", "UNLOADING"}.isdisjoint(versions.values())
        dead = {pid for pid in dead if (versions.get(self._stubs[pid]) == READY if pid in self._stubs else not busy)}
        # A stub just unloaded is gone by the next check.
        lost = dead & self._suspects
        self._suspects = dead
        return "the process of a version exited (out of memory?)" if lost else None


def _children(pid: int) -> tuple[set[int], set[int]]:
    """Return a process's running children, and its zombies.

    From the kernel's own list: psutil would scan all processes, twice a second.
    """
    alive: set[int] = set()
    dead: set[int] = set()
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                (dead if start_ticks(child) is None else alive).add(child)
    return alive, dead


def _served_by(pid: int) -> _Version | None:
    """Return model and version of a stub: its first argument is `<model>/<version>/<file>`."""
    with suppress(psutil.Error, IndexError, ValueError):
        path = Path(psutil.Process(pid).cmdline()[1])
        return path.parent.parent.name, int(path.parent.name)
    return None


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
