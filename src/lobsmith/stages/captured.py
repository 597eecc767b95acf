"""The newest stretch of a live capture, which a retrain of `data.source: live` trains on."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from lobsmith.errors import DataError, ThinWindowError
from lobsmith.market.live.files import cut_torn
from lobsmith.market.live.retention import Captured, captured
from lobsmith.market.venues.captures import text_batches
from lobsmith.params import WindowParams
from lobsmith.units import NS_PER_S

LIVE = "live"
"""The `data.source` that this module reads."""
_SNAPSHOT = b'"lastUpdateId"'
_HEAD_BYTES = 4 << 20


@contextmanager
def captured_feed(folder: Path, scratch: Path, window: WindowParams) -> Iterator[list[Path]]:
    """Yield the newest `length_s` of every captured stream, readable inside the block; the capture continues.

    Files are linked into `scratch`, safe from retention; the newest of each stream is copied up to its last whole gzip
    member.

    Args:
        folder: of the captured files, `<market>-<symbol>-<UTC time>.gz`.
        scratch: made and removed; best on the same disk.
        window: `length_s` and `minimum_coverage` are used.

    Raises:
        ThinWindowError: nothing is captured, or no stream covers enough of the window.
        DataError: the files cannot be linked or copied.
    """
    try:
        yield _held(folder, scratch, window)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _held(folder: Path, scratch: Path, window: WindowParams) -> list[Path]:
    chosen: list[Path] = []
    refusal = ThinWindowError(f"{folder}: {_thin_message(0, window)}")
    try:
        scratch.mkdir(parents=True)
        for _, files in sorted(captured(folder).items()):
            try:
                chosen += _newest(files, scratch, window)
            except ThinWindowError as error:
                # A stream that has only begun does not hold up the others.
                refusal = error
    except OSError as error:
        raise DataError(f"{scratch}: {error.strerror}; free the disk and retrain again") from error
    if not chosen:
        raise refusal
    return chosen


def _newest(files: list[Captured], scratch: Path, window: WindowParams) -> list[Path]:
    """Return links to the files of a stream that hold its newest `length_s`.

    Raises:
        ThinWindowError: they are too short.
    """
    # A capture killed before its first gzip member leaves an empty file.
    files = [file for file in files if _bytes(file.path)]
    last = None
    while files and last is None:
        last = _copy_of_whole(files[-1].path, scratch)
        if last is None:
            files = files[:-1]
    if last is None:
        return []
    until_ns, length_ns = _last_ns(last), int(window.length_s * NS_PER_S)
    chosen = [last]
    begins_ns = files[-1].begins_ns
    for file in reversed(files[:-1]):
        # A feed is readable from a book snapshot on.
        if begins_ns <= until_ns - length_ns and _has_snapshot(chosen[0]):
            break
        link = scratch / file.path.name
        try:
            os.link(file.path, link)
        except FileNotFoundError:
            # Deleted by retention.
            break
        except OSError:
            shutil.copyfile(file.path, link)
        chosen.insert(0, link)
        begins_ns = file.begins_ns
    seconds = (until_ns - begins_ns) / NS_PER_S
    if seconds < window.minimum_coverage * window.length_s:
        raise ThinWindowError(f"{files[-1].path}: {_thin_message(seconds, window)}")
    return chosen


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _copy_of_whole(path: Path, scratch: Path) -> Path | None:
    """Return a copy of the file up to its last whole member; None without one."""
    copy = scratch / path.name
    shutil.copyfile(path, copy)
    cut_torn([copy])
    return copy if copy.stat().st_size else None


def _last_ns(path: Path) -> int:
    text = b""
    for text in text_batches(path):  # noqa: B007 - the last one counts
        pass
    last = text.rstrip(b"\n").rpartition(b"\n")[2].partition(b" ")[0]
    if not last.isdigit():
        raise DataError(f"{path.name}: not a raw capture, whose lines begin with their time; move it out of the folder")
    return int(last)


def _has_snapshot(path: Path) -> bool:
    """Return whether a file has a book snapshot near its beginning."""
    head = islice(text_batches(path, _HEAD_BYTES), 1)
    return any(_SNAPSHOT in text for text in head)


def _thin_message(seconds: float, window: WindowParams) -> str:
    return (
        f"{seconds:,.0f} s of a live feed are captured, and window.minimum_coverage of window.length_s = "
        f"{window.minimum_coverage * window.length_s:,.0f} s are needed for training; let lobsmith live continue, or "
        "set data.source to simulator or captures"
    )
