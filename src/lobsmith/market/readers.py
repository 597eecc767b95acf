"""The formats of recorded captures; adding a venue's is one module and one entry here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lobsmith.errors import CaptureError, DataError
from lobsmith.market import binance
from lobsmith.market.captures import first_line
from lobsmith.market.session import Session


class Format(NamedTuple):
    """How a format is recognised by a capture's first line, and read."""

    sniff: Callable[[bytes], bool]
    read: Callable[[Sequence[Path]], Session]


FORMATS: dict[str, Format] = {binance.FORMAT: Format(binance.sniff, binance.read)}


def read_captures(paths: Sequence[Path]) -> Session:
    """Read capture files of one instrument, in order, as one session.

    Raises:
        CaptureError: a file cannot be used; the message says where and why.
        DataError: no files were given.
    """
    if not paths:
        raise DataError("no capture files given; name at least one")
    line = first_line(paths[0])
    for known in FORMATS.values():
        if known.sniff(line):
            return known.read(paths)
    raise CaptureError(paths[0], f"not a known capture format; known: {', '.join(FORMATS)}", line=1)
