"""What is usual: the past pairs that a present one is compared with, measured a few at a time."""

import math
import time
from typing import NamedTuple

from lobsmith.gates.drift.discriminator import fit_discriminator
from lobsmith.gates.drift.past import Measured, PastStore, past_key
from lobsmith.gates.drift.rows import RawRows
from lobsmith.gates.drift.scaling import Scaling
from lobsmith.gates.drift.windows import Lengths, Pair, past_pairs, rounded_gap
from lobsmith.params import DriftParams

_NS_PER_S = 1_000_000_000


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
    a version serves, hence the gap that will be needed by the time its pairs are measured is measured ahead.

    Args:
        history: in the order of time, finite.
        scaling: frozen with the model.
        store: takes what is measured.
        params: `drift`.
        gap_ns: between the present windows.
        until_ns: pairs end before.
        end: monotonic time at which measuring stops.
    """
    looks = math.ceil(params.past_pairs / params.pairs_a_look)
    later_ns = gap_ns + round(looks * params.look_s * _NS_PER_S)
    gaps = [rounded_gap(one, Lengths.of(params)) for one in (gap_ns, later_ns)]
    now, left = _of_gap(history, scaling, store, params, gaps[0], until_ns, params.pairs_a_look, end)
    if gaps[1] == gaps[0]:
        return now
    later, _ = _of_gap(history, scaling, store, params, gaps[1], until_ns, left, end)
    return later if len(now.pairs) < params.past_pairs <= len(later.pairs) else now


def _of_gap(
    history: RawRows,
    scaling: Scaling,
    store: PastStore,
    params: DriftParams,
    gap: int,
    until_ns: int,
    most: int,
    end: float,
) -> tuple[Usual, int]:
    """Return the measured pairs of one gap, and how many of `most` are left after measuring the missing ones."""
    lengths, key = Lengths.of(params), past_key(scaling, params)
    possible = [pair for pair in past_pairs(history, lengths, gap, until_ns) if _usual(store, pair.from_ns, lengths)]
    known = store.measured(key, gap)
    missing = [pair for pair in possible if pair.from_ns not in known][:most]
    store.add(_measured(missing, scaling, params, key, gap, end))
    pairs = [
        pair
        for pair in store.measured(key, gap).values()
        if pair.from_ns + lengths.recent <= until_ns and _usual(store, pair.from_ns, lengths)
    ]
    return Usual(gap, pairs, len(possible)), most - len(missing)


def _usual(store: PastStore, from_ns: int, lengths: Lengths) -> bool:
    return not store.drifted(from_ns, from_ns + lengths.recent)


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
