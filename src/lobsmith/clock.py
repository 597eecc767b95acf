"""The time of a workspace, UTC ns: of its market, looks, modes, versions, journal and retention.

It is the machine's own time, unless `.lobsmith/clock.json` says otherwise: `lobsmith up --speed 60` lives an hour in a
minute, and a workspace that has lived ahead stays ahead when it slows down again, so that its time never goes back.
A process reads the file once, in `use`; its children get the same clock from their environment.

The process that runs a faster clock touches the file while it lives. Where that has stopped, as after a power cut, time
passes as the machine's does again from `_HELD_S` after the last touch on.

Leases, deadlines and durations do not go by it: they guard processes, which live no faster.
"""

import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ClockError
from lobsmith.files import fsync_file, write_atomic
from lobsmith.units import NS_PER_S

FASTEST = 3600.0
"""An hour in a second."""
_VARIABLE = "LOBSMITH_CLOCK"
_TOUCH_S = 5.0
_HELD_S = 30.0
"""Of the machine's time that a faster clock holds after it was touched. It ends nowhere before: time would go back."""
inherited = _VARIABLE in os.environ
"""Whether another process, which has started this one, runs the clock."""


class _Clock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line through a point: at `wall_ns` of the machine it was `time_ns`, and goes on `speed` times as fast."""

    wall_ns: int = 0
    time_ns: int = 0
    speed: float = 1.0

    def at(self, wall_ns: int) -> int:
        past_ns = wall_ns - self.wall_ns
        # Whole numbers where they can be: a float of nanoseconds since 1970 is off by hundreds.
        return self.time_ns + (past_ns if self.speed == 1.0 else round(past_ns * self.speed))


_MACHINE = _Clock()
_clock: _Clock | None = None
"""None until it is first used: what another process hands down may be spoilt, and an import is no place to say so."""


def now_ns() -> int:
    """Return the time of the workspace, UTC ns.

    Raises:
        ClockError: this process has inherited a spoilt clock; so does all else that uses it.
    """
    if _clock is _MACHINE:  # a third of the time, for a client's every row
        return time.time_ns()
    return _current().at(time.time_ns())


def speed() -> float:
    """Return how many seconds of the workspace pass in one of the machine."""
    return _current().speed


def from_wall(wall_ns: int) -> int:
    """Return what time it is, or was, in the workspace at a time of the machine, both UTC ns."""
    return _current().at(wall_ns)


def ahead_ns() -> int:
    """Return how far the workspace's time is ahead of the machine's, ns."""
    wall_ns = time.time_ns()
    return _current().at(wall_ns) - wall_ns


def sleep_until(time_ns: int) -> None:
    """Wait until a time of the workspace, UTC ns; return at once where it has passed."""
    while (left_ns := time_ns - now_ns()) > 0:
        time.sleep(left_ns / NS_PER_S / speed())


def use(path: Path) -> None:
    """Go by the clock of a workspace from now on, as do processes that this one starts.

    Args:
        path: `Workspace.clock`; where it is missing, the machine's time holds.

    Raises:
        ClockError: the file, or the clock that this process has inherited, is spoilt or cannot be read.
    """
    _current()
    _set(_held(*_read(path)))


def run(path: Path, faster: float) -> None:
    """Let the workspace's time pass `faster` times as fast as the machine's from now on; 1 ends that.

    Raises:
        ClockError: the factor is not between 1 and `FASTEST`, or the file cannot be read or written.
    """
    if not 1 <= faster <= FASTEST:
        raise ClockError(f"speed {faster:g}: time passes 1 to {FASTEST:g} times as fast as the machine's")
    written, changed_ns = _read(path)
    wall_ns = time.time_ns()
    before = _held(written, changed_ns)
    after = before
    if not before.speed == written.speed == faster:
        after = _Clock(wall_ns=wall_ns, time_ns=before.at(wall_ns), speed=faster)
        try:
            write_atomic(path, msgspec.json.encode(after))
        except OSError as error:
            raise ClockError(f"{path}: {error.strerror}; free the disk, or let time pass as it does") from error
    _set(after)
    if faster > 1:
        threading.Thread(target=_touch, args=(path, after), name="clock", daemon=True).start()


def _touch(path: Path, running: _Clock) -> None:
    """Say that a faster clock goes on, until this process goes by another one."""
    while _clock == running:
        # Without the file, or the right to touch it, time slows down, and the next start says why.
        with suppress(OSError):
            os.utime(path)
            fsync_file(path)
        time.sleep(_TOUCH_S)


def _held(written: _Clock, changed_ns: int) -> _Clock:
    """Return the clock that a file means which was touched last at a time of the machine, UTC ns."""
    end_ns = max(changed_ns, written.wall_ns) + int(_HELD_S * NS_PER_S)
    if written.speed == 1 or time.time_ns() <= end_ns:
        return written
    return _Clock(wall_ns=end_ns, time_ns=written.at(end_ns))


def _read(path: Path) -> tuple[_Clock, int]:
    """Return what a file says, and when it was touched last, UTC ns of the machine."""
    try:
        with path.open("rb") as file:
            return _decoded(file.read()), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return _MACHINE, 0
    except (OSError, msgspec.DecodeError, ValueError) as error:
        way_out = "restore it, or remove it where no version is dated ahead"
        raise ClockError(f"{path}: not a clock ({error}); {way_out}") from error


def _current() -> _Clock:
    global _clock
    if _clock is None:
        _clock = _of_environment()
    return _clock


def _set(clock: _Clock) -> None:
    global _clock
    _clock = _MACHINE if clock == _MACHINE else clock
    if _clock is _MACHINE:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = msgspec.json.encode(clock).decode()


def _decoded(content: bytes) -> _Clock:
    clock = jsonl.decode(content, _Clock)
    if not math.isfinite(clock.speed) or not 1 <= clock.speed <= FASTEST:
        raise ValueError(f"speed {clock.speed:g}")
    return clock


def _of_environment() -> _Clock:
    given = os.environ.get(_VARIABLE)
    if given is None:
        return _MACHINE
    try:
        return _decoded(given.encode())
    except (msgspec.DecodeError, ValueError) as error:
        raise ClockError(f"{_VARIABLE}={given}: not a clock ({error}); unset it") from error
