"""The result of a gate."""

from typing import Any

from msgspec import Struct, field


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gate's result; `value` is None where there was nothing to measure, or where it is not finite."""

    gate: str
    passed: bool
    value: float | None
    threshold: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        answer = "passed" if self.passed else "refused"
        value = "nothing to measure" if self.value is None else f"{self.value:.6g}"
        return f"{self.gate} {answer}: {value} against a threshold of {self.threshold:.6g}"
