"""The append-only record of what was published, refused or taken back: who, when, which versions, and why.

MLflow keeps no history of aliases, so this file is what answers "what was serving at 14:03 last Tuesday, and why". It
is never rewritten. A line is written with one call, under a lock, and flushed to the disk; a crash can only cut the
last one short, and the next writer closes such a stump with a mark that readers skip.
"""

import fcntl
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.errors import ReleaseError
from lobsmith.files import fsync_directory
from lobsmith.gates.verdict import Verdict

PUBLISHED = "published"
REFUSED = "refused"

_TORN = b" <torn>\n"


class Entry(Struct, frozen=True, kw_only=True):
    """One line: an action on a model's versions.

    `version_from` is what was active before, `version_to` the version that the action is about; `who` is a user or a
    flow run; `reason` says why, empty where there is nothing to say.
    """

    time_ns: int
    action: str
    model: str
    version_from: int | None
    version_to: int | None
    artifact_id: str | None
    who: str
    verdicts: tuple[Verdict, ...] = ()
    reason: str = ""


def append(path: Path, entry: Entry) -> None:
    """Add one entry durably.

    Raises:
        ReleaseError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            line = _mend(path, descriptor, size) + msgspec.json.encode(entry) + b"\n"
            written = os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size == 0:
            fsync_directory(path.parent)
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; the journal line was not written") from error
    if written != len(line):
        raise ReleaseError(f"{path}: only {written} of {len(line)} bytes were written; is the disk full?")


def read(path: Path) -> list[Entry]:
    """Return all entries, oldest first; none where there is no journal. A line that a crash cut short is left out.

    Raises:
        ReleaseError: the file cannot be read, or a line is not an entry.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        if line.endswith(_TORN):
            continue
        entry = _decode(line)
        if entry is not None:
            entries.append(entry)
        elif line.endswith(b"\n"):
            raise ReleaseError(f"{path}:{number}: not a journal entry; restore the file from a backup")
    return entries


def _decode(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:
        return None


def _mend(path: Path, descriptor: int, size: int) -> bytes:
    """Return what has to be written first so that a new entry starts on a line of its own."""
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return b""
    last = path.read_bytes().rsplit(b"\n", 1)[-1]
    return b"\n" if _decode(last) is not None else _TORN
