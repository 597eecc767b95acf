"""The evaluation page's answer in one sentence, from the intervals against the best baseline and from the gates."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lobsmith.evaluation.report.formatting import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, horizons, outcome
from lobsmith.evaluation.results import MODEL, Comparison, Evaluation
from lobsmith.verdict import Verdict

_AGAINST = {
    BETTER: "better than",
    NO_DIFFERENT: "no different from",
    WORSE: "worse than",
    NOT_KNOWN: "not known against",
}


class Headline(NamedTuple):
    """A sentence, and its tone: `passed`, `refused`, `missing` or `no-different`."""

    text: str
    tone: str


def headline(evaluation: Evaluation) -> Headline:
    """Return whether the model is better than the best baseline of each horizon, and whether its gates passed."""
    best = best_baselines(evaluation.comparisons)
    text = f"{_compared(evaluation, best)}; {decision(evaluation.verdicts)}."
    return Headline(text[0].upper() + text[1:], _tone(evaluation, best))


def best_baselines(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return the comparison with the best baseline of each horizon, in their order.

    The best has the least log-loss on the model's rows; another seed of the model's own network is no baseline.
    """
    by_horizon: dict[int, list[Comparison]] = {}
    for comparison in comparisons:
        if not comparison.against.startswith(f"{MODEL}, seed "):
            by_horizon.setdefault(comparison.horizon_ms, []).append(comparison)
    return [max(by_horizon[ms], key=_strength) for ms in sorted(by_horizon)]


def decision(verdicts: Iterable[Verdict]) -> str:
    """Return the outcome of all gates together."""
    known = list(verdicts)
    refused = [verdict.gate for verdict in known if not verdict.passed]
    if not known:
        return "no gate was evaluated"
    if refused:
        return f"refused by {len(refused)} of {len(known)} gates: {', '.join(refused)}"
    return f"passed by all {len(known)} gates" if len(known) > 1 else "passed by the only gate"


def _strength(comparison: Comparison) -> float:
    value = comparison.difference.value
    return -math.inf if math.isnan(value) else value


def _compared(evaluation: Evaluation, best: Sequence[Comparison]) -> str:
    if not best:
        rows = evaluation.rows.get("test", 0)
        return "compared with no baseline" if rows and evaluation.horizon_metrics else "no held-out rows were measured"
    names = {comparison.against for comparison in best}
    parts: list[str] = []
    for result, text in _AGAINST.items():
        for name in sorted(names, key=[comparison.against for comparison in best].index):
            at = [c.horizon_ms for c in best if c.against == name and outcome(c.difference) == result]
            if at:
                phrase = f"{text} {name}" if len(names) > 1 or not parts else text.rpartition(" ")[0]
                parts.append(f"{phrase} at {horizons(at)}")
    return ", ".join(parts)


def _tone(evaluation: Evaluation, best: Sequence[Comparison]) -> str:
    if not all(verdict.passed for verdict in evaluation.verdicts):
        return "refused"
    results = {outcome(comparison.difference) for comparison in best}
    if not evaluation.verdicts or results <= {NOT_KNOWN}:
        return "missing"
    if BETTER in results:
        return "passed"
    return "refused" if results == {WORSE} else "no-different"
