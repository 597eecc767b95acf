"""Prediction drift and concept drift: a version's newest answers beside what looks before have found usual.

Until there are enough looks, beside its answers to held-out rows of the training window, and what is usual among
windows of these and the looks that there are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET

from lobsmith.drift.null_distribution import LEAST_COUNT, effective_count, p_value
from lobsmith.drift.shifts import excess_loss, shift_of_answers
from lobsmith.drift.training_null import AnswersWindow, HeldOut
from lobsmith.drift.verdict import DriftVerdict, FeatureShift, Finding, Kind, Window
from lobsmith.monitoring.drift.history import PastCheck
from lobsmith.monitoring.drift.live_window import CurrentWindow
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import ROLL_BACK, LiveVerdict, answered
from lobsmith.params import DriftParams, Params
from lobsmith.units import NS_PER_S

_LEAST = 1e-6
"""Smallest shift of answers that has a logarithm."""
_FEWEST = 10
"""Held-out windows and looks before anything can be said."""
_LATE = 0.1
"""Share of their stretch that the rows of two looks may have in common: a schedule is never kept to the second."""


def usual(checks: Sequence[PastCheck], kind: Kind, before_ns: int, *, training: bool = False) -> list[float]:
    """Return what earlier looks measured of a kind, in the order of time: each over rows of its own, none after.

    Those that found drift are left out: they would make it usual.

    Args:
        looks: at one version's answers for one instrument, in the order of time.
        kind: of drift.
        before_ns: when the rows begin that are to be judged.
        training: take the statistics beside the training window, in place of those beside the answers before.
    """
    values = []
    for check in reversed(checks):
        found = check.of(kind)
        if found is None or found.finding is Finding.DRIFT:
            continue
        value = found.beside_training if training else found.value
        if value is None or value is UNSET:
            continue
        if found.recent_until_ns is None or found.recent_from_ns is None:
            continue
        if found.recent_until_ns - before_ns > _LATE * (found.recent_until_ns - found.recent_from_ns):
            continue
        values.append(value)
        before_ns = found.recent_from_ns
    return values[::-1]


def prediction_drift(
    current: CurrentWindow,
    before: Sequence[PastCheck],
    drift: DriftParams,
    level: float,
    held_out: HeldOut | None = None,
) -> DriftVerdict:
    """Say whether a version's newest answers differ more from those before than is usual.

    Args:
        lived: its answers.
        before: earlier looks at the version's answers for the stream.
        drift: `minimum_rows` and `past_pairs` are used.
        level: p-value from which there is drift.
        held_out: what the version was published with.
    """
    asked = _OneKind(Kind.PREDICTION, current, before, drift, level, held_out)
    if current.answers_now is None or asked.recent_rows < drift.minimum_rows:
        return asked.missing(f"{asked.recent_rows} rows were answered")
    beside_before = beside_training = None
    if asked.has_before and current.answers_before is not None:
        beside_before = _Shifted(*shift_of_answers(current.answers_before, current.answers_now))
    if held_out is not None and (newest := asked.newest(held_out)) is not None:
        beside_training = _Shifted(*held_out.shift(newest))
    return asked.judged(
        beside_before,
        beside_training,
        lambda window: window.shift,
        scale=lambda shift: math.log(max(shift, _LEAST)),
        unknown="neither answers before nor enough of the newest ones are known",
    )


def concept_drift(
    current: CurrentWindow,
    before: Sequence[PastCheck],
    params: Params,
    level: float,
    beside: LiveVerdict | None,
    held_out: HeldOut | None = None,
) -> DriftVerdict:
    """Say whether a version's answers cost more than is usual, or than its fallback's.

    Args:
        lived: its answers, with outcomes.
        before: earlier looks at the version's answers for the stream.
        params: `drift` and `paired` are used.
        level: p-value from which there is drift.
        beside: what the same rows say of the version beside its fallback; None where nothing was compared.
        held_out: what the version was published with.
    """
    asked = _OneKind(Kind.CONCEPT, current, before, params.drift, level, held_out)
    if beside is not None and beside.decision == ROLL_BACK:
        return asked.verdict(Finding.DRIFT, f"beside its fallback: {beside.reason}")
    if current.answers_now is None or asked.recent_rows < params.drift.minimum_rows:
        return asked.missing(f"{asked.recent_rows} rows were answered")
    beside_before = beside_training = None
    if asked.has_before and current.answers_before is not None:
        found = excess_loss(current.answers_before, current.answers_now, params.paired.longest_ms)
        if found is not None and found[1] < params.drift.minimum_rows:
            return asked.missing(f"outcomes of {found[1]} rows are known")
        beside_before = None if found is None else _Cost(found[0])
    if held_out is not None and (newest := asked.newest(held_out)) is not None:
        found = held_out.loss(newest)
        enough = found is not None and found[1] >= held_out.minimum_rows
        beside_training = _Cost(found[0]) if found is not None and enough else None
    unknown = "no outcomes are known of the rows before, or of the newest ones"
    return asked.judged(beside_before, beside_training, lambda window: window.loss, unknown=unknown)


class _Shifted(NamedTuple):
    """How far answers have moved, and what of them."""

    value: float
    moved: tuple[FeatureShift, ...]

    def __str__(self) -> str:
        return f"answers have moved by {self.value:.3g} deviations on average, most of all {self.moved[0].name}"


class _Cost(NamedTuple):
    """What a row costs more than frequencies would, nats."""

    value: float
    moved: tuple[FeatureShift, ...] = ()

    def __str__(self) -> str:
        return f"a row costs {self.value:+.4f} nats beside the frequencies"


class _OneKind(NamedTuple):
    """What all verdicts of one look on one kind share."""

    kind: Kind
    current: CurrentWindow
    before: Sequence[PastCheck]
    drift: DriftParams
    level: float
    held_out: HeldOut | None

    @property
    def reference_rows(self) -> int:
        return _count(self.current.answers_before)

    @property
    def recent_rows(self) -> int:
        return _count(self.current.answers_now)

    @property
    def has_before(self) -> bool:
        return self.reference_rows >= self.drift.minimum_rows

    def newest(self, held_out: HeldOut) -> Answers | None:
        """Return the newest answers, as many as a held-out window is long; None where these are too few."""
        if self.current.answers_now is None:
            return None
        newest = held_out.newest(self.current.answers_now, self.current.until_ns)
        return newest if _count(newest) >= held_out.minimum_rows else None

    def judged(
        self,
        beside_before: "_Shifted | _Cost | None",
        beside_training: "_Shifted | _Cost | None",
        of_window: Callable[[AnswersWindow], float | None],
        *,
        unknown: str,
        scale: Callable[[float], float] = float,
    ) -> DriftVerdict:
        """Compare a statistic with that of earlier looks, or where these are few with that of held-out windows.

        Args:
            beside_before: of the newest answers and those before; None where it is not known.
            beside_training: of the newest answers and those to held-out rows.
            of_window: the latter of a held-out window.
            unknown: why nothing is compared, where both are None.
            scale: on which past values are roughly Gaussian.
        """
        past = usual(self.before, self.kind, self.current.from_ns)
        known: dict[str, Any] = {}
        if beside_training is not None:
            known["beside_training"] = beside_training.value
            known["beside_before"] = UNSET if beside_before is None else beside_before.value
        if beside_before is not None and (len(past) >= self.drift.past_pairs or beside_training is None):
            return self._compared(beside_before, past, f"{len(past)} looks before", scale, self.drift.past_pairs, known)
        if beside_training is not None and self.held_out is not None:
            windows = [value for one in self.held_out.windows if (value := of_window(one)) is not None]
            checks = usual(self.before, self.kind, self.current.from_ns, training=True)
            among = f"{len(windows)} windows of {self.held_out.recent_s:.3g} s of held-out training data"
            among += f" and {len(checks)} look{'s' * (len(checks) != 1)}"
            return self._compared(beside_training, windows + checks, among, scale, _FEWEST, known, LEAST_COUNT)
        if self.has_before or self.held_out is not None:
            return self.verdict(Finding.INSUFFICIENT, unknown, **known)
        return self.too_young()

    def _compared(
        self,
        found: "_Shifted | _Cost",
        past: Sequence[float],
        among: str,
        scale: Callable[[float], float],
        fewest: int,
        known: dict[str, Any],
        least: float = 0.0,
    ) -> DriftVerdict:
        measured = {"value": found.value, "null": tuple(past), "moved": found.moved, **known}
        if len(past) < fewest:
            why = f"{found}; {among}, {fewest} say what is usual"
            return self.verdict(Finding.INSUFFICIENT, why, **measured)
        null = np.array([scale(one) for one in past])
        p = p_value(scale(found.value), null)
        why = f"{found}; p = {p:.2g} among {among}"
        finding = Finding.DRIFT if p <= self.level else Finding.NO_DRIFT
        if finding is Finding.NO_DRIFT and (count := effective_count(null)) < least:
            finding = Finding.INSUFFICIENT
            why += f", which are worth {count:.1f} independent ones, fewer than {least:g}: only a large change is seen"
        return self.verdict(finding, why, p_value=p, **measured)

    def missing(self, what: str) -> DriftVerdict:
        """Say that there are too few rows, which in a version's or a session's first minutes there cannot but be."""
        why = f"{what} in {self.drift.recent_s:.4g} s, fewer than drift.minimum_rows = {self.drift.minimum_rows}"
        if self.current.served_ns > self.current.from_ns:
            served_s = (self.current.until_ns - self.current.served_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{why}; this version has served for {served_s:.0f} s only")
        if self.current.has_only_begun:
            opened_s = (self.current.until_ns - self.current.opened_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{why}; the session was opened {opened_s:.0f} s ago")
        return self.verdict(Finding.MISSING, why)

    def too_young(self) -> DriftVerdict:
        least, rows = self.drift.minimum_rows, self.reference_rows
        why = f"{rows} rows were answered by this version before, fewer than drift.minimum_rows = {least}"
        return self.verdict(Finding.INSUFFICIENT, why)

    def verdict(self, finding: Finding, reason: str, **measured: Any) -> DriftVerdict:
        before = self.current.answers_before
        return DriftVerdict.of(
            self.kind,
            finding,
            reason,
            level=self.level,
            reference=Window.of(np.empty(0, np.int64) if before is None else before.time_ns, self.reference_rows),
            recent=Window(self.current.from_ns, self.current.until_ns, self.recent_rows),
            **measured,
        )


def _count(answers: Answers | None) -> int:
    return 0 if answers is None else int(answered(answers).sum())
