"""Becomes another program that is killed as soon as its parent dies.

Run as `python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT...`. It is a program of its own because the alternative, a
function between fork and exec, is unsafe in a parent that has threads. Standard library only.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent's life and replace it by the program."""
    parent, program = int(arguments[0]), arguments[1]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above took effect.
    if os.getppid() != parent:
        sys.exit("the parent process is gone")
    try:
        os.execv(program, arguments[1:])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"error: {program}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
