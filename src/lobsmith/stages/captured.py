"""The newest stretch of a live capture, as it is now: what a retrain of `data.source: live` learns from."""

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
    """Give the newest `length_s` of every captured stream, to be read inside the block; the capture goes on.

    Files are linked into a folder of their own, so that none goes while it is read. The newest of each stream is
    copied as far as it is whole: it is being written, or a capture that was killed has left it torn.

    Args:
        folder: of the captured files, `<market>-<symbol>-<UTC time>.gz`.
        scratch: made and removed; best on the same disk.
        window: `length_s` and `minimum_coverage` are used.

    Raises:
        ThinWindowError: nothing is captured, or no stream has as much of the window as must be covered.
        DataError: the files cannot be linked or copied.
    """
    try:
        yield _held(folder, scratch, window)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _held(folder: Path, scratch: Path, window: WindowParams) -> list[Path]:
    chosen: list[Path] = []
    thin = ThinWindowError(f"{folder}: {_lacking(0, window)}")
    try:
        scratch.mkdir(parents=True)
        for _, files in sorted(captured(folder).items()):
            try:
                chosen += _newest(files, scratch, window)
            except ThinWindowError as error:
                # One stream that has only begun does not hold up the others.
                thin = error
    except OSError as error:
        raise DataError(f"{scratch}: {error.strerror}; free the disk and retrain again") from error
    if not chosen:
        raise thin
    return chosen


def _newest(files: list[Captured], scratch: Path, window: WindowParams) -> list[Path]:
    """Return links to the files of a stream that hold its newest `length_s`.

    Raises:
        ThinWindowError: they are too short.
    """
    # A capture that was killed before its first member has left a file of nothing.
    files = [one for one in files if _bytes(one.path)]
    last = None
    while files and last is None:
        last = _copied(files[-1].path, scratch)
        if last is None:
            files = files[:-1]
    if last is None:
        return []
    until_ns, length_ns = _last_ns(last), int(window.length_s * NS_PER_S)
    chosen = [last]
    begins_ns = files[-1].begins_ns
    for one in reversed(files[:-1]):
        # A feed can only be read from a snapshot of its book on.
        if begins_ns <= until_ns - length_ns and _has_snapshot(chosen[0]):
            break
        link = scratch / one.path.name
        try:
            os.link(one.path, link)
        except FileNotFoundError:
            # It was too old, and has been deleted.
            break
        except OSError:
            shutil.copyfile(one.path, link)
        chosen.insert(0, link)
        begins_ns = one.begins_ns
    seconds = (until_ns - begins_ns) / NS_PER_S
    if seconds < window.minimum_coverage * window.length_s:
        raise ThinWindowError(f"{files[-1].path}: {_lacking(seconds, window)}")
    return chosen


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _copied(path: Path, scratch: Path) -> Path | None:
    """Return a copy as far as the file is whole; None where nothing of it is."""
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
    """Say whether a file has a snapshot of the book near its beginning."""
    head = islice(text_batches(path, _HEAD_BYTES), 1)
    return any(_SNAPSHOT in text for text in head)


def _lacking(seconds: float, window: WindowParams) -> str:
    return (
        f"{seconds:,.0f} s of a live feed are captured, and window.minimum_coverage of window.length_s = "
        f"{window.minimum_coverage * window.length_s:,.0f} s are needed to learn from; let lobsmith live go on, or set "
        "data.source to simulator or captures"
    )
