"""The crash points: every step after which a writer of the repository may be killed.

A procedure reports each step as it is done, and a test kills it at every one that is declared here. What the next
writer makes of the state found then is written where the procedure is: `publication`, `removal`, `rollback`,
`candidate` and `repair`.
"""

from enum import StrEnum


class Step(StrEnum):
    """A step that is done."""

    INTENDED = "intended"
    """What is about to be done is written down, with who wants it and why."""
    STAGED = "staged"
    """The version lies in a staging folder, flushed to the disk."""
    PROVEN = "proven"
    """It holds what it claims."""
    MOVED = "moved"
    """It lies in the repository."""
    LISTED = "listed"
    """The policy says what is to be served."""
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


_PUBLICATION = (
    Step.INTENDED,
    Step.STAGED,
    Step.PROVEN,
    Step.MOVED,
    Step.LISTED,
    Step.LOADED,
    Step.RECORDED,
    Step.CLOSED,
)
_REMOVAL = (Step.WITHDRAWN, Step.DISMISSED, Step.TAKEN_OUT, Step.DELETED)

PROCEDURES: dict[str, tuple[Step, ...]] = {
    "publish": _PUBLICATION,
    "promote": (*_PUBLICATION, *_REMOVAL),
    "retire": (Step.INTENDED, *_REMOVAL, Step.CLOSED),
    "rollback": (
        Step.INTENDED,
        Step.LISTED,
        Step.LOADED,
        Step.RECORDED,
        Step.WITHDRAWN,
        Step.TAKEN_OUT,
        Step.CLOSED,
    ),
    "repair": (Step.LISTED, Step.RECORDED, Step.LOADED, Step.WITHDRAWN, Step.TAKEN_OUT, Step.CLOSED),
}
"""What each procedure goes through, in this order; a promotion goes on to retire what falls out of the list, and the
repair is that of a version that is not sound."""
