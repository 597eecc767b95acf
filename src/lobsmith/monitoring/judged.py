"""What live traffic says of two versions, read from the prediction log and judged, instrument by instrument."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lobsmith.gates.answers import Answers, Compared
from lobsmith.gates.live_verdict import PROMOTE, REJECT, ROLL_BACK, LiveVerdict
from lobsmith.gates.rollback import epoch_at, judge_active, without_fallback
from lobsmith.gates.shadow import judge_shadow
from lobsmith.gates.split_test import judge_split
from lobsmith.monitoring import log_reader
from lobsmith.monitoring.log_reader import PredictionLog, answers, compared
from lobsmith.monitoring.prediction_log import Role, Source, log_path
from lobsmith.params import Params
from lobsmith.release.config import candidate_model
from lobsmith.workspace import Workspace

Sources = Sequence[str]
"""Which sessions count, by what their rows came from. A replay may be of the very rows that a model has learnt from."""
LIVE: Sources = (Source.LIVE.value,)

# One rejection is enough, promotion has to be unanimous.
_CAUTION = {REJECT: 0, PROMOTE: 2}


class Judged(NamedTuple):
    """The verdict that decides, and the instrument whose traffic it is about."""

    instrument: str
    verdict: LiveVerdict


def judge_candidate(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    active: int,
    candidate: int,
    since_ns: int,
    sources: Sources = LIVE,
) -> Judged | None:
    """Judge a candidate beside the active version; None where no row was put to both.

    Where clients have it answer its share of the traffic (`shadow.share`), on that; else on mirrored rows.
    With several instruments, one rejection rejects, and all have to be for a promotion.

    Args:
        workspace: where the log lies.
        params: `shadow` and `paired` are used.
        model: the production model.
        active: its active version.
        candidate: the version in the candidate slot.
        since_ns: when the candidate was published, UTC.
        sources: which sessions count.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    pair = (model, active), (candidate_model(model), candidate)

    def judge(log: PredictionLog, sessions: list[str]) -> LiveVerdict | None:
        if params.shadow.share:
            first, second = (
                answers(log, *one, since_ns=since_ns, sessions=sessions, role=Role.PRIMARY) for one in pair
            )
            if len(second.time_ns):
                return judge_split(first, second, params.shadow, params.paired)
        both = _in_time(compared(log, *pair, since_ns=since_ns, sessions=sessions))
        return judge_shadow(both, params.shadow, params.paired) if len(both.first.time_ns) else None

    found = _each(workspace, model, sources, judge)
    return min(found, key=lambda one: (_CAUTION.get(one.verdict.decision, 1), one.verdict.e_better), default=None)


def judge_in_service(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    active: int,
    fallback: int | None,
    since_ns: int,
    now_ns: int,
    sources: Sources = LIVE,
) -> Judged | None:
    """Judge the active version beside its fallback; None where it was asked about no row.

    Args:
        workspace: where the log lies.
        params: `rollback` and `paired` are used.
        model: the production model.
        active: its active version.
        fallback: the version that would be gone back to; None where there is none.
        since_ns: when the active version was promoted, UTC.
        now_ns: the time, UTC.
        sources: which sessions count.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    epoch, start_ns = epoch_at(since_ns, now_ns, params.rollback.watch_s)

    def judge(log: PredictionLog, sessions: list[str]) -> LiveVerdict | None:
        alone = _in_time(without_fallback(answers(log, model, active, since_ns=start_ns, sessions=sessions)))
        if not len(alone.second.time_ns):
            return None
        both = alone
        if fallback is not None:
            pair = (model, fallback), (model, active)
            both = _in_time(compared(log, *pair, since_ns=start_ns, sessions=sessions))
        # A fallback that is asked no more must not hide what the active version does by itself.
        used = both if _reaches(both, alone, params.rollback.window_s) else alone
        return judge_active(used, params.rollback, params.paired, epoch=epoch)

    found = _each(workspace, model, sources, judge)
    return max(found, key=lambda one: (one.verdict.decision == ROLL_BACK, one.verdict.e_worse), default=None)


def last_asked_ns(workspace: Workspace, model: str, version: int, sources: Sources = LIVE) -> int | None:
    """Return when a version was asked last, UTC; None where it never was, or where there is no log.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not log_path(workspace, model).exists():
        return None
    with PredictionLog.of(workspace, model) as log:
        sessions = [name for names in _sessions(log, sources).values() for name in names]
        return log_reader.last_asked_ns(log, model, version, sessions)


def _reaches(both: Compared, alone: Compared, window_s: float) -> bool:
    """Say whether the newest rows were put to both."""
    return len(both.second.time_ns) > 0 and alone.second.time_ns[-1] - both.second.time_ns[-1] <= window_s * 1e9


def _in_time(both: Compared) -> Compared:
    """Leave out what overlaps: several clients of one instrument see the same rows, which are no more evidence."""
    time_ns = both.second.time_ns
    rising = time_ns >= np.maximum.accumulate(time_ns)
    if rising.all():
        return both

    def chosen(one: Answers) -> Answers:
        arrays = ("time_ns", "segment", "labels", "probabilities", "latency_ns")
        return replace(one, **{name: getattr(one, name)[rising] for name in arrays})

    return replace(both, first=chosen(both.first), second=chosen(both.second))


def _each(
    workspace: Workspace,
    model: str,
    sources: Sources,
    judge: Callable[[PredictionLog, list[str]], LiveVerdict | None],
) -> list[Judged]:
    """Judge the sessions of each instrument together; only rows of one instrument can be compared."""
    if not log_path(workspace, model).exists():
        return []
    with PredictionLog.of(workspace, model) as log:
        verdicts = {instrument: judge(log, names) for instrument, names in _sessions(log, sources).items()}
    return [Judged(instrument, verdict) for instrument, verdict in verdicts.items() if verdict is not None]


def _sessions(log: PredictionLog, sources: Sources) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in log.sessions():
        if one["source"] in sources:
            found.setdefault(one["instrument"], []).append(one["session"])
    return found
