"""Crash-safe raw files: a thread writes gzip members of about a second.

A full queue refuses lines; the caller later marks the gap. A kill tears at most a file's last member, which
`cut_torn_tails` removes at the next start.
"""

import gzip
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.units import NS_PER_S

_STOP = None
_READ = 1 << 20


class FileLimits(Struct, frozen=True, kw_only=True):
    """When lines are flushed and files rotated."""

    flush_s: float = 1.0
    flush_bytes: int = 1 << 20
    rotate_bytes: int = 256 << 20
    """Compressed size at which a file ends early."""
    waiting: int = 100_000
    """The queue's capacity, lines."""


class _File:
    def __init__(self, path: Path, day: str) -> None:
        self.path = path
        self.day = day
        self.file = path.open("xb", buffering=0)
        self.lines: list[bytes] = []
        self.bytes = 0
        self.since = time.monotonic()

    def flush(self) -> int:
        """Write pending lines as a member; return its bytes."""
        if not self.lines:
            return 0
        member = gzip.compress(b"".join(self.lines), compresslevel=6, mtime=0)
        view = memoryview(member)
        while view:
            view = view[self.file.write(view) :]
        self.lines.clear()
        self.bytes = 0
        return len(member)

    def close(self) -> int:
        """Flush, sync and close; return the bytes written."""
        written = self.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return written


class RawFiles:
    """Files by symbol, `<prefix>-<symbol>-<YYYYMMDD>T<HHMMSS>.gz` by their first line's UTC.

    Args:
        folder: created if missing.
        prefix: the market's short name.
        limits: when to flush and rotate.
        before_write: called by the thread before each member (tests slow the disk).
        on_next: called by the thread with symbol and first local time of each further file.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        limits: FileLimits,
        before_write: Callable[[], None] | None = None,
        on_next: Callable[[str, int], None] = lambda _symbol, _local: None,
    ) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self.bytes = 0
        self.error: OSError | None = None
        self._prefix = prefix
        self._limits = limits
        self._before_write = before_write or (lambda: None)
        self._on_next = on_next
        self._queue: queue.Queue[tuple[str, int, bytes] | None] = queue.Queue(limits.waiting)
        self._open: dict[str, _File] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write_all, name="raw files", daemon=True)
        self._thread.start()

    def put(self, symbol: str, local: int, text: bytes) -> bool:
        """See `Sink.put`."""
        if self.error is not None:
            raise DataError(f"{self.folder}: cannot be written: {self.error.strerror}; the capture has ended")
        try:
            self._queue.put_nowait((symbol, local, text))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Write the queue and close all files."""
        self._queue.put(_STOP)
        self._thread.join()

    def _write_all(self) -> None:
        try:
            while True:
                try:
                    entry = self._queue.get(timeout=self._limits.flush_s / 2)
                except queue.Empty:
                    self._flush_due()
                    continue
                if entry is _STOP:
                    break
                self._append(*entry)
                self._flush_due()
            for file in self._open.values():
                self.bytes += file.close()
        except OSError as error:
            self.error = error
            while self._queue.get() is not _STOP:
                pass

    def _append(self, symbol: str, local: int, text: bytes) -> None:
        moment = datetime.fromtimestamp(local // NS_PER_S, UTC)
        day = f"{moment:%Y%m%d}"
        file = self._open.get(symbol)
        if file is not None and (file.day != day or file.file.tell() >= self._limits.rotate_bytes):
            self.bytes += file.close()
            file = None
            self._on_next(symbol, local)
        if file is None:
            path = self._unused_path(f"{self._prefix}-{symbol}-{moment:%Y%m%dT%H%M%S}")
            file = self._open[symbol] = _File(path, day)
            self.paths.append(path)
        line = b"%d %b\n" % (local, text)
        file.lines.append(line)
        file.bytes += len(line)

    def _unused_path(self, stem: str) -> Path:
        path = self.folder / f"{stem}.gz"
        number = 0
        while path.exists():
            number += 1
            path = self.folder / f"{stem}-{number:03}.gz"
        return path

    def _flush_due(self) -> None:
        now = time.monotonic()
        for file in self._open.values():
            if file.bytes >= self._limits.flush_bytes or now - file.since >= self._limits.flush_s:
                if file.lines:
                    self._before_write()
                self.bytes += file.flush()
                file.since = now


def cut_torn_tails(folder: Path, prefix: str) -> dict[Path, int]:
    """Truncate a killed capture's files to whole members; return the bytes cut, by file."""
    return cut_torn(sorted(folder.glob(f"{prefix}-*.gz")))


def cut_torn(paths: Iterable[Path]) -> dict[Path, int]:
    """Truncate files to whole members; return the bytes cut, by file."""
    cut = {}
    for path in paths:
        whole = _whole_bytes(path)
        size = path.stat().st_size
        if whole < size:
            os.truncate(path, whole)
            cut[path] = size - whole
    return cut


def _whole_bytes(path: Path) -> int:
    """Return where the last whole gzip member ends."""
    whole = position = 0
    member = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while data := file.read(_READ):
            while data:
                try:
                    member.decompress(data)
                except zlib.error:
                    return whole
                position += len(data) - len(member.unused_data)
                data = member.unused_data
                if member.eof:
                    whole = position
                    member = zlib.decompressobj(wbits=31)
    return whole
