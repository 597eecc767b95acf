"""Live evaluation of two versions from the prediction log, instrument by instrument."""

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
"""Which sessions count, by the source of their rows. A replay may hold the very rows a model was trained on."""
LIVE: Sources = (Source.LIVE.value,)

# One rejection suffices; promotion must be unanimous.
_CAUTION = {REJECT: 0, PROMOTE: 2}


class LiveEvaluation(NamedTuple):
    """The deciding verdict, its instrument and rollback target (`fallback`), and the rows; None in an A/B test."""

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
    """Compare a candidate with the active version; None where no row was put to both.

    In an A/B test (`shadow.share`) on the split traffic, else on shadow rows since `since_ns`, its publication. Of
    several instruments one rejection rejects; promotion needs all.

    Args:
        since_ns: UTC.
        instrument: the only one to evaluate; None takes all.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    pair = (model, active), (candidate_model(model), candidate)

    def evaluate(log: PredictionLog, about: str, sessions: list[str]) -> LiveEvaluation | None:
        # A client without an A/B test asks production whatever was drawn.
        split = sessions_asked(log, *pair[1], Role.PRIMARY, sessions) if params.shadow.share else []
        if split:
            first, second = (
                answers(log, *version, since_ns=since_ns, sessions=split, role=Role.PRIMARY) for version in pair
            )
            if len(second.time_ns):
                drawn = by_draw(first, second, about, params.shadow)
                return LiveEvaluation(about, evaluate_ab(*drawn, params.shadow, params.paired))
        both = compared(log, *pair, since_ns=since_ns, sessions=sessions, overlaps=False)
        if not len(both.first.time_ns):
            return None
        return LiveEvaluation(about, evaluate_shadow(both, params.shadow, params.paired), both)

    evaluations = _each(workspace, model, sources, instrument, evaluate)
    return min(
        evaluations,
        key=lambda evaluation: (_CAUTION.get(evaluation.verdict.decision, 1), evaluation.verdict.e_better),
        default=None,
    )


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
    was_trained_on: Callable[[str], bool] = lambda _instrument: True,
) -> LiveEvaluation | None:
    """Compare the active version with its fallback; None where no row of a trained instrument was put to it.

    Args:
        fallback: returns the rollback target for an instrument, None where there is none.
        since_ns: when the active version was promoted, UTC.
        instrument: the only one to evaluate; None takes all.
        was_trained_on: whether the active version was trained on an instrument; rows of others are ignored.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
    """
    epoch, start_ns = epoch_at(since_ns, now_ns, params.rollback.watch_s)

    def evaluate(log: PredictionLog, about: str, sessions: list[str]) -> LiveEvaluation | None:
        if not was_trained_on(about):
            return None
        # Primary role only: shadow rows, from before a rollback, are answered in chunks and wait.
        primary = answers(log, model, active, since_ns=start_ns, sessions=sessions, role=Role.PRIMARY, overlaps=False)
        if not len(primary.time_ns):
            return None
        both, rollback_to = without_fallback(primary), fallback(about)
        if rollback_to is not None:
            pair = (model, rollback_to), (model, active)
            both = compared(log, *pair, since_ns=start_ns, sessions=sessions, overlaps=False)
        verdict = evaluate_rollback(both, params.rollback, params.paired, alone=primary, epoch=epoch)
        return LiveEvaluation(about, verdict, both, rollback_to)

    def urgency(evaluation: LiveEvaluation) -> tuple[bool, bool, float]:
        bad = evaluation.verdict.decision == ROLL_BACK
        return bad and evaluation.fallback is not None, bad, evaluation.verdict.e_worse

    return max(_each(workspace, model, sources, instrument, evaluate), key=urgency, default=None)


def _each(
    workspace: Workspace,
    model: str,
    sources: Sources,
    instrument: str | None,
    evaluate: Callable[[PredictionLog, str, list[str]], LiveEvaluation | None],
) -> list[LiveEvaluation]:
    """Evaluate the sessions of each instrument together; only rows of one instrument are comparable."""
    if not log_path(workspace, model).exists():
        return []
    with PredictionLog.of(workspace, model) as log:
        evaluations = [
            evaluate(log, about, names)
            for about, names in sessions_by_instrument(log, sources).items()
            if instrument in (None, about)
        ]
    return [evaluation for evaluation in evaluations if evaluation is not None]


def sessions_by_instrument(log: PredictionLog, sources: Sources) -> dict[str, list[str]]:
    """Return the names of the sessions that count, by instrument, the newest first."""
    names: dict[str, list[str]] = {}
    for session in log.sessions():
        if session["source"] in sources:
            names.setdefault(session["instrument"], []).append(session["session"])
    return names
