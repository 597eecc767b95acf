"""Prediction drift and concept drift: a version's newest answers beside what looks before have found usual."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lobsmith.drift.null_distribution import p_value
from lobsmith.drift.shifts import excess_loss, shift_of_answers
from lobsmith.drift.verdict import DriftVerdict, Finding, Kind, Moved, Window
from lobsmith.monitoring.drift.history import Line
from lobsmith.monitoring.drift.live_window import Lived
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import ROLL_BACK, LiveVerdict, answered
from lobsmith.params import DriftParams, Params
from lobsmith.units import NS_PER_S

_LEAST = 1e-6
"""Smallest shift of answers that has a logarithm."""
_LATE = 0.1
"""Share of their stretch that the rows of two looks may have in common: a schedule is never kept to the second."""


def usual(looks: Sequence[Line], kind: Kind, before_ns: int) -> list[float]:
    """Return what earlier looks measured of a kind, in the order of time: each over rows of its own, none after.

    Those that found drift are left out: they would make it usual.

    Args:
        looks: at one version's answers for one instrument, in the order of time.
        kind: of drift.
        before_ns: when the rows begin that are to be judged.
    """
    values = []
    for look in reversed(looks):
        found = look.of(kind)
        if found is None or found.value is None or found.finding is Finding.DRIFT:
            continue
        if found.recent_until_ns is None or found.recent_from_ns is None:
            continue
        if found.recent_until_ns - before_ns > _LATE * (found.recent_until_ns - found.recent_from_ns):
            continue
        values.append(found.value)
        before_ns = found.recent_from_ns
    return values[::-1]


def prediction_drift(lived: Lived, before: Sequence[Line], drift: DriftParams, level: float) -> DriftVerdict:
    """Say whether a version's newest answers differ more from those before than is usual.

    Args:
        lived: its answers.
        before: earlier looks at the version's answers for the stream.
        drift: `minimum_rows` and `past_pairs` are used.
        level: p-value from which there is drift.
    """
    asked = _OneKind(Kind.PREDICTION, lived, before, drift, level)
    if lived.answers_now is None or asked.recent_rows < drift.minimum_rows:
        return asked.missing(f"{asked.recent_rows} rows were answered")
    if lived.answers_before is None or asked.reference_rows < drift.minimum_rows:
        return asked.too_young()
    value, moved = shift_of_answers(lived.answers_before, lived.answers_now)
    words = f"answers have moved by {value:.3g} deviations on average, most of all {moved[0].name}"
    return asked.compared(words, value, scale=lambda shift: math.log(max(shift, _LEAST)), moved=moved)


def concept_drift(
    lived: Lived, before: Sequence[Line], params: Params, level: float, beside: LiveVerdict | None
) -> DriftVerdict:
    """Say whether a version's answers cost more than is usual, or than its fallback's.

    Args:
        lived: its answers, with outcomes.
        before: earlier looks at the version's answers for the stream.
        params: `drift` and `paired.longest_ms` are used.
        level: p-value from which there is drift.
        beside: the block test of active against fallback; None where nothing was compared.
    """
    asked = _OneKind(Kind.CONCEPT, lived, before, params.drift, level)
    if beside is not None and beside.decision == ROLL_BACK:
        return asked.verdict(Finding.DRIFT, f"beside its fallback: {beside.reason}")
    if lived.answers_now is None or asked.recent_rows < params.drift.minimum_rows:
        return asked.missing(f"{asked.recent_rows} rows were answered")
    if lived.answers_before is None or asked.reference_rows < params.drift.minimum_rows:
        return asked.too_young()
    found = excess_loss(lived.answers_before, lived.answers_now, params.paired.longest_ms)
    if found is None:
        return asked.verdict(Finding.INSUFFICIENT, "no outcomes are known of the rows before, or of the newest ones")
    value, rows = found
    if rows < params.drift.minimum_rows:
        return asked.missing(f"outcomes of {rows} rows are known")
    return asked.compared(f"a row costs {value:+.4f} nats beside the frequencies of the time before", value)


class _OneKind(NamedTuple):
    """What all verdicts of one look on one kind share."""

    kind: Kind
    lived: Lived
    before: Sequence[Line]
    drift: DriftParams
    level: float

    @property
    def reference_rows(self) -> int:
        return _count(self.lived.answers_before)

    @property
    def recent_rows(self) -> int:
        return _count(self.lived.answers_now)

    def compared(
        self, words: str, value: float, scale: Callable[[float], float] = float, moved: tuple[Moved, ...] = ()
    ) -> DriftVerdict:
        """Compare a statistic with that of earlier looks, on a scale where these are roughly Gaussian."""
        past = tuple(usual(self.before, self.kind, self.lived.from_ns))
        measured: dict[str, Any] = {"value": value, "null": past, "moved": moved}
        if len(past) < self.drift.past_pairs:
            why = f"{words}; {len(past)} looks before, {self.drift.past_pairs} say what is usual"
            return self.verdict(Finding.INSUFFICIENT, why, **measured)
        p = p_value(scale(value), np.array([scale(one) for one in past]))
        found = Finding.DRIFT if p <= self.level else Finding.NO_DRIFT
        return self.verdict(found, f"{words}; p = {p:.2g} among {len(past)} looks before", p_value=p, **measured)

    def missing(self, what: str) -> DriftVerdict:
        """Say that there are too few rows, which in a version's or a session's first minutes there cannot but be."""
        why = f"{what} in {self.drift.recent_s:g} s, fewer than drift.minimum_rows = {self.drift.minimum_rows}"
        if self.lived.served_ns > self.lived.from_ns:
            served_s = (self.lived.until_ns - self.lived.served_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{why}; this version has served for {served_s:.0f} s only")
        if self.lived.has_only_begun:
            opened_s = (self.lived.until_ns - self.lived.opened_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{why}; the session was opened {opened_s:.0f} s ago")
        return self.verdict(Finding.MISSING, why)

    def too_young(self) -> DriftVerdict:
        least, rows = self.drift.minimum_rows, self.reference_rows
        why = f"{rows} rows were answered by this version before, fewer than drift.minimum_rows = {least}"
        return self.verdict(Finding.INSUFFICIENT, why)

    def verdict(self, finding: Finding, reason: str, **measured: Any) -> DriftVerdict:
        before = self.lived.answers_before
        return DriftVerdict.of(
            self.kind,
            finding,
            reason,
            level=self.level,
            reference=Window.of(np.empty(0, np.int64) if before is None else before.time_ns, self.reference_rows),
            recent=Window(self.lived.from_ns, self.lived.until_ns, self.recent_rows),
            **measured,
        )


def _count(answers: Answers | None) -> int:
    return 0 if answers is None else int(answered(answers).sum())
