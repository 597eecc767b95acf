"""Content of the page of a drift check, also written as JSON."""

from msgspec import Struct, field

from lobsmith.drift.verdict import DriftCheck
from lobsmith.monitoring.accuracy import VersionAccuracy
from lobsmith.monitoring.drift.history import PastCheck
from lobsmith.monitoring.mode.machine import ModeChange


class PageChange(Struct, frozen=True, kw_only=True):
    """A change of the mode; `before` is None where there was no mode."""

    time_ns: int
    before: str | None
    after: str
    reason: str

    @classmethod
    def of(cls, change: ModeChange) -> "PageChange":
        """Return a change of the mode for the page."""
        return cls(time_ns=change.time_ns, before=change.mode_from, after=change.mode_to, reason=change.reason)


class Happening(Struct, frozen=True, kw_only=True):
    """An action of the system: an alert, a retrain request."""

    time_ns: int
    what: str
    about: str


class Evidently(Struct, frozen=True, kw_only=True):
    """Evidently's report: its file beside the page, or why there is none.

    Attributes:
        page: name of the file, None where there is none.
        failure: why.
        failures: checks without one among the `checks` newest.
        project, report: ids in Evidently's workspace.
    """

    page: str | None
    failure: str | None
    failures: int
    checks: int = field(name="looks")
    project: str
    report: str | None


class Content(Struct, frozen=True, kw_only=True):
    """Content of the page.

    Attributes:
        since_ns: first check of the unbroken run with drift; None where this one found none.
        earlier, changes, happenings: the oldest first.
        losses: of each version, over the same time bins.
    """

    check: DriftCheck = field(name="look")
    since_ns: int | None
    earlier: tuple[PastCheck, ...]
    changes: tuple[PageChange, ...]
    happenings: tuple[Happening, ...]
    losses: tuple[tuple[VersionAccuracy, ...], ...]
    evidently: Evidently
