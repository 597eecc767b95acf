"""Capture files, plain or gzip, as batches of whole lines."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lobsmith.errors import CaptureError

_CHUNK = 4 << 20
_LONGEST_LINE = 64 << 20


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise CaptureError(path, "is a directory; name the capture files, in order")
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def line_batches(path: Path, chunk: int = _CHUNK) -> Iterator[list[bytes]]:
    """Yield a file's lines without their line ends, in batches of about `chunk` decompressed bytes.

    Raises:
        CaptureError: the file is missing, a directory, unreadable, empty, truncated or corrupt gzip, or has a line of
            more than 64 MiB.
    """
    rest = b""
    empty = True
    try:
        with _open(path) as file:
            while block := file.read(chunk):
                empty = False
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                if len(rest) > _LONGEST_LINE:
                    raise CaptureError(path, "a line of more than 64 MiB; this is no capture of messages")
                if lines:
                    yield lines
    except FileNotFoundError:
        raise CaptureError(path, "no such file") from None
    except EOFError:
        raise CaptureError(path, "truncated gzip: the file ends early; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CaptureError(path, f"corrupt gzip ({error}); copy the file again") from error
    except OSError as error:
        raise CaptureError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise CaptureError(repr(str(path)), f"cannot be read: {error}") from error
    if empty:
        raise CaptureError(path, "the file is empty")
    if rest:
        yield [rest]


def first_line(path: Path) -> bytes:
    """Return a file's first line.

    Raises:
        CaptureError: as `line_batches`.
    """
    return next(line_batches(path, chunk=1 << 16))[0]
