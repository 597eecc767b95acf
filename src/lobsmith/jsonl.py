"""Records that lie in files as JSON, which a crash, a failing disk or a person may have spoilt."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

_Record = TypeVar("_Record")


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


def append_line(path: Path, one: Struct) -> None:
    """Add a record durably to a file of one a line; whoever may write at the same time is kept away by the caller.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        # A line that a crash cut short must not swallow this one.
        torn = size > 0 and file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + msgspec.json.encode(one) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def decode_lines(content: bytes, kind: type[_Record]) -> list[_Record]:
    """Return the records of a file of one a line, in their order; a line that is none is left out."""
    found = []
    for line in content.splitlines():
        try:
            found.append(decode(line, kind))
        except msgspec.DecodeError:
            continue
    return found
