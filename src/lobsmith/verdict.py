"""What a gate answers."""

from typing import Any

from msgspec import Struct, field


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gate's answer: it passed or not, on which value against which threshold, and the evidence.

    `value` is None where there was nothing to measure; JSON has no other word for a number that is not finite either.
    """

    gate: str
    passed: bool
    value: float | None
    threshold: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        answer = "passed" if self.passed else "refused"
        value = "nothing to measure" if self.value is None else f"{self.value:.6g}"
        return f"{self.gate} {answer}: {value} against a threshold of {self.threshold:.6g}"
