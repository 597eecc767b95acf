"""One publisher at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lobsmith.errors import ReleaseError
from lobsmith.files import exclusive_lock

LOCK = "publish.lock"


@contextmanager
def publisher_lock(home: Path, *, deadline_s: float = 300.0) -> Iterator[None]:
    """Hold the publishers' lock of a workspace; the kernel frees it when the process dies.

    Args:
        home: the workspace's own folder.
        deadline_s: seconds to wait for another publisher.

    Raises:
        ReleaseError: another publisher did not finish in time.
    """
    held = False
    try:
        with exclusive_lock(home / LOCK, deadline_s):
            held = True
            yield
    except TimeoutError as error:
        if held:
            raise
        raise ReleaseError(
            f"{home / LOCK}: another publisher has held it for {deadline_s:g} s; end that process, or wait for it"
        ) from error
