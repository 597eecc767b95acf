"""Verdicts of live traffic in which only the decision matters."""

from lobsmith.online.evidence import LiveVerdict


def verdict(decision: str) -> LiveVerdict:
    return LiveVerdict(
        gate="shadow",
        decision=decision,
        reason="so it is",
        first="toy 1",
        second="toy_candidate 1",
        rows=1,
        compared=1,
        watched_s=1.0,
        blocks=1,
        left_out=0,
        block_s=None,
        correlation_s=None,
        correlation_now_s=None,
        e_better=1.0,
        e_worse=1.0,
        threshold=20.0,
        difference=None,
        low=None,
        high=None,
        mean_difference=None,
        unanswered_first=None,
        unanswered_second=None,
        unanswered_reasons={},
        latency=None,
    )
