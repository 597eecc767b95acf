"""The intent: what the writer is about to do and why, so that the next writer can complete it after a crash.

There is one writer at a time, and so one intent. It is written before the first change and removed after the last.
"""

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ReleaseError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.release.repository.journal import Entry
from lobsmith.workspace import Workspace


class Intent(Struct, frozen=True, kw_only=True):
    """The journal's line once it is done, and the versions that are to leave the repository for it."""

    entry: Entry
    leaving: tuple[int, ...] = ()


def declare(workspace: Workspace, intent: Intent) -> None:
    """Write an intent down durably."""
    write_atomic(workspace.intent, msgspec.json.encode(intent))


def pending(workspace: Workspace) -> Intent | None:
    """Return what was begun and not ended.

    Raises:
        ReleaseError: the file is unreadable.
    """
    try:
        return jsonl.decode(workspace.intent.read_bytes(), Intent)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReleaseError(f"{workspace.intent}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ReleaseError(
            f"{workspace.intent}: not an intent: {error}; see `lobsmith repository verify`, then delete the file"
        ) from error


def close(workspace: Workspace) -> None:
    """Say that nothing is left to be done."""
    if workspace.intent.exists():
        workspace.intent.unlink()
        fsync_directory(workspace.intent.parent)
