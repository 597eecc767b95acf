"""The data docs: a page of all expectations of a data contract, with what was found.

Great Expectations' own pages take styles, scripts and pictures from five hosts and are unreadable without them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from lobsmith.evaluation.report import formatting
from lobsmith.evaluation.report.page import render

_FILTERS = (formatting.count,)
_LARGEST = 1e300
_NAMED = 3


class Check(Struct, frozen=True, kw_only=True):
    """An expectation of a column, what was found there, and in how many rows it does not hold."""

    column: str
    expected: str
    found: str
    failed: int
    examples: tuple[str, ...] = ()


class Batch(Struct, frozen=True, kw_only=True):
    """Checked rows, such as `binance-spot:BTCUSDT events, account`."""

    title: str
    rows: int
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.failed]


def render_contract(subject: str, batches: Sequence[Batch]) -> str:
    """Return the page, the same for the same checks.

    Args:
        subject: kind and instruments.
        batches: in the order of the page.
    """
    return render(
        "lobsmith.gates",
        "contract.html.jinja",
        _FILTERS,
        subject=subject,
        answer=answer(batches),
        tone=_tone(batches),
        batches=[(f"batch-{place}", batch) for place, batch in enumerate(batches, 1)],
        titles={f"batch-{place}": batch.title for place, batch in enumerate(batches, 1)},
    )


def answer(batches: Sequence[Batch]) -> str:
    """Return whether the contract holds, in one sentence."""
    total, failed = sum(len(batch.checks) for batch in batches), [check for batch in batches for check in batch.failed]
    if not total or not any(batch.rows for batch in batches):
        return "Nothing was checked: there are no rows."
    if not failed:
        return f"All {total} expectations hold."
    names = list(dict.fromkeys(check.column for check in failed))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"Refused: {len(failed)} of {total} expectations do not hold, of {', '.join(names[:_NAMED])}{more}."


def expected(check: str, limits: Mapping[str, Any]) -> str:
    """Return an expectation of Great Expectations in words.

    >>> expected("expect_column_values_to_be_between", {"min_value": 0, "strict_min": True})
    'above 0'
    >>> expected("expect_column_values_to_be_between", {"min_value": -2.0, "max_value": 2.0})
    'from −2 to 2'
    >>> expected("expect_column_values_to_be_in_set", {"value_set": [-1, 0, 1]})
    'one of −1, 0, 1'
    >>> expected("expect_column_values_to_not_be_null", {})
    'never missing'
    """
    if "value_set" in limits:
        return f"one of {', '.join(formatting.figure(float(value)) for value in limits['value_set'])}"
    low, high = limits.get("min_value"), limits.get("max_value")
    if low is not None and high is not None and high < _LARGEST:
        return f"from {formatting.figure(float(low))} to {formatting.figure(float(high))}"
    if low is not None:
        above = "above" if limits.get("strict_min") else "at least"
        return f"{above} {formatting.figure(float(low))}{', finite' if high is not None else ''}"
    return check.removeprefix("expect_column_values_to_").replace("not_be_null", "never missing").replace("_", " ")


def found(low: float, high: float) -> str:
    """Return the least and the greatest value of a column.

    >>> found(0.0, 0.0), found(-1.0, 2.5), found(float("nan"), float("nan"))
    ('0', '−1 to 2.5', 'no value')
    """
    if math.isnan(low) or math.isnan(high):
        return "no value"
    least, greatest = formatting.figure(low), formatting.figure(high)
    return least if least == greatest else f"{least} to {greatest}"


def _tone(batches: Sequence[Batch]) -> str:
    if any(batch.failed for batch in batches):
        return "refused"
    return "passed" if any(batch.rows for batch in batches) else "missing"
