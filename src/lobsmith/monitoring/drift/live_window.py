"""Current window of a stream, and earlier rows, from the prediction log."""

from dataclasses import dataclass

import numpy as np

from lobsmith.drift.reference import RawRows, joined
from lobsmith.drift.shifts import between
from lobsmith.drift.windows import Lengths, rounded_gap
from lobsmith.features.definitions import COUNT
from lobsmith.monitoring.live_evaluation import LIVE, Sources, sessions_by_instrument
from lobsmith.monitoring.log.raw_rows import newest_raw_ns, raw_rows
from lobsmith.monitoring.log.reader import EVER, PredictionLog, answers
from lobsmith.monitoring.log.sessions import behind_ns
from lobsmith.monitoring.log.writer import Role, log_path
from lobsmith.online.answers import Answers
from lobsmith.params import DriftParams, Params
from lobsmith.release.repository.journal import serving_since
from lobsmith.release.version.manifest import Manifest
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace


@dataclass(frozen=True)
class CurrentWindow:
    """Logged raw rows of a stream, and a version's answers, before and within the current window.

    Attributes:
        earlier: raw rows before the window, for past pairs.
        recent: raw rows of the window, `drift.recent_s` long.
        answers_before: answers in the `drift.reference_s` before it; None where nothing is logged.
        answers_now: answers in the window.
        from_ns, until_ns: the window, receive times, UTC.
        served_ns: when the version began to serve, UTC; 0 where rows are not live.
        opened_ns: since when clients have been connected, UTC; 0 where unknown.
    """

    earlier: RawRows
    recent: RawRows
    answers_before: Answers | None
    answers_now: Answers | None
    from_ns: int
    until_ns: int
    served_ns: int = 0
    opened_ns: int = 0

    @property
    def has_only_begun(self) -> bool:
        """Whether no client was connected at the window's start; times far ahead are from a clock that was set back."""
        return self.from_ns < self.opened_ns < 2 * self.until_ns - self.from_ns


def read_current_window(
    workspace: Workspace,
    params: Params,
    version: Manifest,
    instrument: str,
    reference_rows: RawRows,
    *,
    now_ns: int,
    sources: Sources = LIVE,
    opened_ns: int = 0,
) -> CurrentWindow:
    """Read the current window of a stream.

    Args:
        version: of the answers.
        learnt: reference rows: the longer ago, the further past pairs reach back.
        now_ns: UTC. Of rows that are not live the newest one's receive time counts.
        opened_ns: since when clients have been connected, UTC.

    Raises:
        PredictionLogError: the log cannot be read.
        ReleaseError: the journal cannot be read.
    """
    drift, live = params.drift, tuple(sources) == tuple(LIVE)
    recent, reach = int(drift.recent_s * NS_PER_S), int((drift.recent_s + drift.reference_s) * NS_PER_S)
    served = serving_since(workspace.journal, version) if live else 0
    # The newest rows are not logged yet where time passes faster than the machine's.
    now_ns -= behind_ns(params) if live else 0
    empty = CurrentWindow(no_rows(), no_rows(), None, None, now_ns - recent, now_ns, served, opened_ns)
    model = params.model.name
    if not log_path(workspace, model).exists():
        return empty
    with PredictionLog.of(workspace, model) as log:
        sessions = sessions_by_instrument(log, sources).get(instrument, [])
        if not sessions:
            return empty
        until = now_ns if live else (newest_raw_ns(log, sessions) or now_ns) + 1
        since = until - _reach_ns(drift, until - recent - int(reference_rows.time_ns[-1]) if len(reference_rows) else 0)
        raw = _raw(log, sessions, drift, since, until)
        answered = answers(
            log,
            version.model,
            version.version,
            since_ns=until - reach if live else EVER,
            sessions=sessions,
            role=Role.PRIMARY,
            overlaps=False,
        )
    return CurrentWindow(
        earlier=raw.between(since, until - recent),
        recent=raw.between(until - recent, until),
        answers_before=between(answered, until - reach, until - recent),
        answers_now=between(answered, until - recent, until),
        from_ns=until - recent,
        until_ns=until,
        served_ns=served,
        opened_ns=opened_ns,
    )


def instruments_seen(workspace: Workspace, model: str, sources: Sources = LIVE) -> set[str]:
    """Return the instruments, `venue:symbol`, that a production model was ever asked about.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not log_path(workspace, model).exists():
        return set()
    with PredictionLog.of(workspace, model) as log:
        return set(sessions_by_instrument(log, sources))


def _raw(log: PredictionLog, sessions: list[str], drift: DriftParams, since_ns: int, until_ns: int) -> RawRows:
    """Read both ends of a stretch, for past pairs; between them may lie days of unneeded rows."""
    end = _reach_ns(drift, 0)
    late = max(until_ns - end, since_ns)
    old, new = (
        raw_rows(log, sessions, every_ms=drift.every_ms, since_ns=start, until_ns=stop)
        for start, stop in ((since_ns, min(since_ns + end, late)), (late, until_ns))
    )
    return joined(old, new)


def _reach_ns(drift: DriftParams, gap_ns: int) -> int:
    """Return how far back rows for past pairs of a gap reach, for twice as many pairs as needed."""
    lengths = Lengths.of(drift)
    windows = rounded_gap(max(gap_ns, 0), lengths) + 2 * drift.past_pairs + 1
    return lengths.reference + windows * lengths.recent


def no_rows() -> RawRows:
    """Return empty rows."""
    return RawRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, COUNT), np.float32))
