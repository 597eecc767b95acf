"""The time of a workspace, UTC ns; leases, deadlines and durations go by the machine's clock.

It is the machine's time unless `.lobsmith/clock.json` sets another speed; it never goes back, so a workspace that ran
ahead stays ahead. A process reads the file in `use`; children inherit the clock. `_HELD_S` after a faster clock was
last touched by the process that runs it, time passes at the machine's speed again.
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
"""Largest speed: an hour in a second."""
_VARIABLE = "LOBSMITH_CLOCK"
_TOUCH_S = 5.0
_HELD_S = 30.0
"""Machine seconds that a faster clock holds after a touch; before, its end would set time back."""
inherited = _VARIABLE in os.environ
"""Whether a parent process runs the clock."""


class _Clock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line through (`wall_ns` of the machine, `time_ns`) with slope `speed`."""

    wall_ns: int = 0
    time_ns: int = 0
    speed: float = 1.0

    def at(self, wall_ns: int) -> int:
        past_ns = wall_ns - self.wall_ns
        # Integers where possible: a float of ns since 1970 is off by hundreds.
        return self.time_ns + (past_ns if self.speed == 1.0 else round(past_ns * self.speed))


_MACHINE = _Clock()
_clock: _Clock | None = None
"""None until first use: an inherited clock may be corrupt, and an import cannot report that."""


def now_ns() -> int:
    """Return the time of the workspace, UTC ns.

    Raises:
        ClockError: this process has inherited a corrupt clock.
    """
    if _clock is _MACHINE:  # fast path, called for every row
        return time.time_ns()
    return _current().at(time.time_ns())


def speed() -> float:
    """Return the workspace seconds that pass in a second of the machine."""
    return _current().speed


def from_wall(wall_ns: int) -> int:
    """Convert a time of the machine to the workspace's, both UTC ns."""
    return _current().at(wall_ns)


def ahead_ns() -> int:
    """Return by how much the workspace is ahead of the machine, ns."""
    wall_ns = time.time_ns()
    return _current().at(wall_ns) - wall_ns


def sleep_until(time_ns: int) -> None:
    """Wait until a time of the workspace, UTC ns; return at once if it has passed."""
    while (left_ns := time_ns - now_ns()) > 0:
        time.sleep(left_ns / NS_PER_S / speed())


def use(path: Path) -> None:
    """Use the clock of a workspace from now on, in this process and its children.

    Args:
        path: `Workspace.clock`; the machine's time where it is missing.

    Raises:
        ClockError: the file or the inherited clock is corrupt or unreadable.
    """
    _current()
    _set(_effective(*_read(path)))


def run(path: Path, faster: float) -> None:
    """Let the workspace's time pass `faster` times as fast as the machine's from now on; 1 ends that.

    Raises:
        ClockError: the factor is not between 1 and `FASTEST`, or the file cannot be read or written.
    """
    if not 1 <= faster <= FASTEST:
        raise ClockError(f"speed {faster:g}: time passes 1 to {FASTEST:g} times as fast as the machine's")
    written, changed_ns = _read(path)
    wall_ns = time.time_ns()
    before = _effective(written, changed_ns)
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
    while _clock == running:
        # Without the file or the permission time slows down; the next start reports why.
        with suppress(OSError):
            os.utime(path)
            fsync_file(path)
        time.sleep(_TOUCH_S)


def _effective(written: _Clock, changed_ns: int) -> _Clock:
    """Return the clock of a file that was last touched at `changed_ns` of the machine, UTC ns."""
    end_ns = max(changed_ns, written.wall_ns) + int(_HELD_S * NS_PER_S)
    if written.speed == 1 or time.time_ns() <= end_ns:
        return written
    return _Clock(wall_ns=end_ns, time_ns=written.at(end_ns))


def _read(path: Path) -> tuple[_Clock, int]:
    """Return the clock in a file, and when it was last touched, UTC ns of the machine."""
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
        _clock = _inherited_clock()
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


def _inherited_clock() -> _Clock:
    text = os.environ.get(_VARIABLE)
    if text is None:
        return _MACHINE
    try:
        return _decoded(text.encode())
    except (msgspec.DecodeError, ValueError) as error:
        raise ClockError(f"{_VARIABLE}={text}: not a clock ({error}); unset it") from error
