"""The raw capture of a live session, for later training."""

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from lobsmith import clock
from lobsmith.errors import DataError
from lobsmith.market.live.feed import LiveFeed
from lobsmith.market.live.files import FileLimits, RawFiles, cut_torn
from lobsmith.market.live.retention import Retention, captured, prune
from lobsmith.params import Params
from lobsmith.units import NS_PER_DAY, NS_PER_S

_BEGINS = msgspec.json.encode({"gap": "a session begins"})
_GIB, _MIB = 1 << 30, 1 << 20


class Capture:
    """Raw files of a session's symbols; predictions never wait for them.

    Each symbol begins with a gap mark: files of several sessions read as one feed. Further files have a book snapshot
    near their beginning: they read without earlier ones. A disk failure ends only the capture.

    Attributes:
        ended: the disk has failed.
    """

    def __init__(
        self, folder: Path, prefixes: Mapping[str, str], params: Params, report: Callable[[str], None]
    ) -> None:
        """Cut torn files of an earlier session and begin new ones.

        Args:
            folder: of the files.
            prefixes: the market's short name by symbol, lower case.
            params: `live` and `window`.
            report: called with a line for people.

        Raises:
            DataError: the folder cannot be written, or another session captures one of the symbols.
        """
        self.ended = False
        self._folder = folder
        self._report = report
        self._prefixes = dict(prefixes)
        self._locks: list[int] = []
        self._files: dict[str, RawFiles] = {}
        self._begun: dict[str, int] = {}
        self._with_book: dict[str, int] = {}
        self._books: dict[str, tuple[int, int, bytes]] = {}
        self._last_ns: dict[str, int] = {}
        limits = params.live
        self._retention = Retention(
            int(limits.keep_days * NS_PER_DAY), int(limits.keep_gib * _GIB), int(params.window.length_s * NS_PER_S)
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for symbol, prefix in prefixes.items():
                self._lock(f"{prefix}-{symbol}")
            captures = captured(folder)
            for stream in {f"{prefix}-{symbol}" for symbol, prefix in prefixes.items()} & captures.keys():
                for path, cut_bytes in _cut_torn([captures[stream][-1].path]).items():
                    report(f"{path}: cut {cut_bytes:,} bytes of an unfinished line of a killed session")
            for prefix in {*prefixes.values()}:
                self._files[prefix] = RawFiles(
                    folder,
                    prefix,
                    FileLimits(rotate_bytes=limits.rotate_mib * _MIB),
                    on_next=self._begun.__setitem__,
                )
        except OSError as error:
            self.close()
            raise DataError(f"{folder}: cannot be written: {error.strerror}; free it, or pass --no-capture") from error
        except DataError:
            self.close()
            raise
        for symbol in prefixes:
            self.put(symbol, clock.now_ns(), _BEGINS)

    def put(self, symbol: str, local: int, text: bytes) -> bool:
        """Take one line without waiting; return False when too many are queued."""
        if self.ended:
            return True
        self._last_ns[symbol] = local
        try:
            return self._files[self._prefixes[symbol]].put(symbol, local, text)
        except DataError as error:
            self.ended = True
            self._report(f"{error}; predictions go on without it")
            return True

    def restate(self, symbol: str, feed: LiveFeed) -> None:
        """Write a feed's book near the beginning of a file, when due; call it after each move of the feed.

        The book is of a difference in that file, written after the next one: to a reader of earlier files it is old.
        """
        begun_ns = self._begun.get(symbol)
        if begun_ns is None or begun_ns == self._with_book.get(symbol):
            return
        of_ns, sequence, book = self._books.get(symbol, (0, 0, b""))
        if of_ns != begun_ns:
            snapshot = feed.snapshot() if feed.last_ns > begun_ns + NS_PER_S else None
            if snapshot is not None:
                self._books[symbol] = begun_ns, feed.sequence, snapshot
        elif feed.sequence > sequence and self.put(symbol, self._last_ns[symbol], book):
            # The writing thread may have begun another file, which is then due.
            self._with_book[symbol] = begun_ns
            del self._books[symbol]

    def prune(self) -> None:
        """Delete captures beyond `live.keep_days` and `live.keep_gib`."""
        try:
            deleted = prune(self._folder, self._retention, clock.now_ns())
        except OSError as error:
            self._report(f"{self._folder}: old captures cannot be deleted: {error.strerror}")
            return
        for path in deleted:
            self._report(f"{path}: deleted, past live.keep_days or live.keep_gib")

    def close(self) -> None:
        """Write the rest; cut files that a failed disk left torn."""
        for files in self._files.values():
            files.close()
            if files.error is not None:
                _cut_torn(files.paths)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _lock(self, stream: str) -> None:
        descriptor = os.open(self._folder / f".{stream}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._locks.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{self._folder}: another session captures {stream} there; stop it, or pass --no-capture"
            ) from error


def _cut_torn(paths: Sequence[Path]) -> dict[Path, int]:
    """Cut torn ends off files; delete files without a whole line."""
    cut = cut_torn(paths)
    for path in paths:
        if not path.stat().st_size:
            path.unlink()
    return cut
