"""Evidence of live traffic: losses, unanswered rows and latencies, compared in blocks, and the verdict on them."""

import math

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, field, structs

from lobsmith.errors import GateError
from lobsmith.evaluation.metrics import log_losses
from lobsmith.online.answers import Answers, Compared
from lobsmith.online.blocks import BlockRule, Blocks, paired_blocks
from lobsmith.online.e_values import Evidence, predictable_bounds, weigh
from lobsmith.params import PairedParams
from lobsmith.units import NS_PER_US
from lobsmith.verdict import Verdict

_SURE = 3.0
"""Standard errors that a share of latencies must lie beyond its limit."""
_MILLION = 1e6
Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
PROMOTE, REJECT, WATCH = "promote", "reject", "keep watching"
ROLL_BACK, KEEP = "roll back", "keep"


def check_same_rows(compared: Compared) -> None:
    """Refuse answers of two versions to different rows.

    Raises:
        GateError: times, segments or horizons differ.
    """
    first, second = compared.first, compared.second
    same = first.horizons_ms == second.horizons_ms and all(
        np.array_equal(a, b) for a, b in ((first.time_ns, second.time_ns), (first.segment, second.segment))
    )
    if not same:
        raise GateError(
            f"{first.model} {first.version} and {second.model} {second.version}: their answers are not to the "
            "same rows; join them by row first"
        )
    check_order(first)


def check_order(answers: Answers) -> None:
    """Refuse rows that are not in the order of time within their segment.

    Raises:
        GateError: time goes back.
    """
    back = (np.diff(answers.time_ns) < 0) & (np.diff(answers.segment) == 0)
    if back.any():
        raise GateError(
            f"{answers.model} {answers.version}: time goes back after row {int(np.argmax(back))} of a segment; "
            "order the rows by time"
        )


def compared_horizons(horizons_ms: tuple[int, ...], longest_ms: int) -> list[int]:
    """Return the indices of the horizons up to the longest; of the shortest where all are longer."""
    chosen = [i for i, horizon in enumerate(horizons_ms) if horizon <= longest_ms]
    return chosen or [int(np.argmin(horizons_ms))]


def answered(answers: Answers) -> Mask:
    """Mask the rows with finite probabilities at every horizon, bool [N]."""
    return np.asarray(np.isfinite(answers.probabilities).all(axis=(1, 2)), bool)


def unanswered(answers: Answers) -> float | None:
    """Return the share of rows without an answer; None without a row."""
    return float(1.0 - answered(answers).mean()) if len(answers.time_ns) else None


def losses(answers: Answers, horizons: list[int]) -> tuple[Float, Mask]:
    """Return each row's mean log-loss over the given horizons, nats, float64 [N], and a mask of known rows, bool
    [N].
    """
    labels = answers.labels[:, horizons]
    known = answered(answers) & (labels >= 0).all(axis=1)
    result = np.zeros(len(known))
    p, y = answers.probabilities[known][:, horizons], labels[known]
    if len(y):
        result[known] = np.mean([log_losses(p[:, h], y[:, h]) for h in range(len(horizons))], axis=0)
    return result, known


def too_slow(
    first_ns: npt.NDArray[np.int64], second_ns: npt.NDArray[np.int64], limits: dict[float, float]
) -> str | None:
    """Return a message naming the quantile of the second that is surely beyond its limit, a multiple of the first's;
    else None.

    A quantile q is beyond a value if more than 1 - q of the latencies are; the share must exceed that by three standard
    errors of a difference of two shares.

    Args:
        first_ns, second_ns: int64 [M] and [M'].
        limits: largest ratio by quantile.
    """
    count = min(len(first_ns), len(second_ns))
    for quantile, limit in limits.items():
        bar = float(np.quantile(first_ns, quantile)) * limit
        beyond = float((second_ns > bar).mean())
        if beyond > (1 - quantile) + _SURE * math.sqrt(2 * quantile * (1 - quantile) / count):
            ratio = float(np.quantile(second_ns, quantile)) / max(float(np.quantile(first_ns, quantile)), 1.0)
            return f"its p{quantile * 100:g} latency is {ratio:.2f} times the other's, limit {limit:g}"
    return None


def compared_blocks(
    compared: Compared, paired: PairedParams, rule: BlockRule | None = None, *, margin: float = 0.0
) -> tuple[Blocks, int]:
    """Return the blocks of the first version's loss less the second's, and how many rows count.

    Args:
        compared: rows put to both, in the order of time.
        paired: how losses are compared.
        rule: length of blocks; None measures it on the first rows, which are not tested.
        margin: added to each difference, nats.

    Raises:
        GateError: the answers are not to the same rows, or not in the order of time.
    """
    check_same_rows(compared)
    first, second = compared.first, compared.second
    horizons = compared_horizons(first.horizons_ms, paired.longest_ms)
    (loss_first, known_first), (loss_second, known_second) = losses(first, horizons), losses(second, horizons)
    known = known_first & known_second
    blocks = paired_blocks(
        loss_first - loss_second + margin,
        known,
        first.time_ns,
        first.segment,
        horizon_ms=max(first.horizons_ms[h] for h in horizons),
        params=paired,
        rule=None if rule is None else rule._replace(measured=rule.measured + margin),
    )
    return blocks, int(known.sum())


def weigh_blocks(blocks: Blocks, clip: float, alpha: float) -> Evidence:
    """Bet on the differences of blocks."""
    measured = blocks.rule.measured if blocks.rule else blocks.differences[:0]
    return weigh(blocks.differences, predictable_bounds(blocks.differences, measured, clip), alpha)


class Latency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latencies of both, microseconds; `count` is the smaller number of measurements."""

    count: int
    first_p50_us: float
    second_p50_us: float
    first_p99_us: float
    second_p99_us: float


class LiveVerdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Verdict on the second version beside the first in live traffic.

    Attributes:
        judged: the gate: `shadow`, `split test` or `rollback`.
        decision: PROMOTE, REJECT or WATCH; of rollback ROLL_BACK or KEEP.
        reason: one line.
        alarms: broken limits that the decision does not follow, a line each.
        first, second: `model version`.
        rows: rows of both, or of either in an A/B test.
        compared: rows with an answer of both and known labels.
        watched_s: seconds of traffic, gaps left out.
        blocks, left_out: blocks tested, and those with too few rows.
        block_s: their length; None until measured.
        correlation_s, correlation_now_s: correlation time that fixed the length, and of all rows now. If the latter is
            much longer, blocks were too short and the evidence is overstated.
        e_better, e_worse: e-values that the second is better, or worse; they count from `threshold` on.
        threshold: 1 / alpha.
        difference: robust mean log-loss of the second less the first's, nats: negative is better. None without a block.
        low, high: its interval with probability 1 - 2 alpha at all times at once; None for an end not known yet.
        mean_difference: plain mean of the blocks' differences.
        unanswered_first, unanswered_second: shares of rows.
        unanswered_reasons: counts of the second's by reason.
        latency: None without measurements of both.
        market: verdicts on the second's training window beside this market, before a promotion.
    """

    gate: str = field(name="judged")
    decision: str
    reason: str
    alarms: tuple[str, ...] = ()
    first: str
    second: str
    rows: int
    compared: int
    watched_s: float
    blocks: int
    left_out: int
    block_s: float | None
    correlation_s: float | None
    correlation_now_s: float | None
    e_better: float
    e_worse: float
    threshold: float
    difference: float | None
    low: float | None
    high: float | None
    mean_difference: float | None
    unanswered_first: float | None
    unanswered_second: float | None
    unanswered_reasons: dict[str, int]
    latency: Latency | None
    market: tuple[Verdict, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the second version may serve."""
        return self.decision in (PROMOTE, KEEP)

    def beside_market(self, market: tuple[Verdict, ...]) -> "LiveVerdict":
        """Return the verdict once the market is known: a version that was trained on another market is not promoted."""
        refused = [verdict for verdict in market if not verdict.passed]
        if not refused or self.decision != PROMOTE:
            return structs.replace(self, market=market)
        reasons = "; ".join(f"{verdict}, {verdict.evidence.get('reason', 'no reason given')}" for verdict in refused)
        reason = f"{self.reason}; but this is not known to be the market that it was trained on: {reasons}"
        return structs.replace(self, decision=WATCH, reason=reason, market=market)

    def as_verdict(self) -> Verdict:
        """Return the gate's verdict; its value is the e-value behind the decision."""
        value = self.e_worse if self.gate == "rollback" else self.e_better
        return Verdict(
            gate=self.gate,
            passed=self.passed,
            value=value,
            threshold=self.threshold,
            evidence=msgspec.json.decode(msgspec.json.encode(self)),
        )


def summarise(
    gate: str,
    decision: tuple[str, str],
    *,
    first: Answers,
    second: Answers,
    rows: int,
    compared: int,
    blocks: Blocks,
    evidence: Evidence,
    threshold: float,
    latency: Latency | None,
    alarms: tuple[str, ...] = (),
) -> LiveVerdict:
    """Combine a decision and its reason with their evidence."""
    rule = blocks.rule
    return LiveVerdict(
        gate=gate,
        decision=decision[0],
        reason=decision[1],
        alarms=alarms,
        first=f"{first.model} {first.version}",
        second=f"{second.model} {second.version}",
        rows=rows,
        compared=compared,
        watched_s=blocks.watched_s,
        blocks=evidence.blocks,
        left_out=blocks.left_out,
        block_s=rule.length_s if rule else None,
        correlation_s=rule.correlation_s if rule else None,
        correlation_now_s=blocks.correlation_s,
        e_better=evidence.better,
        e_worse=evidence.worse,
        threshold=threshold,
        difference=_negative(evidence.location),
        low=_negative(evidence.high),
        high=_negative(evidence.low),
        mean_difference=_negative(evidence.mean),
        unanswered_first=unanswered(first),
        unanswered_second=unanswered(second),
        unanswered_reasons=dict(second.reasons),
        latency=latency,
    )


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def compare_latency(first_ns: npt.NDArray[np.int64], second_ns: npt.NDArray[np.int64]) -> Latency | None:
    """Summarise latencies of both; None where either has none."""
    if not len(first_ns) or not len(second_ns):
        return None
    (a50, a99), (b50, b99) = (np.percentile(latencies, [50, 99]) / NS_PER_US for latencies in (first_ns, second_ns))
    return Latency(
        count=min(len(first_ns), len(second_ns)),
        first_p50_us=float(a50),
        second_p50_us=float(b50),
        first_p99_us=float(a99),
        second_p99_us=float(b99),
    )


def difference_text(evidence: Evidence) -> str:
    """Return the size of the difference and the number of blocks."""
    if evidence.location is None:
        return f"{evidence.blocks} blocks"
    return f"{-evidence.location:+.4f} nats over {evidence.blocks} blocks"


def e_value_text(value: float) -> str:
    """Return an e-value as far as its size means anything.

    >>> e_value_text(0.0712), e_value_text(2.6e29)
    ('0.0712', 'over a million')
    """
    return "over a million" if value > _MILLION else f"{value:.3g}"
