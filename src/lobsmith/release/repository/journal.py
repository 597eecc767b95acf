"""The journal: append-only entries of what was published, promoted, refused, removed or rolled back, and why.

MLflow keeps no history of aliases; this file has what was serving at any time. Each line is one flushed write under a
lock; one truncated by a crash is marked as torn by the next writer, and skipped by readers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field

from lobsmith import jsonl
from lobsmith.errors import ReleaseError
from lobsmith.release.version.manifest import Manifest
from lobsmith.verdict import Verdict

PUBLISHED = "published"
PROMOTED = "promoted"
REFUSED = "refused"
"""A version was not published."""
ROLLED_BACK = "rolled back"
"""From a bad version to an older one; the versions between them left too."""
RETIRED = "retired"
"""A version left because newer ones replaced it."""
REJECTED = "rejected"
"""A candidate left because a verdict refused it."""
QUARANTINED = "set aside"
"""A version was quarantined."""
INTEGRITY_ERROR = "faulty"
"""An integrity error of a version; without a version, of a model or the repository."""
REPAIRED = "repaired"
"""Something was repaired; `version_to` is active since then."""
ROLLBACK_ACKNOWLEDGED = "settled"
"""The alias no longer points at what was rolled back."""

EVERYTHING = "*"
"""Stands for a model where the whole repository is meant."""

ACTIVATING = frozenset({PUBLISHED, PROMOTED})
LEAVING = frozenset({RETIRED, REJECTED, QUARANTINED})

_Line = TypeVar("_Line", bound=Struct)


class Entry(Struct, frozen=True, kw_only=True):
    """A line: an action on a model's versions.

    `version_from` was active before; `version_to` is the subject, after a rollback the target. `actor` is a user or a
    flow run.
    """

    time_ns: int
    action: str
    model: str
    version_from: int | None
    version_to: int | None
    artifact_id: str | None
    actor: str = field(name="who")
    verdicts: tuple[Verdict, ...] = ()
    reason: str = ""


def append(path: Path, entry: Struct) -> None:
    """Append an entry durably; a journal has entries of one kind.

    Raises:
        ReleaseError: the file cannot be written.
    """
    try:
        jsonl.append(path, entry, mark_torn=True)
    except jsonl.ShortWriteError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; the journal line was not written") from error


def read(path: Path) -> list[Entry]:
    """Return all entries, oldest first, without torn lines; none where there is no journal.

    Raises:
        ReleaseError: the file cannot be read, or a line is not an entry.
    """
    return read_lines(path, Entry)


def read_lines(path: Path, kind: type[_Line]) -> list[_Line]:
    """Return all entries of a journal of another kind; see `read`."""
    try:
        return jsonl.read(path, kind, strict=True)
    except jsonl.SpoiltLineError as error:
        raise ReleaseError(f"{error}: not a journal entry; restore the file from a backup") from error
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error


def version_status(entries: Iterable[Entry], model: str) -> dict[int, str]:
    """Return the last action on each version of a model that brought it in or took it out."""
    last: dict[int, str] = {}
    for entry in entries:
        if entry.model != model or entry.version_to is None:
            continue
        if entry.action in ACTIVATING | LEAVING | {REFUSED}:
            last[entry.version_to] = entry.action
        elif entry.action == ROLLED_BACK and entry.version_from is not None:
            served = [version for version, action in last.items() if action in ACTIVATING]
            gone = [version for version in served if entry.version_to < version <= entry.version_from]
            last.update(dict.fromkeys([*gone, entry.version_from], ROLLED_BACK))
    return last


def serving_since(path: Path, version: Manifest) -> int:
    """Return when a version began to serve, UTC ns: its creation, or the last rollback to it.

    Raises:
        ReleaseError: the journal at `path` cannot be read.
    """
    about = (ROLLED_BACK, version.model, version.version)
    back = (entry.time_ns for entry in read(path) if (entry.action, entry.model, entry.version_to) == about)
    return max(back, default=version.created_ns)


def is_journaled(entries: Iterable[Entry], model: str, version: int | None, reason: str) -> bool:
    """Return whether an integrity error is in the journal already."""
    return any(
        (entry.action, entry.model, entry.version_to, entry.reason) == (INTEGRITY_ERROR, model, version, reason)
        for entry in entries
    )


def state_at(entries: Iterable[Entry], model: str, time_ns: int) -> Entry | None:
    """Return the entry that activated the version that a model served at a time, UTC ns; None where none served.

    Entries are oldest first. Where the active version left without a successor in the journal, as a companion does, it
    is the entry of the next version below.
    """
    state: Entry | None = None
    activated: dict[int, Entry] = {}
    for entry in entries:
        if entry.model != model or entry.time_ns > time_ns:
            continue
        before = None if state is None else state.version_to
        if entry.action in ACTIVATING:
            # The entry of a crashed writer may come late, for a version that is no longer the highest.
            state = entry if before is None or (entry.version_to or 0) > before else state
            activated[entry.version_to or 0] = entry
        elif entry.action == ROLLED_BACK or (entry.action == REPAIRED and entry.version_to not in (None, before)):
            state = entry
            target = entry.version_to or 0
            activated = {version: activation for version, activation in activated.items() if version <= target}
        elif entry.action in LEAVING:
            activated.pop(entry.version_to or 0, None)
            if entry.version_to == before:
                state = activated[max(activated)] if activated else None
    return state
