"""Records in files as JSON, one a file or one a line, which a crash, a failing disk or a person may have spoilt."""

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
_Record = TypeVar("_Record")


class SpoiltLineError(ValueError):
    """A line that is no record, nor the rest of a crashed append; the text is `file:line`."""


class ShortWriteError(OSError):
    """The disk took only a part of a line."""


def decode(content: bytes, kind: type[_Record]) -> _Record:
    """Return the record that a file's content is.

    Raises:
        msgspec.DecodeError: it is none; a byte within a string that is no UTF-8 counts too, which msgspec alone reports
            as an error of another kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def append(path: Path, one: Struct, *, mark_torn: bool = False) -> None:
    """Add a record durably to a file of one a line, with one write under a lock on the file.

    A line that a crash cut short is ended first, so that it swallows no other.

    Args:
        path: the file; it is made where there is none.
        one: the record.
        mark_torn: end such a line with a mark, which a strict `read` passes over.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        end = b"" if not torn else _TORN if mark_torn and not _ends_whole(path, type(one)) else b"\n"
        line = end + msgspec.json.encode(one) + b"\n"
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


def rewrite(path: Path, records: Iterable[Struct]) -> None:
    """Replace a file of one a line, so that a crash leaves the old one or the new.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, b"".join(msgspec.json.encode(one) + b"\n" for one in records))


def read(path: Path, kind: type[_Record], *, strict: bool = False) -> list[_Record]:
    """Return the records of a file of one a line, in their order; none where there is no file.

    Args:
        path: the file.
        kind: of all records.
        strict: leave out only what crashes cut short: lines with the mark of `append`, and an unfinished last one.
            Otherwise every line that is no record is left out.

    Raises:
        OSError: the file cannot be read.
        SpoiltLineError: with `strict`, a line is no record.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if line.endswith(_TORN):
            continue
        try:
            found.append(decode(line, kind))
        except msgspec.DecodeError as error:
            if strict and line.endswith(b"\n"):
                raise SpoiltLineError(f"{path}:{number}") from error
    return found


def _ends_whole(path: Path, kind: type[Struct]) -> bool:
    """Say whether the last line lacks its line feed alone."""
    try:
        decode(path.read_bytes().rsplit(b"\n", 1)[-1], kind)
    except msgspec.DecodeError:
        return False
    return True
