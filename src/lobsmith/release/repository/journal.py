"""The append-only record of what was published, refused or taken back: who, when, which versions, and why.

MLflow keeps no history of aliases, so this file is what answers "what was serving at 14:03 last Tuesday, and why". It
is never rewritten. A line is written with one call, under a lock, and flushed to the disk; a crash can only cut the
last one short, and the next writer closes such a stump with a mark that readers skip.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ReleaseError
from lobsmith.release.version.manifest import Manifest
from lobsmith.verdict import Verdict

PUBLISHED = "published"
PROMOTED = "promoted"
REFUSED = "refused"
"""A version that was to be published and was not."""
ROLLED_BACK = "rolled back"
"""From a bad version to an older one; every version between them left too."""
RETIRED = "retired"
"""A version left because newer ones took its place."""
REJECTED = "rejected"
"""A candidate left because its verdicts were against it."""
SET_ASIDE = "set aside"
"""A version left because something is wrong with it, and was kept for a person to look at."""
FAULTY = "faulty"
"""A version was found not to be what it was when it was published; without one, what else cannot be gone by."""
REPAIRED = "repaired"
"""Something was mended; `version_to` is what is active since then."""
SETTLED = "settled"
"""The registry's alias asks no longer for what was rolled back."""

EVERYTHING = "*"
"""Stands for a model where the repository as a whole is meant."""

ACTIVATING = frozenset({PUBLISHED, PROMOTED})
LEAVING = frozenset({RETIRED, REJECTED, SET_ASIDE})

_Line = TypeVar("_Line", bound=Struct)


class Entry(Struct, frozen=True, kw_only=True):
    """One line: an action on a model's versions.

    `version_from` is what was active before, `version_to` the version that the action is about; after a rollback it is
    the one gone back to. `who` is a user or a flow run; `reason` says why, empty where there is nothing to say.
    """

    time_ns: int
    action: str
    model: str
    version_from: int | None
    version_to: int | None
    artifact_id: str | None
    who: str
    verdicts: tuple[Verdict, ...] = ()
    reason: str = ""


def append(path: Path, entry: Struct) -> None:
    """Add one entry durably; a journal of another kind has entries of that kind throughout.

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
    """Return all entries, oldest first; none where there is no journal. A line that a crash cut short is left out.

    Raises:
        ReleaseError: the file cannot be read, or a line is not an entry.
    """
    return read_lines(path, Entry)


def read_lines(path: Path, kind: type[_Line]) -> list[_Line]:
    """Return all entries of a journal of another kind, as `read` does."""
    try:
        return jsonl.read(path, kind, strict=True)
    except jsonl.SpoiltLineError as error:
        raise ReleaseError(f"{error}: not a journal entry; restore the file from a backup") from error
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error


def version_status(entries: Iterable[Entry], model: str) -> dict[int, str]:
    """Return what last became of each version of a model: the action that brought it in or took it out."""
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
    """Return when a version began to serve, UTC in ns: when it was made, or when it was last gone back to.

    Raises:
        ReleaseError: the journal at `path` cannot be read.
    """
    about = (ROLLED_BACK, version.model, version.version)
    back = (one.time_ns for one in read(path) if (one.action, one.model, one.version_to) == about)
    return max(back, default=version.created_ns)


def is_journaled(entries: Iterable[Entry], model: str, version: int | None, fault: str) -> bool:
    """Say whether a fault of a version is journaled already."""
    return any(
        (entry.action, entry.model, entry.version_to, entry.reason) == (FAULTY, model, version, fault)
        for entry in entries
    )


def state_at(entries: Iterable[Entry], model: str, time_ns: int) -> Entry | None:
    """Return why a model served what it served at a time, None where it served nothing.

    Args:
        entries: of the journal, oldest first.
        model: the Triton model.
        time_ns: UTC, in ns.

    Returns:
        The line that made `version_to` the active version. Where the active one left without a line that says what took
        its place (a companion goes with its model's version), that is the next one below.
    """
    state: Entry | None = None
    inside: dict[int, Entry] = {}
    for entry in entries:
        if entry.model != model or entry.time_ns > time_ns:
            continue
        before = None if state is None else state.version_to
        if entry.action in ACTIVATING:
            # The line of a writer that crashed may come late, for a version that is not the highest any more.
            state = entry if before is None or (entry.version_to or 0) > before else state
            inside[entry.version_to or 0] = entry
        elif entry.action == ROLLED_BACK or (entry.action == REPAIRED and entry.version_to not in (None, before)):
            state = entry
            inside = {version: one for version, one in inside.items() if version <= (entry.version_to or 0)}
        elif entry.action in LEAVING:
            inside.pop(entry.version_to or 0, None)
            if entry.version_to == before:
                state = inside[max(inside)] if inside else None
    return state
