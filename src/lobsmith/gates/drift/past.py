"""What the discriminator said of past pairs of windows, kept in a file so that each pair is fitted once.

The file holds one JSON object a line and is written anew as a whole, so that a kill leaves the old or the new one. A
line that cannot be read is left out, and its pair measured again.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.files import write_atomic
from lobsmith.gates.drift.discriminator import CLIP
from lobsmith.gates.drift.scaling import Scaling
from lobsmith.params import DriftParams
from lobsmith.progress import console
from lobsmith.record import decode_lines

_VERSION = 1
"""Raised where the discriminator's arithmetic changes: AUCs of two kinds are not comparable."""
_KEPT = 4000
"""Lines, the newest."""


class Measured(Struct, frozen=True, kw_only=True, tag="pair", forbid_unknown_fields=True):
    """One past pair.

    Attributes:
        key: of all that the AUC depends on beside the rows: `past_key`.
        gap: between its windows, in recent windows.
        from_ns: where its recent window begins, UTC.
        auc: of its rows.
        distances: earth mover's, of each feature, in frozen deviations.
    """

    key: str
    gap: int
    from_ns: int
    auc: float
    distances: tuple[float, ...]


class Drifted(Struct, frozen=True, kw_only=True, tag="drift", forbid_unknown_fields=True):
    """A time in which drift was found: its rows do not say what is usual.

    Attributes:
        from_ns, until_ns: of the recent window, UTC.
    """

    from_ns: int
    until_ns: int


_Line = Measured | Drifted


def past_key(scaling: Scaling, params: DriftParams) -> str:
    """Return what AUCs must share to be compared."""
    digest = hashlib.sha256(f"{_VERSION} {CLIP} {params.every_ms} {params.reference_s} {params.recent_s} ".encode())
    digest.update(msgspec.json.encode(params.discriminator))
    digest.update(scaling.centre.tobytes() + scaling.scale.tobytes())
    return digest.hexdigest()[:16]


class PastStore:
    """Measured pairs and drifted times of one model and instrument; for one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _read(path)
        self._drifts = [line for line in self._lines if isinstance(line, Drifted)]

    def measured(self, key: str, gap: int) -> dict[int, Measured]:
        """Return pairs by where the recent window begins, in the order of time."""
        pairs = {
            line.from_ns: line
            for line in self._lines
            if isinstance(line, Measured) and line.key == key and line.gap == gap
        }
        return dict(sorted(pairs.items()))

    def drifted(self, from_ns: int, until_ns: int) -> bool:
        """Say whether drift was found in any part of a time."""
        return any(one.from_ns < until_ns and from_ns < one.until_ns for one in self._drifts)

    def add(self, lines: Iterable[Measured | Drifted]) -> None:
        """Keep lines, and forget the oldest. On a disk that refuses them they are measured again another time."""
        new = list(lines)
        if not new:
            return
        self._lines = [*self._lines, *new][-_KEPT:]
        self._drifts = [line for line in self._lines if isinstance(line, Drifted)]
        try:
            write_atomic(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in self._lines))
        except OSError as error:
            # What they are for, the look, is worth more than they are.
            console.print(f"{self._path}: past pairs cannot be written ({error}); free the disk", markup=False)


def _read(path: Path) -> list[_Line]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: past pairs cannot be read ({error}); remove the file to measure anew") from error
    return decode_lines(content, _Line)  # type: ignore[arg-type]
