"""The services' log files: rotation by size, reading from the end."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from lobsmith.errors import ServiceError
from lobsmith.workspace import Workspace

LARGEST_BYTES = 10_000_000
OLD_LOGS = 3
"""Number of rotated files, NAME.log.1 and so on."""
SUPERVISOR = "up"
"""Name of the log of `lobsmith up` in the background."""
_POLL_S = 0.25


def log_folder(workspace: Workspace) -> Path:
    """Return the folder of the logs."""
    return workspace.up / "logs"


def log_names(workspace: Workspace) -> list[str]:
    """Return the services that have a log."""
    return sorted(path.stem for path in log_folder(workspace).glob("*.log"))


def rotate(path: Path, largest_bytes: int = LARGEST_BYTES) -> None:
    """Copy a log that is too large to NAME.log.1 and truncate it, as its writer keeps it open.

    Lines in between are lost. On a full disk there is no copy.
    """
    try:
        if path.stat().st_size <= largest_bytes:
            return
    except OSError:
        return
    older = [path.with_name(f"{path.name}.{number}") for number in range(1, OLD_LOGS + 1)]
    for newer, old in reversed(list(pairwise(older))):
        with suppress(OSError):
            newer.replace(old)
    try:
        shutil.copyfile(path, older[0])
    except OSError:
        with suppress(OSError):
            older[0].unlink()
    with suppress(OSError), path.open("r+b") as file:
        file.truncate(0)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, if there is one.

    Raises:
        ServiceError: the log cannot be read.
    """
    try:
        with path.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, count)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror}") from error


def follow(paths: dict[str, Path], lines: int, ended: Callable[[], bool] = lambda: False) -> Iterator[tuple[str, str]]:
    """Yield name and line: the last lines of each service, then new lines until `ended`."""
    offsets: dict[str, int] = {}
    for name, path in paths.items():
        offsets[name] = path.stat().st_size if path.exists() else 0
        for old in last_lines(path, lines):
            yield name, old
    rests = dict.fromkeys(paths, b"")
    while not ended():
        time.sleep(_POLL_S)
        for name, path in paths.items():
            try:
                with path.open("rb") as file:
                    # Rotated meanwhile: read from its begin.
                    begin = offsets[name] if path.stat().st_size >= offsets[name] else 0
                    file.seek(begin)
                    content = file.read()
            except FileNotFoundError:
                continue
            offsets[name] = begin + len(content)
            *whole, rests[name] = (rests[name] + content).split(b"\n")
            for line in whole:
                yield name, line.decode(errors="replace")


class Output:
    """A log's content since the start of a process."""

    _MOST_BYTES = 262_144

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._begin = path.stat().st_size
        except OSError:
            self._begin = 0

    def read(self) -> bytes:
        """Return its last `_MOST_BYTES`."""
        try:
            size = self._path.stat().st_size
            begin = self._begin if size >= self._begin else 0
            with self._path.open("rb") as file:
                file.seek(max(begin, size - self._MOST_BYTES))
                return file.read()
        except OSError:
            return b""

    def lines(self) -> list[str]:
        """Return the lines of `read`."""
        return self.read().decode(errors="replace").splitlines()
