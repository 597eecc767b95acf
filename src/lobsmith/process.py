"""Processes: the identity of one, distinct from later ones and those of other machines; a module in one of its own.

A process gives a sign of life to the one that has started it in memory that both share.
"""

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
"""Variable of the environment: the descriptor of the memory of this process's heartbeat."""
_PR_SET_PDEATHSIG = 1
_BEAT = struct.Struct("d")


class Process(Struct, frozen=True, kw_only=True):
    """A process: any process can compare itself with it, and those on its machine can see whether it lives.

    `started_ticks` is its start in the kernel's clock ticks. `space` names the boot and the namespace in which `pid`
    means something: of two containers with one host name, neither can tell whether a process of the other lives.
    """

    user: str
    pid: int
    started_ticks: int
    host: str
    space: str

    @classmethod
    def this(cls) -> "Process":
        """Return the process that asks."""
        pid = os.getpid()
        return cls(user=user(), pid=pid, started_ticks=start_ticks(pid) or 0, host=socket.gethostname(), space=_space())

    def is_here(self) -> bool:
        """Say whether it can be seen from here, if it lives."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    def is_dead(self) -> bool:
        """Say whether it is known to have ended; False for one that lives and for one that cannot be seen from here."""
        return self.is_here() and start_ticks(self.pid) != self.started_ticks

    def __str__(self) -> str:
        return f"{self.user}, process {self.pid} on {self.host}"


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, None where it does not live.

    This is what leases on disk hold. psutil gives the time of day instead, which changes whenever the clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def peak_bytes(pid: int) -> int:
    """Return the largest resident memory that a process has had; 0 where it is gone.

    psutil does not have it, and `ru_maxrss` begins with that of the process it came from.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def user() -> str:
    """Return the name of the user, or the number where a container runs under one that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def run_module(module: str, *arguments: str, deadline_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m MODULE` and return what it printed and how it ended: it may crash, hang, or keep memory.

    Args:
        module: its full name.
        arguments: of its command line.
        deadline_s: seconds after which the process is killed.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    # -P keeps a local file named like a package from being imported in its place.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, check=False)


def _space() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def end_with(parent: int) -> None:
    """Have the kernel kill this process as soon as the thread that started it ends; end where it has already.

    Args:
        parent: the process of that thread.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the call above took effect.
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


class Heartbeat:
    """When a process last gave a sign of life, in memory that it shares with the one that has started it.

    It depends on no log, disk, port or wall clock: nothing but a process that is stopped or hangs lets it grow old.
    """

    def __init__(self, descriptor: int = -1) -> None:
        """Map the memory of a descriptor; -1 is memory that no other process sees."""
        self._memory = mmap.mmap(descriptor, _BEAT.size)

    @classmethod
    def inherited(cls) -> "Heartbeat":
        """Return that of this process, at which nothing looks where it was started without one."""
        given = os.environ.pop(HEARTBEAT, None)  # the descriptor means nothing to processes below
        if given is None:
            return cls()
        descriptor = int(given)
        try:
            return cls(descriptor)
        finally:
            os.close(descriptor)

    def beat(self) -> None:
        """Give a sign of life."""
        _BEAT.pack_into(self._memory, 0, time.monotonic())

    def age_s(self) -> float | None:
        """Return the time since the last sign of life, s; None before the first."""
        (at,) = _BEAT.unpack_from(self._memory)
        return time.monotonic() - at if at else None


@contextmanager
def heartbeat_memory() -> Iterator[int]:
    """Yield a descriptor of new memory for a `Heartbeat`, to be mapped here and inherited by one process.

    Raises:
        OSError: there are too many open files.
    """
    descriptor = os.memfd_create("heartbeat")
    try:
        os.ftruncate(descriptor, _BEAT.size)
        yield descriptor
    finally:
        os.close(descriptor)
