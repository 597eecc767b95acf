"""JSON lines: durable append, atomic rewrite, and reads that tolerate lines cut short by a crash."""

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from lobsmith.files import fsync_directory, write_atomic

_TORN = b" <torn>\n"
_Line = TypeVar("_Line")


class SpoiltLineError(ValueError):
    """A line that does not decode and is not the rest of a crashed append; the message is `file:line`."""


class ShortWriteError(OSError):
    """The disk took only part of a line."""


def decode(content: bytes, kind: type[_Line]) -> _Line:
    """Decode JSON.

    Raises:
        msgspec.DecodeError: the content does not decode; invalid UTF-8 within a string included.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def append(path: Path, value: Struct, *, mark_torn: bool = False) -> None:
    """Append one line durably, with one write under a lock on the file; a torn last line is ended first.

    Args:
        path: the file; created if missing.
        value: encoded as the line.
        mark_torn: end a torn line with a mark that a strict `read` skips.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        end = b"" if not torn else _TORN if mark_torn and not _ends_whole(path, type(value)) else b"\n"
        line = end + msgspec.json.encode(value) + b"\n"
        written = os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size == 0:
        fsync_directory(path.parent)
    if written != len(line):
        raise ShortWriteError(
            errno.ENOSPC, f"only {written} of {len(line)} bytes were written; is the disk full?", str(path)
        )


def rewrite(path: Path, values: Iterable[Struct]) -> None:
    """Replace the file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, b"".join(msgspec.json.encode(value) + b"\n" for value in values))


def read(path: Path, kind: type[_Line], *, strict: bool = False) -> list[_Line]:
    """Decode the lines of a file, in order; an absent file has none.

    Args:
        path: the file.
        kind: type of every line.
        strict: skip torn lines only (marked by `append`, or unfinished at the end), not all that do not decode.

    Raises:
        OSError: the file cannot be read.
        SpoiltLineError: with `strict`, another line does not decode.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    decoded = []
    for number, line in enumerate(lines, 1):
        if line.endswith(_TORN):
            continue
        try:
            decoded.append(decode(line, kind))
        except msgspec.DecodeError as error:
            if strict and line.endswith(b"\n"):
                raise SpoiltLineError(f"{path}:{number}") from error
    return decoded


def _ends_whole(path: Path, kind: type[Struct]) -> bool:
    """Return whether the last line lacks only its line feed."""
    try:
        decode(path.read_bytes().rsplit(b"\n", 1)[-1], kind)
    except msgspec.DecodeError:
        return False
    return True
