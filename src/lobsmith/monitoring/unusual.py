"""Prediction drift and concept drift: a version's newest answers beside what looks before have found usual."""

import math
from collections.abc import Sequence

import numpy as np

from lobsmith.gates.answers import Answers
from lobsmith.gates.drift.answered import excess_loss, shift_of_answers
from lobsmith.gates.drift.null import p_value
from lobsmith.gates.drift.verdict import DriftVerdict, Finding, Kind, Moved
from lobsmith.gates.live_rows import answered
from lobsmith.gates.live_verdict import ROLL_BACK, LiveVerdict
from lobsmith.monitoring.lived import Lived
from lobsmith.monitoring.looks import Line
from lobsmith.params import DriftParams, Params

_LEAST = 1e-6
"""Smallest shift of answers that has a logarithm."""


def usual(looks: Sequence[Line], kind: Kind, before_ns: int) -> list[float]:
    """Return what earlier looks measured of a kind, in the order of time: each over rows of its own, none after.

    Those that found drift are left out: they would make it usual.

    Args:
        looks: of one instrument, in the order of time.
        kind: of drift.
        before_ns: when the rows begin that are to be judged.
    """
    values = []
    for look in reversed(looks):
        verdict = look.of(kind)
        if verdict is None or verdict.value is None or verdict.finding is Finding.DRIFT:
            continue
        if verdict.recent_until_ns is None or verdict.recent_from_ns is None or verdict.recent_until_ns > before_ns:
            continue
        values.append(verdict.value)
        before_ns = verdict.recent_from_ns
    return values[::-1]


def prediction_drift(lived: Lived, before: Sequence[Line], drift: DriftParams, level: float) -> DriftVerdict:
    """Say whether a version's newest answers differ more from those before than is usual.

    Args:
        lived: its answers.
        before: earlier looks at the stream.
        drift: `minimum_rows` and `past_pairs` are used.
        level: p-value from which there is drift.
    """
    earlier, now = _count(lived.answers_before), _count(lived.answers_now)
    if lived.answers_now is None or now < drift.minimum_rows:
        return _missing(Kind.PREDICTION, lived, level, f"{now} rows were answered", drift)
    if lived.answers_before is None or earlier < drift.minimum_rows:
        why = (
            f"{earlier} rows were answered by this version before, fewer than drift.minimum_rows = {drift.minimum_rows}"
        )
        return _verdict(Kind.PREDICTION, Finding.INSUFFICIENT, why, lived, level, earlier, now)
    value, moved = shift_of_answers(lived.answers_before, lived.answers_now)
    past = usual(before, Kind.PREDICTION, lived.from_ns)
    words = f"answers have moved by {value:.3g} deviations on average, most of all {moved[0].name}"
    logs = [math.log(max(one, _LEAST)) for one in past]
    return _compared(
        Kind.PREDICTION, words, value, math.log(max(value, _LEAST)), past, logs, lived, drift, level, moved
    )


def concept_drift(
    lived: Lived, before: Sequence[Line], params: Params, level: float, beside: LiveVerdict | None
) -> DriftVerdict:
    """Say whether a version's answers cost more than is usual, or than its fallback's.

    Args:
        lived: its answers, with outcomes.
        before: earlier looks at the stream.
        params: `drift` and `paired.longest_ms` are used.
        level: p-value from which there is drift.
        beside: the block test of active against fallback; None where nothing was compared.
    """
    drift = params.drift
    if beside is not None and beside.decision == ROLL_BACK:
        why = f"beside its fallback: {beside.reason}"
        return _verdict(Kind.CONCEPT, Finding.DRIFT, why, lived, level, _count(lived.answers_before), beside.compared)
    now = _count(lived.answers_now)
    if lived.answers_now is None or now < drift.minimum_rows:
        return _missing(Kind.CONCEPT, lived, level, f"{now} rows were answered", drift)
    found = (
        excess_loss(lived.answers_before, lived.answers_now, params.paired.longest_ms) if lived.answers_before else None
    )
    if found is None:
        why = "no outcomes are known of the rows before, or of the newest ones"
        return _verdict(Kind.CONCEPT, Finding.INSUFFICIENT, why, lived, level, _count(lived.answers_before), now)
    value, rows = found
    if rows < drift.minimum_rows:
        return _missing(Kind.CONCEPT, lived, level, f"outcomes of {rows} rows are known", drift)
    past = usual(before, Kind.CONCEPT, lived.from_ns)
    words = f"a row costs {value:+.4f} nats beside the frequencies of the time before"
    return _compared(Kind.CONCEPT, words, value, value, past, past, lived, drift, level, ())


def _compared(
    kind: Kind,
    words: str,
    value: float,
    statistic: float,
    past: list[float],
    null: list[float],
    lived: Lived,
    drift: DriftParams,
    level: float,
    moved: tuple[Moved, ...],
) -> DriftVerdict:
    p = None
    if len(past) < drift.past_pairs:
        finding, words = (
            Finding.INSUFFICIENT,
            f"{words}; {len(past)} looks before, {drift.past_pairs} say what is usual",
        )
    else:
        p = p_value(statistic, np.asarray(null))
        finding = Finding.DRIFT if p <= level else Finding.NO_DRIFT
        words = f"{words}; p = {p:.2g} among {len(past)} looks before"
    earlier, now = _count(lived.answers_before), _count(lived.answers_now)
    return _verdict(kind, finding, words, lived, level, earlier, now, value, p, tuple(past), moved)


def _verdict(
    kind: Kind,
    finding: Finding,
    reason: str,
    lived: Lived,
    level: float,
    reference_rows: int,
    recent_rows: int,
    value: float | None = None,
    p: float | None = None,
    past: tuple[float, ...] = (),
    moved: tuple[Moved, ...] = (),
) -> DriftVerdict:
    before = lived.answers_before
    known = before is not None and len(before.time_ns) > 0
    return DriftVerdict(
        kind=kind,
        finding=finding,
        reason=reason,
        value=value,
        p_value=p,
        level=level,
        past=len(past),
        null=past,
        reference_from_ns=int(before.time_ns[0]) if before is not None and known else None,
        reference_until_ns=int(before.time_ns[-1]) if before is not None and known else None,
        recent_from_ns=lived.from_ns,
        recent_until_ns=lived.until_ns,
        reference_rows=reference_rows,
        recent_rows=recent_rows,
        moved=moved,
    )


def _missing(kind: Kind, lived: Lived, level: float, what: str, drift: DriftParams) -> DriftVerdict:
    why = f"{what} in {drift.recent_s:g} s, fewer than drift.minimum_rows = {drift.minimum_rows}"
    return _verdict(kind, Finding.MISSING, why, lived, level, _count(lived.answers_before), _count(lived.answers_now))


def _count(answers: Answers | None) -> int:
    return 0 if answers is None else int(answered(answers).sum())
