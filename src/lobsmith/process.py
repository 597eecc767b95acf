"""Processes: identity across reboots and machines, child modules, and heartbeats in shared memory."""

import ctypes
import getpass
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

HEARTBEAT = "LOBSMITH_HEARTBEAT"
"""Environment variable: descriptor of the memory of this process's heartbeat."""
_PR_SET_PDEATHSIG = 1
_BEAT = struct.Struct("d")


class Process(Struct, frozen=True, kw_only=True):
    """The identity of a process.

    Attributes:
        started_ticks: start time, kernel clock ticks since boot.
        space: boot id and PID namespace in which `pid` is valid: two containers may share a host name.
    """

    user: str
    pid: int
    started_ticks: int
    host: str
    space: str

    @classmethod
    def this(cls) -> "Process":
        """Return the calling process."""
        pid = os.getpid()
        return cls(user=user(), pid=pid, started_ticks=start_ticks(pid) or 0, host=socket.gethostname(), space=_space())

    def is_here(self) -> bool:
        """Return whether the process would be visible from here."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended; False where it is not visible from here."""
        return self.is_here() and start_ticks(self.pid) != self.started_ticks

    def __str__(self) -> str:
        return f"{self.user}, process {self.pid} on {self.host}"


def start_ticks(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, None where it is not running.

    Unlike psutil's time of day, it does not change when the clock is set; leases on disk hold it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def peak_bytes(pid: int) -> int:
    """Return a process's peak resident memory, bytes; 0 where it is gone. `ru_maxrss` would start at the parent's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(peak[1]) * 1024 if peak else 0


def user() -> str:
    """Return the user's name, or `uid N` where the id has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def run_module(module: str, *arguments: str, deadline_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m MODULE ARGUMENTS` and return its output and exit status.

    Args:
        module: full name.
        arguments: command line.
        deadline_s: seconds after which the process is killed.

    Raises:
        subprocess.TimeoutExpired: the process was killed.
    """
    # -P keeps a local file named like a package from being imported in its place.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, check=False)


def _space() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit where it has ended already.

    Args:
        parent: PID of that thread's process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the call above took effect.
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


class Heartbeat:
    """A process's last heartbeat, in memory shared with its parent: independent of disk, port and wall clock."""

    def __init__(self, descriptor: int = -1) -> None:
        """Map the memory of a descriptor; -1 maps private memory."""
        self._memory = mmap.mmap(descriptor, _BEAT.size)

    @classmethod
    def inherited(cls) -> "Heartbeat":
        """Return this process's heartbeat; private where the parent passed none."""
        variable = os.environ.pop(HEARTBEAT, None)  # descriptors are not inherited further down
        if variable is None:
            return cls()
        descriptor = int(variable)
        try:
            return cls(descriptor)
        finally:
            os.close(descriptor)

    def beat(self) -> None:
        """Write the current time."""
        _BEAT.pack_into(self._memory, 0, time.monotonic())

    def age_s(self) -> float | None:
        """Return seconds since the last heartbeat, None before the first."""
        (at,) = _BEAT.unpack_from(self._memory)
        return time.monotonic() - at if at else None


@contextmanager
def heartbeat_memory() -> Iterator[int]:
    """Yield a descriptor of new memory for a `Heartbeat`, to be mapped here and inherited by a child.

    Raises:
        OSError: there are too many open files.
    """
    descriptor = os.memfd_create("heartbeat")
    try:
        os.ftruncate(descriptor, _BEAT.size)
        yield descriptor
    finally:
        os.close(descriptor)
