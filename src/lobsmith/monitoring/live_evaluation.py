"""What live traffic says of two versions, read from the prediction log and judged, instrument by instrument."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lobsmith.monitoring.log.reader import PredictionLog, answers, compared, sessions_asked
from lobsmith.monitoring.log.writer import Role, Source, log_path
from lobsmith.online.ab_test import by_draw, evaluate_ab
from lobsmith.online.answers import Compared
from lobsmith.online.evidence import PROMOTE, REJECT, ROLL_BACK, LiveVerdict
from lobsmith.online.rollback import epoch_at, evaluate_rollback, without_fallback
from lobsmith.online.shadow import evaluate_shadow
from lobsmith.params import Params
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace

Sources = Sequence[str]
"""Which sessions count, by what their rows came from. A replay may be of the very rows that a model has learnt from."""
LIVE: Sources = (Source.LIVE.value,)

# One rejection is enough, promotion has to be unanimous.
_CAUTION = {REJECT: 0, PROMOTE: 2}


class LiveEvaluation(NamedTuple):
    """The verdict that decides, the instrument whose traffic it is about, and the rows; None where they were split.

    `fallback` is the version that a rollback for that instrument's sake would go back to.
    """

    instrument: str
    verdict: LiveVerdict
    compared: Compared | None = None
    fallback: int | None = None


def evaluate_candidate(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    active: int,
    candidate: int,
    since_ns: int,
    sources: Sources = LIVE,
    instrument: str | None = None,
) -> LiveEvaluation | None:
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
        instrument: the only one to look at; None takes all.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    pair = (model, active), (candidate_model(model), candidate)

    def judge(log: PredictionLog, about: str, sessions: list[str]) -> LiveEvaluation | None:
        # A client that splits nothing asks production whatever was drawn.
        split = sessions_asked(log, *pair[1], Role.PRIMARY, sessions) if params.shadow.share else []
        if split:
            first, second = (answers(log, *one, since_ns=since_ns, sessions=split, role=Role.PRIMARY) for one in pair)
            if len(second.time_ns):
                drawn = by_draw(first, second, about, params.shadow)
                return LiveEvaluation(about, evaluate_ab(*drawn, params.shadow, params.paired))
        both = compared(log, *pair, since_ns=since_ns, sessions=sessions, overlaps=False)
        if not len(both.first.time_ns):
            return None
        return LiveEvaluation(about, evaluate_shadow(both, params.shadow, params.paired), both)

    found = _each(workspace, model, sources, instrument, judge)
    return min(found, key=lambda one: (_CAUTION.get(one.verdict.decision, 1), one.verdict.e_better), default=None)


def evaluate_active(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    active: int,
    fallback: Callable[[str], int | None],
    since_ns: int,
    now_ns: int,
    sources: Sources = LIVE,
    instrument: str | None = None,
    has_learnt: Callable[[str], bool] = lambda _instrument: True,
) -> LiveEvaluation | None:
    """Judge the active version beside its fallback; None where it was asked about no row of what it has learnt.

    Args:
        workspace: where the log lies.
        params: `rollback` and `paired` are used.
        model: the production model.
        active: its active version.
        fallback: returns the version that would be gone back to for an instrument's sake, None where there is none.
        since_ns: when the active version was promoted, UTC.
        now_ns: the time, UTC.
        sources: which sessions count.
        instrument: the only one to look at; None takes all.
        has_learnt: says whether the active version has learnt an instrument; rows of others say nothing of it.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    epoch, start_ns = epoch_at(since_ns, now_ns, params.rollback.watch_s)

    def judge(log: PredictionLog, about: str, sessions: list[str]) -> LiveEvaluation | None:
        if not has_learnt(about):
            return None
        # Only as what serves: mirrored rows, which it got before a rollback, are asked about in chunks and wait.
        mine = answers(log, model, active, since_ns=start_ns, sessions=sessions, role=Role.PRIMARY, overlaps=False)
        if not len(mine.time_ns):
            return None
        both, beside = without_fallback(mine), fallback(about)
        if beside is not None:
            pair = (model, beside), (model, active)
            both = compared(log, *pair, since_ns=start_ns, sessions=sessions, overlaps=False)
        verdict = evaluate_rollback(both, params.rollback, params.paired, alone=mine, epoch=epoch)
        return LiveEvaluation(about, verdict, both, beside)

    def urgency(one: LiveEvaluation) -> tuple[bool, bool, float]:
        bad = one.verdict.decision == ROLL_BACK
        return bad and one.fallback is not None, bad, one.verdict.e_worse

    return max(_each(workspace, model, sources, instrument, judge), key=urgency, default=None)


def _each(
    workspace: Workspace,
    model: str,
    sources: Sources,
    instrument: str | None,
    judge: Callable[[PredictionLog, str, list[str]], LiveEvaluation | None],
) -> list[LiveEvaluation]:
    """Judge the sessions of each instrument together; only rows of one instrument can be compared."""
    if not log_path(workspace, model).exists():
        return []
    with PredictionLog.of(workspace, model) as log:
        found = [
            judge(log, about, names)
            for about, names in sessions_by_instrument(log, sources).items()
            if instrument in (None, about)
        ]
    return [one for one in found if one is not None]


def sessions_by_instrument(log: PredictionLog, sources: Sources) -> dict[str, list[str]]:
    """Return the names of the sessions that count, by instrument, the newest first."""
    found: dict[str, list[str]] = {}
    for one in log.sessions():
        if one["source"] in sources:
            found.setdefault(one["instrument"], []).append(one["session"])
    return found
