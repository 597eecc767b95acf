"""Executes a program that the kernel kills when its parent ends.

Run as `python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT...`, standard library only: a function between fork and
exec would be unsafe in a parent with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and replace it by the program."""
    parent, program = int(arguments[0]), arguments[1]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have exited before the call.
    if os.getppid() != parent:
        sys.exit("the parent process is gone")
    try:
        os.execv(program, arguments[1:])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"error: {program}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
