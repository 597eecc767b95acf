"""The crash points: every step after which a writer of the repository may be killed.

A writer reports each step as it is done, and the tests kill it at every step. What the next writer makes of the state
found then is written where the procedure is: `publication`, `rollback`, `candidate` and `repair`.
"""

from enum import StrEnum


class CrashPoint(StrEnum):
    """A step that is done."""

    INTENDED = "intended"
    """The intent is written down, with its author and reason."""
    STAGED = "staged"
    """The version lies in a staging folder, flushed to the disk."""
    PROVEN = "proven"
    """It holds what it claims."""
    MOVED = "moved"
    """It lies in the repository."""
    LISTED = "listed"
    """The policy lists what is to be served."""
    LOADED = "loaded"
    """The server answers with it."""
    RECORDED = "recorded"
    """The journal has it."""
    WITHDRAWN = "withdrawn"
    """The server has let go of what is listed no longer."""
    DISMISSED = "dismissed"
    """The journal has that a version goes."""
    TAKEN_OUT = "taken out"
    """A version's folder has left the repository."""
    DELETED = "deleted"
    """It is gone."""
    CLOSED = "closed"
    """Nothing is left to be done."""
