"""What a gate answers."""

from typing import Any

from msgspec import Struct, field


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gate's answer: it passed or not, on which value against which threshold, and the evidence."""

    gate: str
    passed: bool
    value: float
    threshold: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        answer = "passed" if self.passed else "refused"
        return f"{self.gate} {answer}: {self.value:.6g} against a threshold of {self.threshold:.6g}"
