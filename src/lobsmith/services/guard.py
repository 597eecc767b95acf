"""Ends every process of a `lobsmith up` that was killed: `python -I -S guard.py PID MARK`.

The kernel kills a service with its parent, but not its children; they inherit a mark in the environment. After the end
of process PID, marked processes have `GRACE_S` to end (a recorder empties its ring); the rest is killed. Standard
library only, to be small in memory.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "LOBSMITH_UP"
"""Environment variable of the mark; its value is the workspace's folder."""
GRACE_S = 8.0
"""Time for processes to end by themselves, s."""
KILL_S = 10.0
"""Time for killed processes to be gone, s; on a hanging disk they may stay."""
_POLL_S = 0.1


def marked(mark: str) -> list[int]:
    """Return the ids of this user's processes with a mark."""
    assignment = f"{VARIABLE}={mark}".encode()
    pids = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # Unreadable: ended, or another user's.
        with suppress(OSError):
            if assignment in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def end_marked(mark: str, grace_s: float) -> list[int]:
    """Wait `grace_s` for the end of marked processes; kill the rest within `KILL_S`, and return their ids."""
    end = time.monotonic() + grace_s
    while marked(mark) and time.monotonic() < end:
        time.sleep(_POLL_S)
    killed = []
    # In a loop: a process may start a child before it is killed.
    end = time.monotonic() + KILL_S
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in left if pid not in killed]
        time.sleep(_POLL_S)
    return killed


def main(pid: int, mark: str) -> None:
    """Wait for the end of process `pid`, then leave no process with the mark."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        # The kernel may have reused the id before it was opened.
        if os.getppid() == pid:
            select.select([descriptor], [], [])
    end_marked(mark, GRACE_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
