"""A/B test: the candidate answers a share of the blocks of time, production the rest.

A hash draws the version of a block, independently of the market. With the share s, a block's loss l and a baseline b
known before the block, the difference

    D = -(l - b) / s        where the candidate answered,
    D = (l - b) / (1 - s)   where production did,

has the mean of production's less the candidate's loss, whatever b (inverse probability weighting; Horvitz & Thompson
1952); its variance falls with |l - b|, which is clipped before it is weighted. Equal versions give differences of mean
0 given all before, by the draw alone, however losses depend on each other.
"""

import functools
import hashlib
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.errors import GateError
from lobsmith.online.answers import Answers
from lobsmith.online.blocks import BlockRule, Blocks
from lobsmith.online.e_values import predictable_bounds, weigh
from lobsmith.online.evidence import (
    LiveVerdict,
    answered,
    check_order,
    compare_latency,
    compared_horizons,
    losses,
    summarise,
    too_slow,
    unanswered,
)
from lobsmith.online.shadow import decide, too_silent
from lobsmith.params import PairedParams, ShadowParams
from lobsmith.units import NS_PER_S

GATE = "split test"
_MISSED = "answered by production"
"""Reason of a row that was drawn for the candidate and that it did not answer."""
_BASELINE = 10
"""Blocks before, of which the baseline is the mean loss."""

Float = npt.NDArray[np.float64]


def arm(symbol: str, time_ns: int, *, block_s: float, share: float, salt: str) -> bool:
    """Return whether the candidate answers a row; the same for all rows of a symbol and block of time, on every
    machine.

    Args:
        symbol: of the row.
        time_ns: local receive time, UTC.
        block_s: length of the blocks, which begin with the epoch.
        share: of blocks that the candidate answers.
        salt: seeds the draw.
    """
    return _drawn(symbol, time_ns // round(block_s * NS_PER_S), salt) < share


@functools.lru_cache(maxsize=1024)
def _drawn(symbol: str, block: int, salt: str) -> float:
    """Return a number in [0, 1), uniform over blocks."""
    text = f"{len(salt)}:{salt}{len(symbol)}:{symbol}{block}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


def by_draw(first: Answers, second: Answers, symbol: str, params: ShadowParams) -> tuple[Answers, Answers]:
    """Assign rows to the version that they were drawn for; rows that production answered for the candidate become
    unanswered.

    Rows before the candidate's first answer are left out.

    Args:
        first: rows put to production by clients that split their traffic.
        second: rows that the candidate answered, at least one.
        symbol: of these rows.
        params: as given to `arm`.

    Raises:
        GateError: the candidate answered rows that were not drawn for it.
    """
    if not _drawn_for_second(second.time_ns, symbol, params).all():
        raise GateError(
            f"{second.model} {second.version} answered {symbol} in blocks of time that were not drawn for it; give "
            "shadow.share, shadow.arm_s and shadow.salt the values that its clients have, or publish it anew"
        )
    for_second = _drawn_for_second(first.time_ns, symbol, params)
    missed = np.flatnonzero(for_second & (first.time_ns >= second.time_ns.min()))
    unanswered_rows = np.full((len(missed), *second.probabilities.shape[1:]), np.nan, np.float32)
    return first.at(np.flatnonzero(~for_second)), replace(
        second,
        time_ns=np.concatenate([second.time_ns, first.time_ns[missed]]),
        segment=np.concatenate([second.segment, first.segment[missed] + second.segment.max() + 1]),
        labels=np.concatenate([second.labels, first.labels[missed]]),
        probabilities=np.concatenate([second.probabilities, unanswered_rows]),
        latency_ns=np.concatenate([second.latency_ns, first.latency_ns[missed]]),
        reasons=second.reasons | ({_MISSED: len(missed)} if len(missed) else {}),
    )


def _drawn_for_second(time_ns: npt.NDArray[np.int64], symbol: str, params: ShadowParams) -> npt.NDArray[np.bool_]:
    blocks, place = np.unique(time_ns // round(params.arm_s * NS_PER_S), return_inverse=True)
    drawn = [_drawn(symbol, block, params.salt) < params.share for block in blocks.tolist()]
    return np.array(drawn, bool)[place]


def evaluate_ab(first: Answers, second: Answers, params: ShadowParams, paired: PairedParams) -> LiveVerdict:
    """Compare the blocks of the candidate, `second`, with those of production, `first`; all rows of one instrument.

    Blocks in which both have rows are left out.

    Args:
        first, second: rows drawn for either.
        params: limits, and `arm_s` and `share` as given to `arm`.
        paired: how losses are compared; `measure_s` of traffic only set the first baseline and bounds.

    Raises:
        GateError: no share was drawn, horizons differ, or rows are not in the order of time.
    """
    if not params.share:
        raise GateError("shadow.share is 0: no traffic was split; set the share that the candidate answered")
    if first.horizons_ms != second.horizons_ms:
        raise GateError(f"{second.model} {second.version} has other horizons than {first.model} {first.version}")
    for answers in (first, second):
        check_order(answers)
    horizons = compared_horizons(first.horizons_ms, paired.longest_ms)
    (loss_first, known_first), (loss_second, known_second) = losses(first, horizons), losses(second, horizons)
    split = split_blocks(
        np.concatenate([loss_first[known_first], loss_second[known_second]]),
        np.concatenate([first.time_ns[known_first], second.time_ns[known_second]]),
        np.repeat([False, True], [int(known_first.sum()), int(known_second.sum())]),
        params,
        paired,
    )
    arms = np.concatenate([first.time_ns, second.time_ns]) // round(params.arm_s * NS_PER_S)
    watched_s = len(np.unique(arms)) * params.arm_s
    blocks = Blocks(split.rule, split.differences, split.left_out, watched_s, None)
    evidence = weigh(split.differences, split.bounds, params.alpha)
    if evidence.blocks:
        evidence = evidence._replace(mean=split.mean)
    latencies = first.latency_ns[answered(first)], second.latency_ns[answered(second)]
    few = min(map(len, latencies)) < params.probes
    slow = None
    if params.probes and not few:
        slow = too_slow(*latencies, {0.5: params.latency_p50, 0.99: params.latency_p99})
    rows = min(len(first.time_ns), len(second.time_ns))
    silent = too_silent(unanswered(first), unanswered(second), rows, params)
    return summarise(
        GATE,
        decide(evidence, blocks, params, broken=silent or slow, few_probes=few),
        first=first,
        second=second,
        rows=len(first.time_ns) + len(second.time_ns),
        compared=int(known_first.sum() + known_second.sum()),
        blocks=blocks,
        evidence=evidence,
        threshold=1 / params.alpha,
        latency=compare_latency(*latencies),
    )


class SplitBlocks(NamedTuple):
    """Blocks of split traffic.

    Attributes:
        rule: None with too few blocks for a first baseline and bound.
        differences: float64 [K], weighted and clipped, of mean 0 under equal versions.
        bounds: float64 [K], limits of the differences.
        mean: of the unclipped differences.
        left_out: blocks with too few rows, or with rows of both.
    """

    rule: BlockRule | None
    differences: Float
    bounds: Float
    mean: float
    left_out: int


def split_blocks(
    loss: Float,
    time_ns: npt.NDArray[np.int64],
    candidate: npt.NDArray[np.bool_],
    params: ShadowParams,
    paired: PairedParams,
) -> SplitBlocks:
    """Cut rows into the blocks that arms were drawn for, and weigh their mean losses.

    Args:
        loss: float64 [N], of the version that the row was drawn for.
        time_ns: int64 [N], in any order.
        candidate: bool [N], whether that was the candidate.
        params: `share` and `arm_s`.
        paired: `measure_s`, `block_rows` and `clip`.
    """
    mean, arms, block, left_out = _blocks(loss, time_ns, candidate, params.arm_s, paired.block_rows)
    residual = mean - _baseline(mean)
    # The first block has no baseline.
    start = max(1, int(np.searchsorted(block - block[:1], paired.measure_s / params.arm_s))) if len(block) else 0
    if start >= len(block):
        return SplitBlocks(None, residual[:0], residual[:0], 0.0, left_out)
    measured, tested = residual[1:start], residual[start:]
    bounds = predictable_bounds(tested, measured, paired.clip)
    weight = np.where(arms[start:], -1 / params.share, 1 / (1 - params.share))
    return SplitBlocks(
        rule=BlockRule(params.arm_s, 0.0, measured),
        differences=np.clip(tested, -bounds, bounds) * weight,
        bounds=bounds * max(1 / params.share, 1 / (1 - params.share)),
        mean=float((tested * weight).mean()),
        left_out=left_out,
    )


def _blocks(
    loss: Float, time_ns: npt.NDArray[np.int64], candidate: npt.NDArray[np.bool_], arm_s: float, least: int
) -> tuple[Float, npt.NDArray[np.bool_], npt.NDArray[np.int64], int]:
    """Return complete blocks' mean losses, whether the candidate answered, and numbers; and how many were left out."""
    number, place = np.unique(time_ns // round(arm_s * NS_PER_S), return_inverse=True)
    rows = np.bincount(place, minlength=len(number))
    by_candidate = np.bincount(place, candidate.astype(np.float64), len(number))
    pure = (by_candidate == 0) | (by_candidate == rows)
    # The newest block may still get rows.
    complete = np.arange(len(number)) < len(number) - 1
    good = complete & pure & (rows >= least)
    means = np.bincount(place, loss, len(number)) / np.maximum(rows, 1)
    return means[good], by_candidate[good] > 0, number[good], int((complete & ~good).sum())


def _baseline(means: Float) -> Float:
    """Return the mean of up to ten blocks before each, float64 [K]; the first is NaN."""
    upto = np.concatenate([[0.0], np.cumsum(means)])
    place = np.arange(len(means))
    start = np.maximum(place - _BASELINE, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray((upto[place] - upto[start]) / np.where(place > 0, place - start, math.nan), np.float64)
