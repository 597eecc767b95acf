"""Which crash points each procedure goes through, in this order: the sweep kills a writer at every one of them."""

from lobsmith.release.repository.crash_points import CrashPoint

_PUBLICATION = (
    CrashPoint.INTENDED,
    CrashPoint.STAGED,
    CrashPoint.PROVEN,
    CrashPoint.MOVED,
    CrashPoint.LISTED,
    CrashPoint.LOADED,
    CrashPoint.JOURNALED,
    CrashPoint.CLOSED,
)
_REMOVAL = (CrashPoint.WITHDRAWN, CrashPoint.DISMISSED, CrashPoint.TAKEN_OUT, CrashPoint.DELETED)

PROCEDURES: dict[str, tuple[CrashPoint, ...]] = {
    "publish": _PUBLICATION,
    "promote": (*_PUBLICATION, *_REMOVAL),
    "retire": (CrashPoint.INTENDED, *_REMOVAL, CrashPoint.CLOSED),
    "rollback": (
        CrashPoint.INTENDED,
        CrashPoint.LISTED,
        CrashPoint.LOADED,
        CrashPoint.JOURNALED,
        CrashPoint.WITHDRAWN,
        CrashPoint.TAKEN_OUT,
        CrashPoint.CLOSED,
    ),
    "repair": (
        CrashPoint.LISTED,
        CrashPoint.JOURNALED,
        CrashPoint.LOADED,
        CrashPoint.WITHDRAWN,
        CrashPoint.TAKEN_OUT,
        CrashPoint.CLOSED,
    ),
}
"""A promotion goes on to retire what falls out of the list; the repair is that of a version that is not sound."""
