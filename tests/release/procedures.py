"""Which crash points each procedure goes through, in this order: the sweep kills a writer at every one of them."""

from lobsmith.release.repository.crash_points import Step

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
"""A promotion goes on to retire what falls out of the list; the repair is that of a version that is not sound."""
