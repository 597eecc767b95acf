"""Crash points of each procedure, in order; the sweep kills a writer at each of them."""

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
"""A promotion retires what falls out of the list; the repair is that of a corrupt version."""
