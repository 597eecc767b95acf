"""Shadow evaluation: the candidate answers the rows of production; is it better, worse, or too slow?"""

from lobsmith.online.answers import Compared
from lobsmith.online.blocks import BlockRule, Blocks
from lobsmith.online.e_values import Evidence
from lobsmith.online.evidence import (
    PROMOTE,
    REJECT,
    WATCH,
    LiveVerdict,
    compare_latency,
    compared_blocks,
    difference_text,
    e_value_text,
    summarise,
    too_slow,
    unanswered,
    weigh_blocks,
)
from lobsmith.params import PairedParams, ShadowParams

GATE = "shadow"
Decision = tuple[str, str]


def evaluate_shadow(
    compared: Compared, params: ShadowParams, paired: PairedParams, *, rule: BlockRule | None = None
) -> LiveVerdict:
    """Compare the candidate, `second`, with production, `first`, on all rows put to both so far, of one instrument.

    It may be called any number of times, with the same rows and newer ones: the probability that a candidate that is no
    better is ever promoted stays below `alpha`.

    Args:
        compared: rows in the order of time, from the candidate's first.
        params: limits.
        paired: how losses are compared.
        rule: length of blocks; None measures it on the first rows, which are not tested.

    Raises:
        GateError: the answers are not to the same rows, or not in the order of time.
    """
    blocks, counted = compared_blocks(compared, paired, rule)
    first, second = compared.first, compared.second
    evidence = weigh_blocks(blocks, paired.clip, params.alpha)
    probes = compared.first_probe_ns, compared.second_probe_ns
    few = min(map(len, probes)) < params.probes
    slow = None
    if params.probes and not few:
        slow = too_slow(*probes, {0.5: params.latency_p50, 0.99: params.latency_p99})
    silent = too_silent(unanswered(first), unanswered(second), len(first.time_ns), params)
    decision = decide(evidence, blocks, params, broken=silent or slow, few_probes=few)
    return summarise(
        GATE,
        decision,
        first=first,
        second=second,
        rows=len(first.time_ns),
        compared=counted,
        blocks=blocks,
        evidence=evidence,
        threshold=1 / params.alpha,
        latency=compare_latency(*probes),
    )


def too_silent(first: float | None, second: float | None, rows: int, params: ShadowParams) -> str | None:
    """Return a message if the second leaves too many rows unanswered that the first answers; else None."""
    if first is None or second is None or rows < params.rows or second - first <= params.unanswered:
        return None
    return (
        f"it leaves {second:.2%} of the rows unanswered, production {first:.2%}; limit {params.unanswered:.2%} beyond"
    )


def decide(
    evidence: Evidence, blocks: Blocks, params: ShadowParams, *, broken: str | None, few_probes: bool
) -> Decision:
    """Return the decision and its reason.

    Latency and unanswered rows decide at once; losses decide after the minimum; the maximum decides for production. A
    promotion also takes a better plain mean, as the e-value is about clipped differences.
    """
    if broken:
        return REJECT, broken
    threshold = 1 / params.alpha
    judged_s = evidence.blocks * (blocks.rule.length_s if blocks.rule else 0.0)
    enough = judged_s >= params.minimum_s and evidence.blocks >= params.minimum_blocks
    over = blocks.watched_s >= params.maximum_s
    missing, difference = "", difference_text(evidence)
    if enough and evidence.worse >= threshold:
        worse = e_value_text(evidence.worse)
        return REJECT, f"its log-loss is worse: {difference}, e-value {worse} of {threshold:g}"
    if enough and evidence.better >= threshold:
        better = e_value_text(evidence.better)
        better = f"its log-loss is better: {difference}, e-value {better} of {threshold:g}"
        if few_probes:
            missing = f"{better}, but latencies were not compared ({params.probes} probes of each are required)"
        elif evidence.mean is None or evidence.mean <= 0:
            missing = "it is better in most blocks, but a few bad ones make it worse on average"
        else:
            return PROMOTE, better
    if over:
        so_far = missing or f"it is no better after {blocks.watched_s:.0f} s: {difference_text(evidence)}"
        return REJECT, f"{so_far}; e-value {e_value_text(evidence.better)} of {threshold:g}"
    if missing:
        return WATCH, missing
    if not enough:
        return WATCH, (
            f"{evidence.blocks} blocks and {judged_s:.0f} s are judged; losses decide after "
            f"{params.minimum_blocks} blocks and {params.minimum_s:g} s"
        )
    return WATCH, (
        f"no evidence yet: {difference_text(evidence)}, e-values {e_value_text(evidence.better)} better, "
        f"{e_value_text(evidence.worse)} worse, of {threshold:g}"
    )
