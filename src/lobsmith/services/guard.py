"""Ends every process of a `lobsmith up` that was killed, however deep in its tree.

Each service is killed by the kernel when its parent ends, but not what the service has started itself. So all of them
carry a mark in their environment, which children inherit. `python -I -S guard.py PID MARK` waits until process PID has
ended, gives what carries the mark a moment to end by itself, as a recorder does that still empties its ring, and kills
the rest. Standard library only: the guard lives as long as `lobsmith up` and should be small.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "LOBSMITH_UP"
"""Name of the mark; its value is the workspace's folder."""
GRACE_S = 8.0
"""Time that processes have to end by themselves once `lobsmith up` is gone, s."""
KILL_S = 10.0
"""Time that killed processes have to be gone, s; a disk that does not answer may hold one for longer."""
_POLL_S = 0.1


def marked(mark: str) -> list[int]:
    """Return the processes of this user that carry a mark."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # A process that has just ended, or that belongs to another user, cannot be read.
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_marked(mark: str, grace_s: float) -> list[int]:
    """Wait until all processes with a mark have ended; kill those that have not within `grace_s`, and return them.

    Those that are not gone `KILL_S` after that are left: they wait for a disk and end once it answers.
    """
    end = time.monotonic() + grace_s
    while marked(mark) and time.monotonic() < end:
        time.sleep(_POLL_S)
    killed = []
    # A process may start another one while it is being killed.
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
        # The number may have been given away before it was opened.
        if os.getppid() == pid:
            select.select([descriptor], [], [])
    end_marked(mark, GRACE_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
