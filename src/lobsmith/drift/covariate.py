"""Covariate drift: do recent rows differ from those that the model has learnt from by more than is usual.

Two numbers are compared with what they were between past windows: the AUC of a discriminator, which sees features
together, and the move of the one feature that has moved most against its own past. Slow features alone let a
discriminator tell any two windows apart, and then a change of another feature adds nothing to its AUC; the second
number sees it. The smaller of the two p-values counts, twice (Bonferroni).
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.drift.discriminator import Discriminator, fit_discriminator
from lobsmith.drift.null_distribution import (
    LEAST_COUNT,
    LEFT_OUT,
    Drifted,
    MeasuredPair,
    PastStore,
    ShiftTest,
    angle,
    effective_count,
    null_pairs,
    p_value,
    past_key,
    shift_test,
)
from lobsmith.drift.reference import RawRows, Scaling
from lobsmith.drift.shifts import feature_shifts
from lobsmith.drift.training_null import training_pairs
from lobsmith.drift.verdict import DriftVerdict, FeatureShift, Finding, Kind, Window
from lobsmith.drift.windows import Lengths, covered, enough
from lobsmith.errors import DataContractError
from lobsmith.features.definitions import NAMES
from lobsmith.params import DriftParams
from lobsmith.units import NS_PER_S

_KINDS = len(Kind)
_FEWEST = 10
"""Windows of the training data and looks before anything can be said."""
_S_PER_DAY = 86_400


class Learnt(NamedTuple):
    """What a version brings along to be told from: all rows of its training window, and what is usual within them."""

    rows: RawRows
    measured: Sequence[MeasuredPair] = ()


def check_level(params: DriftParams, streams: int = 1) -> float:
    """Return the level of one kind of drift in one look at one of the streams, so that a day's keep to the budget."""
    return min(params.false_alarms_a_day * params.look_s / _S_PER_DAY / _KINDS / max(streams, 1), 0.5)


def check_covariate_drift(
    reference: RawRows,
    recent: RawRows,
    history: RawRows,
    scaling: Scaling,
    store: PastStore,
    params: DriftParams,
    *,
    level: float | None = None,
    gap_s: float | None = None,
    learnt: Learnt | None = None,
    names: tuple[str, ...] = NAMES,
) -> DriftVerdict:
    """Tell recent rows from those of the training window, and compare how well that goes with past pairs of windows.

    Args:
        reference: rows of the training window; the newest `reference_s` count.
        recent: live rows; the newest `recent_s` count.
        history: all rows that are known of this stream, training window and live rows, in the order of time; pairs are
            of those before the recent window.
        scaling: constants frozen with the model.
        store: past pairs of this model and instrument; at most `pairs_a_look` are added.
        params: `drift`.
        level: drift from this p-value down; None takes `check_level`.
        gap_s: between the two windows; None takes the time between them. For windows that are no earlier and later
            part of one stream.
        learnt: as long as too few past pairs are as far apart as the two windows, windows of the training data, each
            beside the rest of them, say what is usual; None leaves that to past pairs. Parameters are `fitted` to it.
        names: of the features.

    Raises:
        DataContractError: rows hold numbers that are not finite, or another number of features.
    """
    level = check_level(params) if level is None else level
    lengths = Lengths.of(params)
    reference, recent = reference.newest(lengths.reference), recent.newest(lengths.recent)
    for what, rows in (("reference", reference), ("recent", recent), ("history", history)):
        _check(rows, what, scaling, names)
    old, new = Window.of(reference.time_ns), Window.of(recent.time_ns)
    verdict = partial(DriftVerdict.of, Kind.COVARIATE, level=level, reference=old, recent=new)
    if not enough(reference, lengths.reference, lengths.minimum_rows):
        return verdict(Finding.INSUFFICIENT, _too_few("reference", reference, lengths.reference, lengths))
    if not enough(recent, lengths.recent, lengths.minimum_rows):
        return verdict(Finding.MISSING, _too_few("recent", recent, lengths.recent, lengths))
    end = time.monotonic() + params.discriminator.seconds
    fitted = fit_discriminator(reference.raw, recent.raw, scaling, params.discriminator)
    until = int(recent.time_ns[0])
    between = until - int(reference.time_ns[-1]) if gap_s is None else round(gap_s * NS_PER_S)
    past = null_pairs(
        history,
        scaling,
        store,
        params,
        gap_ns=max(between, 0),
        until_ns=until,
        end=end,
        all_or_none=learnt is not None,
    )
    pairs, least, rests_on = past.pairs, 0.0, f"{len(past.pairs)} past pairs of windows"
    if learnt is not None and len(pairs) < params.past_pairs:
        first = training_pairs(
            learnt.rows, learnt.measured, scaling, store, params, until_ns=until, end=end + params.discriminator.seconds
        )
        pairs, least = first.pairs, LEAST_COUNT
        rests_on = _rests_on(len(pairs) - first.checks, first.checks, params.recent_s)
    aucs = tuple(pair.auc for pair in pairs)
    shown = feature_shifts(names, reference.raw, recent.raw, importance=fitted.importance(params.discriminator.seed))
    if len(aucs) < (params.past_pairs if not least else _FEWEST):
        reason = f"{len(aucs)} past pairs of windows {past.gap * params.recent_s:g} s apart are measured"
        reason += f", {params.past_pairs} are needed, {past.possible} are in the history"
        if least:
            reason = f"{rests_on} say what is usual, {_FEWEST} are needed"
        return verdict(
            Finding.INSUFFICIENT, reason, value=fitted.auc, null=aucs, moved=_ordered(shown, fitted.distances)
        )
    angles = np.array([angle(auc) for auc in aucs])
    unusual = shift_test(fitted.distances, np.array([pair.distances for pair in pairs]))
    p_auc = p_value(angle(fitted.auc), angles)
    p = min(1.0, 2 * min(p_auc, unusual.p_value))
    reason = f"{_why(fitted, aucs, p_auc, unusual, names)}; among {rests_on}"
    finding = Finding.DRIFT if p <= level else Finding.NO_DRIFT
    if finding is Finding.DRIFT:
        store.add([Drifted(from_ns=until, until_ns=int(recent.time_ns[-1]) + 1)])
    elif learnt is not None and fitted.finished:
        store.add([_measured(fitted, until, past_key(scaling, params))])
    if finding is Finding.NO_DRIFT and (count := effective_count(angles)) < least:
        finding = Finding.INSUFFICIENT
        reason += f", which are worth {count:.1f} independent ones, fewer than {least:g}: only a large change is seen"
    return verdict(finding, reason, value=fitted.auc, p_value=p, null=aucs, moved=_ordered(shown, unusual.deviations))


def _rests_on(windows: int, checks: int, recent_s: float) -> str:
    return f"{windows} windows of {recent_s:.3g} s of the training data and {checks} look{'s' * (checks != 1)}"


def _measured(fitted: Discriminator, from_ns: int, key: str) -> MeasuredPair:
    distances = tuple(round(one, 5) for one in fitted.distances.tolist())
    return MeasuredPair(key=key, gap=LEFT_OUT, from_ns=from_ns, auc=fitted.auc, distances=distances)


def _why(
    fitted: Discriminator, aucs: tuple[float, ...], p_auc: float, unusual: ShiftTest, names: tuple[str, ...]
) -> str:
    best = int(unusual.deviations.argmax())
    reason = f"AUC {fitted.auc:.3f}, {np.median(aucs):.3f} is usual and {max(aucs):.3f} the most of the past: p ="
    reason += f" {p_auc:.2g}; {names[best]} has moved {unusual.deviations[best]:.1f} deviations more than it usually"
    reason += f" does: p = {unusual.p_value:.2g}; the smaller counts twice"
    return reason if fitted.finished else f"{reason}; the discriminator ran out of time"


def _ordered(shown: tuple[FeatureShift, ...], by: npt.NDArray[np.float64]) -> tuple[FeatureShift, ...]:
    return tuple(shown[at] for at in np.argsort(-by, kind="stable"))


def _check(rows: RawRows, what: str, scaling: Scaling, names: tuple[str, ...]) -> None:
    if rows.raw.ndim != 2 or rows.raw.shape[1] != len(scaling.centre) or len(names) != len(scaling.centre):
        raise DataContractError(
            f"drift: {what} rows are {rows.raw.shape}, the scaling is of {len(scaling.centre)} features and"
            f" {len(names)} are named; take the reference of the same version"
        )
    finite = np.isfinite(rows.raw)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise DataContractError(
            f"drift: {int((~finite).sum())} numbers of the {what} rows are not finite, the first is"
            f" {names[column]} at {int(rows.time_ns[row])} ns; leave incomplete rows out"
        )


def _too_few(what: str, rows: RawRows, length_ns: int, lengths: Lengths) -> str:
    return (
        f"{len(rows)} {what} rows cover {covered(rows) / NS_PER_S:.0f} of {length_ns / NS_PER_S:.0f} s,"
        f" at least {lengths.minimum_rows} rows over four fifths of it are needed"
    )
