"""Ctrl-C ends a command within `LIMIT_S`, with exit status 130 and no traceback.

A library may swallow KeyboardInterrupt, and compiled code delays it. So a thread reads SIGINT from a pipe too, and ends
the process where the command does not.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

STATUS = 128 + signal.SIGINT
LIMIT_S = 3.0
"""Time that a command has to end by itself, s, unless `allow` gives it more."""
_FINISHING = b"lobsmith.trading.recorder.process"
"""A recorder writes what its ring holds, and ends by itself."""
_SHOW_CURSOR = "\x1b[?25h"


_limit_s = LIMIT_S


def allow(seconds: float) -> None:
    """Give the command so long to end by itself after SIGINT, s: it keeps the time itself."""
    global _limit_s
    _limit_s = seconds


@contextmanager
def calling(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM within the block; asyncio's own handlers would hide SIGINT from the thread."""
    handlers = {
        number: signal.signal(number, lambda _number, _frame: stop()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Interrupts:
    """SIGINT of this process, also where the command handles it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._seen = False
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._end_late, name="Ctrl-C", daemon=True).start()

    def seen(self) -> bool:
        """Return whether SIGINT has come."""
        with self._lock, suppress(BlockingIOError):
            if signal.SIGINT in os.read(self._reader, 4096):
                self._seen = True
                os.write(self._writer, b"\0")  # for the thread, if this is another
        return self._seen

    def _end_late(self) -> None:
        while not self.seen():
            select.select([self._reader], [], [])
        time.sleep(_limit_s)
        _exit()


@contextmanager
def ending_on_interrupt() -> Iterator[None]:
    """Exit with `STATUS` at the end of the block if SIGINT came in it, `LIMIT_S` later at the latest."""
    interrupts = _Interrupts()
    _silence()
    try:
        yield
    finally:
        if interrupts.seen():
            # A second Ctrl-C must not cut the end short.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            atexit._run_exitfuncs()
            _exit()


def _silence() -> None:
    """Print no KeyboardInterrupt that compiled code or a destructor cannot raise."""
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def show_unraisable(ignored: "UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            unraisable(ignored)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = show_unraisable, show


def _exit() -> NoReturn:
    """End with all descendants, without waiting for threads."""
    for pid in _descendants(os.getpid()):
        with suppress(OSError):
            if _FINISHING not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
    with suppress(OSError, ValueError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
    os._exit(STATUS)


def _descendants(pid: int) -> list[int]:
    pids: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                pids += [child, *_descendants(child)]
    return pids
