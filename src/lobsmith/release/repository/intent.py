"""The intent: the writer's next action, written before its first change and removed after the last, for recovery."""

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ReleaseError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.release.repository.journal import Entry
from lobsmith.workspace import Workspace


class Intent(Struct, frozen=True, kw_only=True):
    """The journal entry of the completed action, and the versions that leave the repository for it."""

    entry: Entry
    leaving: tuple[int, ...] = ()


def declare(workspace: Workspace, intent: Intent) -> None:
    """Write an intent durably."""
    write_atomic(workspace.intent, msgspec.json.encode(intent))


def pending(workspace: Workspace) -> Intent | None:
    """Return the intent that is not completed, None where there is none.

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
    """Remove the intent."""
    if workspace.intent.exists():
        workspace.intent.unlink()
        fsync_directory(workspace.intent.parent)
