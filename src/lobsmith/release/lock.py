"""One publisher at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lobsmith.errors import ReleaseError

LOCK = "publish.lock"
_POLL_S = 0.05


@contextmanager
def publisher_lock(home: Path, *, deadline_s: float = 300.0) -> Iterator[None]:
    """Hold the publishers' lock of a workspace; the kernel frees it when the process dies.

    Args:
        home: the workspace's own folder.
        deadline_s: seconds to wait for another publisher.

    Raises:
        ReleaseError: another publisher did not finish in time.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        give_up = time.monotonic() + deadline_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ReleaseError(
                        f"{path}: another publisher has held it for {deadline_s:g} s; end that process, or wait for it"
                    ) from None
                time.sleep(_POLL_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)
