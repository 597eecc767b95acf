"""What a client might have done with its answers: counts for a replay."""

from collections import Counter

from msgspec import Struct

from lobsmith.trading.guard.guarded_client import Advised


class Acting(Struct, frozen=True, kw_only=True):
    """Rows by what may be done with their answers.

    Attributes:
        acted: rows of which some horizon's answer may be acted on.
        in_full: rows of which all may be.
        modes: rows by mode.
        abstained: rows of which not all may be, by reason code.
        last: the last such reason, one line for people.
    """

    acted: int
    in_full: int
    modes: dict[str, int]
    abstained: dict[str, int]
    last: str | None


class ActingCounter:
    """Counts advice as it comes."""

    def __init__(self) -> None:
        self._acted = self._in_full = 0
        self._modes: Counter[str] = Counter()
        self._abstained: Counter[str] = Counter()
        self._last: str | None = None

    def add(self, advised: Advised) -> None:
        """Count one row."""
        self._acted += any(advised.may_act)
        self._in_full += all(advised.may_act)
        self._modes[advised.mode.value] += 1
        if advised.abstain is not None:
            self._abstained[advised.abstain.value] += 1
            self._last = advised.detail

    def result(self) -> Acting:
        """Return the counts."""
        return Acting(
            acted=self._acted,
            in_full=self._in_full,
            modes=dict(self._modes),
            abstained=dict(self._abstained),
            last=self._last,
        )
