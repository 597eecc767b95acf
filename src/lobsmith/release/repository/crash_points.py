"""Crash points: phases of a change after which the tests kill a writer.

The tables in `publication`, `rollback`, `candidate` and `repair` name the recovery from each.
"""

from enum import StrEnum


class CrashPoint(StrEnum):
    """A phase that is complete."""

    INTENDED = "intended"
    """The intent is on disk."""
    STAGED = "staged"
    """The version is staged, flushed to the disk."""
    PROVEN = "proven"
    """The staged version is valid."""
    MOVED = "moved"
    """The version is in the repository."""
    LISTED = "listed"
    """The policy lists the versions to serve."""
    LOADED = "loaded"
    """The server answers with the version."""
    JOURNALED = "recorded"
    """The journal has the action."""
    WITHDRAWN = "withdrawn"
    """The server has unloaded the unlisted versions."""
    DISMISSED = "dismissed"
    """The journal has the removal."""
    TAKEN_OUT = "taken out"
    """A version's folder has left the repository."""
    DELETED = "deleted"
    """The folder is deleted."""
    CLOSED = "closed"
    """The intent is removed."""
