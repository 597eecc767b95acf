"""The content of the page about a look for drift, which is also written as JSON."""

from msgspec import Struct, field

from lobsmith.drift.verdict import DriftCheck
from lobsmith.monitoring.accuracy import VersionAccuracy
from lobsmith.monitoring.drift.history import PastCheck
from lobsmith.monitoring.mode.machine import ModeChange


class PageChange(Struct, frozen=True, kw_only=True):
    """The model went from one mode to another; `before` is None where it had none."""

    time_ns: int
    before: str | None
    after: str
    reason: str

    @classmethod
    def of(cls, change: ModeChange) -> "PageChange":
        """Return a change of the mode as the page has it."""
        return cls(time_ns=change.time_ns, before=change.mode_from, after=change.mode_to, reason=change.reason)


class Happening(Struct, frozen=True, kw_only=True):
    """Something the system did: an alert, a retrain that was asked for."""

    time_ns: int
    what: str
    about: str


class Evidently(Struct, frozen=True, kw_only=True):
    """The report of Evidently: its file beside the page, or why there is none.

    Attributes:
        page: name of the file, None where there is none.
        failure: why.
        failures: looks without one among the `checks` newest.
        project, report: what it is called in Evidently's workspace.
    """

    page: str | None
    failure: str | None
    failures: int
    checks: int = field(name="looks")
    project: str
    report: str | None


class Content(Struct, frozen=True, kw_only=True):
    """All that the page shows, which is also written as JSON.

    Attributes:
        check: that it is about.
        since_ns: time of the first look of the unbroken run of looks that found drift; None where this one did not.
        earlier: looks before, the oldest first.
        changes: of the mode, the oldest first.
        happenings: the newest last.
        losses: of one version after the other, over the same time bins.
        evidently: its report.
    """

    check: DriftCheck = field(name="look")
    since_ns: int | None
    earlier: tuple[PastCheck, ...]
    changes: tuple[PageChange, ...]
    happenings: tuple[Happening, ...]
    losses: tuple[tuple[VersionAccuracy, ...], ...]
    evidently: Evidently
