"""What a judgement on live traffic answers."""

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from lobsmith.gates.answers import Answers
from lobsmith.gates.live_rows import unanswered
from lobsmith.gates.paired_blocks import Blocks
from lobsmith.gates.sequential import Evidence
from lobsmith.gates.verdict import Verdict

PROMOTE, REJECT, WATCH = "promote", "reject", "keep watching"
ROLL_BACK, KEEP = "roll back", "keep"
_NS_PER_US = 1e3


class Latency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latencies of both, microseconds; `count` is the smaller number of measurements."""

    count: int
    first_p50_us: float
    second_p50_us: float
    first_p99_us: float
    second_p99_us: float


class LiveVerdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What live traffic says of the second version beside the first.

    Attributes:
        judged: `shadow`, `split test` or `rollback`.
        decision: PROMOTE, REJECT or WATCH; of rollback ROLL_BACK or KEEP.
        reason: why, one line.
        alarms: limits that are broken although the decision does not follow them; one line each.
        first, second: `model version`.
        rows: rows of both, or of either in a split test.
        compared: rows with an answer of both and known labels.
        watched_s: seconds of traffic, gaps left out.
        blocks, left_out: blocks judged, and those with too few rows.
        block_s: their length; None until it has been measured.
        correlation_s, correlation_now_s: correlation time of the differences that the length was fixed by, and as
            measured on all rows now. Where the latter is much longer, blocks were too short and the evidence is
            overstated.
        e_better, e_worse: e-values that the second is better, or worse; each counts from `threshold` on.
        threshold: 1 / alpha.
        difference: robust mean log-loss of the second less the first's, nats: negative is better. None without a block.
        low, high: it lies between them with probability 1 - 2 alpha at all times at once; None for an end not known
            yet.
        mean_difference: plain mean of the blocks' differences.
        unanswered_first, unanswered_second: shares of rows without an answer.
        unanswered_reasons: why the second did not answer, with numbers.
        latency: None where there are no measurements of both.
        market: what was said of the second's training window beside the market of this traffic, before a promotion.
    """

    judged: str
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
        """Return the verdict as it is once the market is known: nothing is promoted that has learnt another one."""
        refused = [one for one in market if not one.passed]
        if not refused or self.decision != PROMOTE:
            return structs.replace(self, market=market)
        reasons = "; ".join(f"{one}, {one.evidence.get('reason', 'no reason given')}" for one in refused)
        reason = f"{self.reason}; but this is not known to be the market that it has learnt: {reasons}"
        return structs.replace(self, decision=WATCH, reason=reason, market=market)

    def as_verdict(self) -> Verdict:
        """Return the gate's verdict; its value is the e-value that the decision is about."""
        value = self.e_worse if self.judged == "rollback" else self.e_better
        return Verdict(
            gate=self.judged,
            passed=self.passed,
            value=value,
            threshold=self.threshold,
            evidence=msgspec.json.decode(msgspec.json.encode(self)),
        )


def summarise(
    judged: str,
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
    """Put a decision and its reason together with what it rests on."""
    rule = blocks.rule
    return LiveVerdict(
        judged=judged,
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
    """Summarise latencies of both; None where one has none."""
    if not len(first_ns) or not len(second_ns):
        return None
    (a50, a99), (b50, b99) = (np.percentile(one, [50, 99]) / _NS_PER_US for one in (first_ns, second_ns))
    return Latency(
        count=min(len(first_ns), len(second_ns)),
        first_p50_us=float(a50),
        second_p50_us=float(b50),
        first_p99_us=float(a99),
        second_p99_us=float(b99),
    )


def in_words(evidence: Evidence) -> str:
    """Return how large the difference is and from how many blocks."""
    if evidence.location is None:
        return f"{evidence.blocks} blocks"
    return f"{-evidence.location:+.5f} nats over {evidence.blocks} blocks"
