"""Accuracy of the active version's newest rows, beside its fallback's on the same rows."""

from collections.abc import Sequence

from lobsmith.monitoring.accuracy import VersionAccuracy, accuracy_of
from lobsmith.monitoring.live_evaluation import LIVE, sessions_by_instrument
from lobsmith.monitoring.log.reader import PredictionLog, answers, compared, newest_ns
from lobsmith.monitoring.log.writer import Role, Source, log_path
from lobsmith.release.repository.repository import Repository
from lobsmith.services.landing.content import AccuracyLine, HorizonLine
from lobsmith.workspace import Workspace

_ROWS = 5000
"""Newest rows of a session that count."""
_SESSIONS = 10
"""Newest sessions of an instrument that count."""
_INSTRUMENTS = 4
_BUSY_S = 2.0
_SOURCES = (LIVE, (Source.REPLAY.value,), (Source.DEMO.value,))


def newest_accuracy(workspace: Workspace, model: str, version: int) -> list[AccuracyLine]:
    """Return the accuracy by instrument; of live rows, else of replayed ones, else of a demonstration's.

    Raises:
        PredictionLogError: the log cannot be read.
        ReleaseError: the repository cannot be read.
    """
    path = log_path(workspace, model)
    if not path.exists():
        return []
    repository = Repository.of(workspace)
    with PredictionLog(path, busy_s=_BUSY_S) as log:
        for sources in _SOURCES:
            by_instrument = sessions_by_instrument(log, sources)
            lines = [
                _line(log, (model, version), repository.fallback(model, instrument), instrument, sources[0], names)
                for instrument, names in list(by_instrument.items())[:_INSTRUMENTS]
            ]
            if found := [line for line in lines if line is not None]:
                return found
    return []


def _line(
    log: PredictionLog,
    active: tuple[str, int],
    fallback: int | None,
    instrument: str,
    source: str,
    names: Sequence[str],
) -> AccuracyLine | None:
    sessions = names[:_SESSIONS]
    since_ns = newest_ns(log, *active, Role.PRIMARY, sessions, _ROWS)
    primary = answers(log, *active, since_ns=since_ns, sessions=sessions, role=Role.PRIMARY, overlaps=False)
    if not len(primary.time_ns):
        return None
    of_active, of_fallback = accuracy_of(primary), None
    if fallback is not None:
        both = compared(log, (active[0], fallback), active, since_ns=since_ns, sessions=sessions, overlaps=False)
        if len(both.first.time_ns):
            of_fallback, of_active = accuracy_of(both.first), accuracy_of(both.second)
    return AccuracyLine(
        model=active[0],
        version=active[1],
        fallback=None if of_fallback is None else fallback,
        instrument=instrument,
        source=source,
        rows=of_active.rows,
        answered=of_active.answered,
        until_ns=int(primary.time_ns.max()),
        horizons=_horizons(of_active, of_fallback),
    )


def _horizons(of_active: VersionAccuracy, of_fallback: VersionAccuracy | None) -> tuple[HorizonLine, ...]:
    beside = (None,) * len(of_active.horizons) if of_fallback is None else of_fallback.horizons
    return tuple(
        HorizonLine(
            horizon_ms=own.horizon_ms,
            rows=own.rows,
            accuracy=own.accuracy,
            log_loss=own.log_loss,
            fallback_accuracy=None if other is None else other.accuracy,
            fallback_log_loss=None if other is None else other.log_loss,
            base_log_loss=own.base_log_loss,
        )
        for own, other in zip(of_active.horizons, beside, strict=True)
    )
