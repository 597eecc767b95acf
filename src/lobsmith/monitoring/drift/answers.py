"""Prediction drift and concept drift: a version's newest answers beside those of past checks.

While checks are few: beside its answers to held-out rows of the training window, among windows of these and the checks.
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
"""Least shift of answers, for its logarithm."""
_FEWEST = 10
"""Held-out windows and checks needed for a verdict."""
_LATE = 0.1
"""Share of their rows that two checks may have in common: schedules are late."""


def past_statistics(checks: Sequence[PastCheck], kind: Kind, before_ns: int, *, training: bool = False) -> list[float]:
    """Return the statistics of past checks of one kind, in the order of time, over rows without overlap, none with
    drift.

    Args:
        checks: of one version's answers for one instrument, in the order of time.
        before_ns: start of the rows to be judged.
        training: take the statistics beside the training window instead of those beside earlier answers.
    """
    values = []
    for check in reversed(checks):
        verdict = check.of(kind)
        if verdict is None or verdict.finding is Finding.DRIFT:
            continue
        value = verdict.beside_training if training else verdict.value
        if value is None or value is UNSET:
            continue
        if verdict.recent_until_ns is None or verdict.recent_from_ns is None:
            continue
        if verdict.recent_until_ns - before_ns > _LATE * (verdict.recent_until_ns - verdict.recent_from_ns):
            continue
        values.append(value)
        before_ns = verdict.recent_from_ns
    return values[::-1]


def prediction_drift(
    current: CurrentWindow,
    before: Sequence[PastCheck],
    drift: DriftParams,
    level: float,
    held_out: HeldOut | None = None,
) -> DriftVerdict:
    """Rank the shift of a version's newest answers from those before among past checks.

    Args:
        current: its answers.
        before: past checks of the version's answers for the stream.
        drift: windows and counts.
        level: drift at or below this p-value.
        held_out: published with the version.
    """
    kind_check = _KindCheck(Kind.PREDICTION, current, before, drift, level, held_out)
    if current.answers_now is None or kind_check.recent_rows < drift.minimum_rows:
        return kind_check.missing(f"{kind_check.recent_rows} rows were answered")
    beside_before = beside_training = None
    if kind_check.has_before and current.answers_before is not None:
        beside_before = _Shift(*shift_of_answers(current.answers_before, current.answers_now))
    if held_out is not None and (newest := kind_check.newest(held_out)) is not None:
        beside_training = _Shift(*held_out.shift(newest))
    return kind_check.judged(
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
    """Rank the excess loss of a version's newest answers among past checks, and take a rollback verdict as drift.

    Args:
        current: its answers, with outcomes.
        before: past checks of the version's answers for the stream.
        level: drift at or below this p-value.
        beside: verdict on the same rows beside the fallback; None where nothing was compared.
        held_out: published with the version.
    """
    kind_check = _KindCheck(Kind.CONCEPT, current, before, params.drift, level, held_out)
    if beside is not None and beside.decision == ROLL_BACK:
        return kind_check.verdict(Finding.DRIFT, f"beside its fallback: {beside.reason}")
    if current.answers_now is None or kind_check.recent_rows < params.drift.minimum_rows:
        return kind_check.missing(f"{kind_check.recent_rows} rows were answered")
    beside_before = beside_training = None
    if kind_check.has_before and current.answers_before is not None:
        excess = excess_loss(current.answers_before, current.answers_now, params.paired.longest_ms)
        if excess is not None and excess[1] < params.drift.minimum_rows:
            return kind_check.missing(f"outcomes of {excess[1]} rows are known")
        beside_before = None if excess is None else _ExcessLoss(excess[0])
    if held_out is not None and (newest := kind_check.newest(held_out)) is not None:
        excess = held_out.loss(newest)
        enough = excess is not None and excess[1] >= held_out.minimum_rows
        beside_training = _ExcessLoss(excess[0]) if excess is not None and enough else None
    unknown = "no outcomes are known of the rows before, or of the newest ones"
    return kind_check.judged(beside_before, beside_training, lambda window: window.loss, unknown=unknown)


class _Shift(NamedTuple):
    """Shift of the answers, and of each quantity."""

    value: float
    moved: tuple[FeatureShift, ...]

    def __str__(self) -> str:
        return f"answers have moved by {self.value:.3g} deviations on average, most of all {self.moved[0].name}"


class _ExcessLoss(NamedTuple):
    """Excess loss of a row over direction frequencies, nats."""

    value: float
    moved: tuple[FeatureShift, ...] = ()

    def __str__(self) -> str:
        return f"a row costs {self.value:+.4f} nats beside the frequencies"


class _KindCheck(NamedTuple):
    """Shared by all verdicts of one check on one kind."""

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
        """Return the newest answers, of a held-out window's length; None where too few."""
        if self.current.answers_now is None:
            return None
        newest = held_out.newest(self.current.answers_now, self.current.until_ns)
        return newest if _count(newest) >= held_out.minimum_rows else None

    def judged(
        self,
        beside_before: "_Shift | _ExcessLoss | None",
        beside_training: "_Shift | _ExcessLoss | None",
        of_window: Callable[[AnswersWindow], float | None],
        *,
        unknown: str,
        scale: Callable[[float], float] = float,
    ) -> DriftVerdict:
        """Rank a statistic among past checks, or where these are few among held-out windows.

        Args:
            beside_before: of the newest answers and those before; None where unknown.
            beside_training: of the newest answers and those to held-out rows.
            of_window: the latter of a held-out window.
            unknown: reason where both are None.
            scale: on which past values are roughly Gaussian.
        """
        past = past_statistics(self.before, self.kind, self.current.from_ns)
        known: dict[str, Any] = {}
        if beside_training is not None:
            known["beside_training"] = beside_training.value
            known["beside_before"] = UNSET if beside_before is None else beside_before.value
        if beside_before is not None and (len(past) >= self.drift.past_pairs or beside_training is None):
            return self._compared(
                beside_before, past, f"{len(past)} checks before", scale, self.drift.past_pairs, known
            )
        if beside_training is not None and self.held_out is not None:
            windows = [value for window in self.held_out.windows if (value := of_window(window)) is not None]
            checks = past_statistics(self.before, self.kind, self.current.from_ns, training=True)
            among = f"{len(windows)} windows of {self.held_out.recent_s:.3g} s of held-out training data"
            among += f" and {len(checks)} check{'s' * (len(checks) != 1)}"
            return self._compared(beside_training, windows + checks, among, scale, _FEWEST, known, LEAST_COUNT)
        if self.has_before or self.held_out is not None:
            return self.verdict(Finding.INSUFFICIENT, unknown, **known)
        return self.too_young()

    def _compared(
        self,
        statistic: "_Shift | _ExcessLoss",
        past: Sequence[float],
        among: str,
        scale: Callable[[float], float],
        fewest: int,
        known: dict[str, Any],
        least: float = 0.0,
    ) -> DriftVerdict:
        measured = {"value": statistic.value, "null": tuple(past), "moved": statistic.moved, **known}
        if len(past) < fewest:
            reason = f"{statistic}; {among}, {fewest} are needed"
            return self.verdict(Finding.INSUFFICIENT, reason, **measured)
        null = np.array([scale(value) for value in past])
        p = p_value(scale(statistic.value), null)
        reason = f"{statistic}; p = {p:.2g} among {among}"
        finding = Finding.DRIFT if p <= self.level else Finding.NO_DRIFT
        if finding is Finding.NO_DRIFT and (count := effective_count(null)) < least:
            finding = Finding.INSUFFICIENT
            reason += (
                f", which are worth {count:.1f} independent ones, fewer than {least:g}: only a large change is seen"
            )
        return self.verdict(finding, reason, p_value=p, **measured)

    def missing(self, rows: str) -> DriftVerdict:
        """Return the verdict on too few rows: insufficient history in a version's or session's first minutes."""
        reason = f"{rows} in {self.drift.recent_s:.4g} s, fewer than drift.minimum_rows = {self.drift.minimum_rows}"
        if self.current.served_ns > self.current.from_ns:
            served_s = (self.current.until_ns - self.current.served_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{reason}; this version has served for {served_s:.0f} s only")
        if self.current.has_only_begun:
            opened_s = (self.current.until_ns - self.current.opened_ns) / NS_PER_S
            return self.verdict(Finding.INSUFFICIENT, f"{reason}; the session was opened {opened_s:.0f} s ago")
        return self.verdict(Finding.MISSING, reason)

    def too_young(self) -> DriftVerdict:
        least, rows = self.drift.minimum_rows, self.reference_rows
        reason = f"{rows} rows were answered by this version before, fewer than drift.minimum_rows = {least}"
        return self.verdict(Finding.INSUFFICIENT, reason)

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
