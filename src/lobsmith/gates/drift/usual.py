"""What is usual: the past pairs that a present one is compared with, measured a few at a time."""

import itertools
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

from lobsmith.gates.drift.discriminator import fit_discriminator
from lobsmith.gates.drift.past import Measured, PastStore, past_key
from lobsmith.gates.drift.rows import RawRows
from lobsmith.gates.drift.scaling import Scaling
from lobsmith.gates.drift.windows import Lengths, Pair, past_pairs, rounded_gap
from lobsmith.params import DriftParams

_NS_PER_S = 1_000_000_000
_MOST = 400
"""Pairs of a gap that are of use, the newest: ranks among them reach a quarter of a percent."""


class Usual(NamedTuple):
    """Measured pairs of one gap."""

    gap: int
    """In recent windows."""
    pairs: list[Measured]
    """In the order of time."""
    possible: int
    """Pairs that the history could give."""


def usual_pairs(
    history: RawRows,
    scaling: Scaling,
    store: PastStore,
    params: DriftParams,
    *,
    gap_ns: int,
    until_ns: int,
    end: float,
) -> Usual:
    """Return the measured pairs that the present one is to be compared with, after measuring some that are missing.

    They are of the least gap that is no shorter than the present one and has `past_pairs` of them. The gap grows while
    a version serves, hence pairs of the gap that will be needed by the time they are measured are measured ahead.
    What a look may measure beyond these makes the past longer.

    Args:
        history: in the order of time, finite.
        scaling: frozen with the model.
        store: takes what is measured.
        params: `drift`.
        gap_ns: between the present windows.
        until_ns: pairs end before.
        end: monotonic time at which measuring stops.
    """
    lengths, key = Lengths.of(params), past_key(scaling, params)
    looks = math.ceil(params.past_pairs / params.pairs_a_look)
    later_ns = gap_ns + round(looks * params.look_s * _NS_PER_S)
    now, later = rounded_gap(gap_ns, lengths), rounded_gap(later_ns, lengths)
    possible = {
        gap: list(itertools.islice(_usual_windows(history, lengths, gap, until_ns, store), _MOST))
        for gap in (now, later)
    }
    left = params.pairs_a_look
    for gap, wanted in ((now, params.past_pairs), (later, params.past_pairs), (now, _MOST)):
        known = store.measured(key, gap)
        missing = [pair for pair in possible[gap][:wanted] if pair.from_ns not in known][:left]
        left -= len(missing)
        store.add(_measured(missing, scaling, params, key, gap, end))
    found = {gap: _known(store, key, gap, until_ns, lengths) for gap in (now, later)}
    gap = later if len(found[now]) < params.past_pairs <= len(found[later]) else now
    return Usual(gap, found[gap], len(possible[gap]))


def _usual_windows(history: RawRows, lengths: Lengths, gap: int, until_ns: int, store: PastStore) -> Iterator[Pair]:
    return (
        pair
        for pair in past_pairs(history, lengths, gap, until_ns)
        if not store.drifted(pair.from_ns, pair.from_ns + lengths.recent)
    )


def _known(store: PastStore, key: str, gap: int, until_ns: int, lengths: Lengths) -> list[Measured]:
    pairs = [
        pair
        for pair in store.measured(key, gap).values()
        if pair.from_ns + lengths.recent <= until_ns and not store.drifted(pair.from_ns, pair.from_ns + lengths.recent)
    ]
    return pairs[-_MOST:]


def _measured(
    pairs: list[Pair], scaling: Scaling, params: DriftParams, key: str, gap: int, end: float
) -> list[Measured]:
    """Fit a discriminator to each pair; one that ran out of time is no measure of what is usual."""
    found = []
    for pair in pairs:
        left = end - time.monotonic()
        if left <= 0:
            break
        fitted = fit_discriminator(pair.reference.raw, pair.recent.raw, scaling, params.discriminator, seconds=left)
        if fitted.finished:
            distances = tuple(round(one, 5) for one in fitted.distances.tolist())
            found.append(Measured(key=key, gap=gap, from_ns=pair.from_ns, auc=fitted.auc, distances=distances))
    return found
