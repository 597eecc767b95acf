"""Captured files, plain, gzip or bzip2, in batches."""

import bz2
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from lobsmith.errors import CaptureError

_CHUNK = 4 << 20
_READ = 1 << 17  # a thousand times this fits in memory
_LONGEST_LINE = 64 << 20


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_KINDS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    b"BZ": ("bzip2", bz2.BZ2Decompressor),
}


def _blocks(path: Path, file: IO[bytes], read: int) -> Iterator[bytes]:
    start = file.read(read)
    kind, new = _KINDS.get(start[:2], ("", None))
    if new is None:
        while start:
            yield start
            start = file.read(read)
        return
    member = new()
    data = start
    while data:
        try:
            yield member.decompress(data)
        except (zlib.error, OSError) as error:
            raise CaptureError(path, f"corrupt {kind} ({error}); copy the file again") from error
        data = b""
        if member.eof:
            # gzip permits zero padding.
            data = member.unused_data.lstrip(b"\0") or file.read(read).lstrip(b"\0")
            if not data:
                return
            member = new()
        else:
            data = file.read(read)
    raise CaptureError(path, f"truncated {kind}: the file ends early; copy it again")


def text_batches(path: Path, chunk: int = _CHUNK) -> Iterator[bytes]:
    """Yield whole lines with their line feeds, about `chunk` decompressed bytes at once.

    Raises:
        CaptureError: the file is missing, a directory, unreadable, empty, truncated or corrupt, or has a line of more
            than 64 MiB.
    """
    parts: list[bytes] = []
    waiting = 0
    empty = True
    try:
        if path.is_dir():
            raise CaptureError(path, "is a directory; name the capture files, in order")
        with path.open("rb") as file:
            for block in _blocks(path, file, min(_READ, chunk)):
                empty = empty and not block
                parts.append(block)
                waiting += len(block)
                if waiting < chunk:
                    continue
                text = b"".join(parts)
                end = text.rfind(b"\n") + 1
                if len(text) - end > _LONGEST_LINE:
                    raise CaptureError(path, "a line of more than 64 MiB; this is no capture of messages")
                parts = [text[end:]]
                waiting = len(parts[0])
                if end:
                    yield text[:end]
    except FileNotFoundError:
        raise CaptureError(path, "no such file") from None
    except OSError as error:
        raise CaptureError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise CaptureError(repr(str(path)), f"cannot be read: {error}") from error
    if empty:
        raise CaptureError(path, "the file is empty")
    rest = b"".join(parts)
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def line_batches(path: Path, chunk: int = _CHUNK) -> Iterator[list[bytes]]:
    """Yield lists of lines without line ends; otherwise as `text_batches`.

    Raises:
        CaptureError: as `text_batches`.
    """
    for text in text_batches(path, chunk):
        yield text[:-1].split(b"\n")


def first_line(path: Path) -> bytes:
    """Return a file's first line.

    Raises:
        CaptureError: as `line_batches`.
    """
    return next(line_batches(path, chunk=1 << 16))[0]
