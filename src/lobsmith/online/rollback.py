"""Rollback gate: should the active version be taken back?

A paired test checks whether the active version is worse than its fallback on the same rows. Limits on its newest rows
act at once; a limit that the fallback breaks too is only an alarm, its cause is the market or the machine. So a version
that takes the whole server down is not rolled back by unanswered rows while its fallback is unanswered too.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lobsmith.online.answers import Answers, Compared
from lobsmith.online.blocks import BlockRule
from lobsmith.online.e_values import Evidence
from lobsmith.online.evidence import (
    KEEP,
    ROLL_BACK,
    LiveVerdict,
    answered,
    compare_latency,
    compared_blocks,
    difference_text,
    e_value_text,
    losses,
    summarise,
    unanswered,
    weigh_blocks,
)
from lobsmith.params import PairedParams, RollbackParams
from lobsmith.units import NS_PER_MS, NS_PER_S

GATE = "rollback"
_CONSTANT = 1e-6
"""Largest spread of a probability, over `rollback.rows` answers, that counts as none."""
_SUM = 1e-2
"""Tolerance of the sum of probabilities: half precision reaches 1e-3."""
_PROBES = 100
UNANSWERED, MALFORMED, CONSTANT, SATURATED, SLOW, FLOOR = (
    "unanswered",
    "malformed",
    "constant",
    "saturated",
    "latency",
    "accuracy",
)
"""Names of the limits."""


def evaluate_rollback(
    compared: Compared,
    params: RollbackParams,
    paired: PairedParams,
    *,
    alone: Answers | None = None,
    epoch: int = 1,
    rule: BlockRule | None = None,
) -> LiveVerdict:
    """Compare the active version, `second`, with its fallback, `first`.

    Args:
        compared: rows put to both, in the order of time, from the beginning of the epoch.
        params: limits.
        paired: how losses are compared.
        alone: all rows of the active version, for the limits, as the fallback may get few of them; None takes those of
            `compared`.
        epoch: see `epoch_at`.
        rule: length of blocks; None measures it on the first rows.

    Raises:
        GateError: the answers are not to the same rows, or not in the order of time.
    """
    # The hypothesis that is bet on: worse by more than the margin.
    blocks, counted = compared_blocks(compared, paired, rule, margin=params.margin)
    fallback, active = compared.first, compared.second
    evidence = weigh_blocks(blocks, paired.clip, params.alpha)
    threshold = epoch * (epoch + 1) / params.alpha
    broken, alarms = _limits(compared, active if alone is None else alone, params)
    decision = (ROLL_BACK, "; ".join(broken)) if broken else _by_losses(evidence, threshold, params)
    return summarise(
        GATE,
        decision,
        first=fallback,
        second=active,
        rows=len(active.time_ns),
        compared=counted,
        blocks=blocks,
        evidence=_shifted(evidence, -params.margin),
        threshold=threshold,
        latency=compare_latency(compared.first_probe_ns, compared.second_probe_ns),
        alarms=tuple(alarms),
    )


def epoch_at(promoted_ns: int, now_ns: int, watch_s: float) -> tuple[int, int]:
    """Return the epoch of a moment, from 1, and when it began, ns UTC.

    Evidence is counted anew in each epoch, so that a good past need not be outweighed first. Epoch j has alpha / (j (j
    + 1)) of the probability of a false alarm: together alpha, for ever.
    """
    length = round(watch_s * NS_PER_S)
    past = max(now_ns - promoted_ns, 0) // length
    return past + 1, promoted_ns + past * length


def without_fallback(active: Answers) -> Compared:
    """Return a version's answers beside an unanswering fallback: only the limits on the version itself apply."""
    unanswering = replace(active, version=0, probabilities=np.full_like(active.probabilities, np.nan), reasons={})
    none = np.empty(0, np.int64)
    return Compared(first=unanswering, second=active, first_probe_ns=none, second_probe_ns=none)


def _shifted(evidence: Evidence, by: float) -> Evidence:
    def shift(value: float | None) -> float | None:
        return None if value is None else value + by

    return evidence._replace(
        mean=shift(evidence.mean), location=shift(evidence.location), low=shift(evidence.low), high=shift(evidence.high)
    )


def _by_losses(evidence: Evidence, threshold: float, params: RollbackParams) -> tuple[str, str]:
    if evidence.mean is None or evidence.location is None:
        return KEEP, "no limit is broken; nothing to compare with the fallback yet"
    summary = difference_text(_shifted(evidence, -params.margin))
    summary += f" beside the fallback, e-value {e_value_text(evidence.worse)} of {threshold:g}"
    if evidence.blocks >= params.minimum_blocks and evidence.worse >= threshold and evidence.mean < 0:
        return ROLL_BACK, f"its log-loss is worse than the fallback's: {summary}"
    return KEEP, f"no limit is broken: {summary}"


def _limits(compared: Compared, active: Answers, params: RollbackParams) -> tuple[list[str], list[str]]:
    """Return the messages of the limits that the active version breaks, and of alarms."""
    if not len(active.time_ns):
        return [], ["there are no rows: nothing is known of it"]
    until_ns = int(active.time_ns[-1])
    newest = _newest(active, until_ns, params)
    fallback, newest_shared = (_newest(answers, until_ns, params) for answers in (compared.first, compared.second))
    if len(newest.time_ns) < params.rows:
        if until_ns - int(active.time_ns[0]) < params.window_s * NS_PER_S:
            # Less than a window since the version, or the epoch, began: few rows are expected.
            return [], []
        return [], [f"only {len(newest.time_ns)} rows in the last {params.window_s:g} s: nothing is known of it"]
    broken_limits = _broken_limits(newest, params)
    excused = _broken_limits(fallback, params) if len(fallback.time_ns) and answered(compared.first).any() else {}
    if len(compared.first_probe_ns) >= _PROBES and _p99_ms(compared.first_probe_ns) > params.latency_p99_ms:
        excused[SLOW] = ""
    else:
        # Its rows are requested in chunks; their latencies are not those of single rows.
        excused.pop(SLOW, None)
    floor, shared = _below_floor(newest, fallback, newest_shared, params)
    if floor:
        broken_limits[FLOOR] = floor
    if shared:
        excused[FLOOR] = ""
    broken = [text for name, text in broken_limits.items() if name not in excused]
    return broken, [f"{text}; the fallback does so too" for name, text in broken_limits.items() if name in excused]


def _newest(answers: Answers, until_ns: int, params: RollbackParams) -> Answers:
    """Return the rows of the last window, counted in rows as well as in time: a clock may have been set back."""
    older = np.flatnonzero(answers.time_ns <= until_ns - round(params.window_s * NS_PER_S))
    return answers.at(slice(int(older[-1]) + 1 if len(older) else 0, None))


def _broken_limits(answers: Answers, params: RollbackParams) -> dict[str, str]:
    """Return a message for each limit that a version breaks by itself."""
    broken = {}
    p, answered_rows = answers.probabilities, answered(answers)
    silent = unanswered(answers) or 0.0
    if silent > params.unanswered:
        broken[UNANSWERED] = f"{silent:.2%} of the rows are unanswered, limit {params.unanswered:.2%}"
    wrong = float(_malformed(p, answered_rows).mean())
    if wrong > params.malformed:
        broken[MALFORMED] = f"{wrong:.2%} of the answers are no probabilities, limit {params.malformed:.2%}"
    if answered_rows.sum() < params.rows:
        return broken
    given = p[answered_rows]
    still = np.ptp(given[-params.rows :], axis=0).max(axis=1) <= _CONSTANT
    if still.any():
        broken[CONSTANT] = f"its answers at {answers.horizons_ms[int(np.argmax(still))]} ms never change"
    full = float((given.max(axis=2) >= params.saturated_at).mean(axis=0).max())
    if full > params.saturated:
        broken[SATURATED] = f"{full:.2%} of its answers are saturated, limit {params.saturated:.2%}"
    slowest = _p99_ms(answers.latency_ns[answered_rows])
    if slowest > params.latency_p99_ms:
        broken[SLOW] = f"its p99 latency is {slowest:.3g} ms, limit {params.latency_p99_ms:g} ms"
    return broken


def _malformed(p: npt.NDArray[np.float32], answered_rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mask the rows answered with something else than probabilities, bool [N]; all NaN is no answer."""
    broken = ~np.isnan(p).all(axis=(1, 2)) & ~answered_rows
    inside = ((p >= 0) & (p <= 1)).all(axis=(1, 2)) & (np.abs(p.sum(axis=2) - 1) <= _SUM).all(axis=1)
    return np.asarray(broken | (answered_rows & ~inside), bool)


def _p99_ms(latency_ns: npt.NDArray[np.int64]) -> float:
    return float(np.percentile(latency_ns, 99)) / NS_PER_MS


def _below_floor(
    newest: Answers, fallback: Answers, newest_shared: Answers, params: RollbackParams
) -> tuple[str | None, bool]:
    """Return a message if the log-loss at the first horizon is far above the base rate's, and whether the fallback
    shares it.

    The base rate is that of the very rows, in hindsight, at least `least_base`. The fallback shares it where the loss
    is not as far above its own on the rows that both answered. `newest_shared` are the version's answers to the rows of
    `fallback`.
    """
    loss, known = losses(newest, [0])
    if known.sum() < params.rows:
        return None, False
    y = newest.labels[known, 0].astype(np.int64)
    shares = np.bincount(y, minlength=3) / len(y)
    bar = max(float(-np.log(shares[y]).mean()), params.least_base)
    value = float(loss[known].mean())
    if value <= params.floor * bar:
        return None, False
    (own_loss, own_known), (fallback_loss, fallback_known) = losses(newest_shared, [0]), losses(fallback, [0])
    pairs = own_known & fallback_known
    shared = pairs.sum() >= params.rows and own_loss[pairs].mean() <= params.floor * fallback_loss[pairs].mean()
    return f"its log-loss of {value:.4g} is more than {params.floor:g} times the base rate's {bar:.4g}", bool(shared)
