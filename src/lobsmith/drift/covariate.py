"""Covariate drift: do recent rows differ from the training window by more than past pairs of windows did.

Two statistics are ranked among past pairs: the AUC of a discriminator, and the largest feature shift against the same
feature's past. Slow features alone bring the AUC near 1, where a change of another feature adds nothing to it; the
second statistic sees it. The smaller p-value counts twice (Bonferroni).
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
    DriftedWindow,
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
"""Training windows and checks needed for a verdict."""
_S_PER_DAY = 86_400


class TrainingWindow(NamedTuple):
    """A version's training window: all of its rows, and the pairs measured within it at publication."""

    rows: RawRows
    measured: Sequence[MeasuredPair] = ()


def check_level(params: DriftParams, streams: int = 1) -> float:
    """Return the level of one kind of drift in one check of one stream, within the daily budget of false alarms."""
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
    training_window: TrainingWindow | None = None,
    names: tuple[str, ...] = NAMES,
) -> DriftVerdict:
    """Compare recent rows with the training window, and rank the result among past pairs of windows.

    Args:
        reference: rows of the training window; the newest `reference_s` count.
        recent: live rows; the newest `recent_s` count.
        history: all known rows of the stream in the order of time; past pairs end before the recent window.
        store: past pairs of this model and instrument; at most `pairs_a_look` are added.
        level: drift at or below this p-value; None takes `check_level`.
        gap_s: between the windows; None takes the time between them, which must then be parts of one stream.
        training_window: the null distribution while past pairs are too few, with `params` from `fitted`; None uses past
            pairs alone.

    Raises:
        DataContractError: rows are not finite, or have another number of features.
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
    discriminator = fit_discriminator(reference.raw, recent.raw, scaling, params.discriminator)
    until_ns = int(recent.time_ns[0])
    gap_ns = until_ns - int(reference.time_ns[-1]) if gap_s is None else round(gap_s * NS_PER_S)
    past = null_pairs(
        history,
        scaling,
        store,
        params,
        gap_ns=max(gap_ns, 0),
        until_ns=until_ns,
        end=end,
        all_or_none=training_window is not None,
    )
    null, least_count, among = past.pairs, 0.0, f"{len(past.pairs)} past pairs of windows"
    if training_window is not None and len(null) < params.past_pairs:
        training = training_pairs(
            training_window.rows,
            training_window.measured,
            scaling,
            store,
            params,
            until_ns=until_ns,
            end=end + params.discriminator.seconds,
        )
        null, least_count = training.pairs, LEAST_COUNT
        windows, checks = len(null) - training.checks, training.checks
        among = f"{windows} windows of {params.recent_s:.3g} s of the training data and {checks}"
        among += f" check{'s' * (checks != 1)}"
    aucs = tuple(pair.auc for pair in null)
    moved = feature_shifts(
        names, reference.raw, recent.raw, importance=discriminator.importance(params.discriminator.seed)
    )
    if len(aucs) < (params.past_pairs if not least_count else _FEWEST):
        reason = f"{len(aucs)} past pairs of windows {past.gap * params.recent_s:g} s apart are measured"
        reason += f", {params.past_pairs} are needed, {past.possible} are in the history"
        if least_count:
            reason = f"{among} are known, {_FEWEST} are needed"
        return verdict(
            Finding.INSUFFICIENT,
            reason,
            value=discriminator.auc,
            null=aucs,
            moved=_ordered(moved, discriminator.distances),
        )
    angles = np.array([angle(auc) for auc in aucs])
    shifts = shift_test(discriminator.distances, np.array([pair.distances for pair in null]))
    p_auc = p_value(angle(discriminator.auc), angles)
    p = min(1.0, 2 * min(p_auc, shifts.p_value))
    reason = f"{_why(discriminator, aucs, p_auc, shifts, names)}; among {among}"
    finding = Finding.DRIFT if p <= level else Finding.NO_DRIFT
    if finding is Finding.DRIFT:
        store.add([DriftedWindow(from_ns=until_ns, until_ns=int(recent.time_ns[-1]) + 1)])
    elif training_window is not None and discriminator.finished:
        store.add([_measured(discriminator, until_ns, past_key(scaling, params))])
    if finding is Finding.NO_DRIFT and (count := effective_count(angles)) < least_count:
        finding = Finding.INSUFFICIENT
        reason += (
            f", which are worth {count:.1f} independent ones, fewer than {least_count:g}: only a large change is seen"
        )
    return verdict(
        finding, reason, value=discriminator.auc, p_value=p, null=aucs, moved=_ordered(moved, shifts.deviations)
    )


def _measured(discriminator: Discriminator, from_ns: int, key: str) -> MeasuredPair:
    distances = tuple(round(distance, 5) for distance in discriminator.distances.tolist())
    return MeasuredPair(key=key, gap=LEFT_OUT, from_ns=from_ns, auc=discriminator.auc, distances=distances)


def _why(
    discriminator: Discriminator, aucs: tuple[float, ...], p_auc: float, shifts: ShiftTest, names: tuple[str, ...]
) -> str:
    best = int(shifts.deviations.argmax())
    reason = f"AUC {discriminator.auc:.3f}, median {np.median(aucs):.3f} and maximum {max(aucs):.3f} of the null"
    reason += f" distribution: p = {p_auc:.2g}; {names[best]} has moved {shifts.deviations[best]:.1f} deviations more"
    reason += f" than in the past: p = {shifts.p_value:.2g}; the smaller counts twice"
    return reason if discriminator.finished else f"{reason}; the discriminator ran out of time"


def _ordered(moved: tuple[FeatureShift, ...], by: npt.NDArray[np.float64]) -> tuple[FeatureShift, ...]:
    return tuple(moved[at] for at in np.argsort(-by, kind="stable"))


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
