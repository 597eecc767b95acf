"""Retention of captured files by age and total size; the newest window is kept."""

import re
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from lobsmith.units import NS_PER_S

_NAME = re.compile(r"(.+)-(\d{8}T\d{6})(-\d{3,})?\.gz")


class Captured(NamedTuple):
    """A captured file, its stream and first time, ns since 1970 UTC."""

    path: Path
    stream: str
    begins_ns: int


class Retention(NamedTuple):
    """Limits: ns, bytes, and the protected ns of each stream."""

    keep_ns: int
    keep_bytes: int
    window_ns: int


def captured(folder: Path) -> dict[str, list[Captured]]:
    """Return captured files by stream, `<prefix>-<symbol>`, in time order."""
    streams: dict[str, list[Captured]] = defaultdict(list)
    for path in folder.glob("*.gz"):
        if name := _NAME.fullmatch(path.name):
            try:
                begins = datetime.strptime(name[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            except ValueError:
                continue
            streams[name[1]].append(Captured(path, name[1], int(begins.timestamp()) * NS_PER_S))
    for files in streams.values():
        # Within a second, later files have longer names.
        files.sort(key=lambda file: (file.begins_ns, len(file.path.name), file.path.name))
    return dict(streams)


def prune(folder: Path, limits: Retention, now_ns: int) -> list[Path]:
    """Delete files that are too old, then the oldest while the total is too large; return them.

    A file ends where its stream's next begins; a stream's last is never deleted.
    """
    streams = captured(folder).values()
    sizes = {file.path: _size(file.path) for files in streams for file in files}
    ended: list[tuple[int, Path]] = []
    for files in streams:
        # Data reach at least to the last file's start.
        protected_ns = files[-1].begins_ns - limits.window_ns
        ended += [
            (following.begins_ns, file.path)
            for file, following in pairwise(files)
            if following.begins_ns <= protected_ns
        ]
    total = sum(sizes.values())
    deleted = []
    for ends_ns, path in sorted(ended, key=itemgetter(0)):
        if ends_ns >= now_ns - limits.keep_ns and total <= limits.keep_bytes:
            continue
        path.unlink(missing_ok=True)
        total -= sizes[path]
        deleted.append(path)
    return deleted


def _size(path: Path) -> int:
    """Return a file's bytes; 0 if already deleted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
