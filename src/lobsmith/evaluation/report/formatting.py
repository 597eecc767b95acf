"""Texts of the evaluation page: numbers, intervals, and the outcomes that intervals decide."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from lobsmith.evaluation.results import AtConfidence, Calibration, Effect, Head, Interval
from lobsmith.units import NS_PER_S

DASH = "—"
BETTER, NO_DIFFERENT, WORSE, NOT_KNOWN = "better", "no different", "worse", "not known"
FEW_BLOCKS = 50
"""Independent blocks below which a share is rough: half of 50 is known to within 14 points at best."""

_EXPONENT = re.compile(r"e(?:\+|(-))0*")
_THOUSAND, _BILLION = 1000, 10**9


def number(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """Return a figure with so many decimals; a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if signed else ''}z,.{digits}f}".replace("-", "−")


def figure(value: float | None) -> str:
    """Return a figure of unknown size with three significant digits.

    >>> figure(0.75752), figure(1234567.0), figure(-2.98e-7)
    ('0.758', '1,234,567', '−2.98e−7')
    """
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{value:,.0f}" if _THOUSAND <= abs(value) < _BILLION else f"{value:z.3g}"
    return _EXPONENT.sub(r"e\1", text).replace("-", "−")


def count(value: int | None) -> str:
    """Return a whole number with its thousands apart."""
    return DASH if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """Return a share as percents."""
    return DASH if share is None or not math.isfinite(share) else f"{share * 100:.1f} %"


def bounds(interval: Interval, digits: int = 4, *, signed: bool = False) -> str:
    """Return the ends of an interval in brackets."""
    low, high = (number(end, digits, signed=signed) for end in (interval.low, interval.high))
    return DASH if low == high == DASH else f"[{low}, {high}]"


def interval(estimate: Interval, digits: int = 4, *, signed: bool = False) -> str:
    """Return a figure and its interval in one line."""
    value, ends = number(estimate.value, digits, signed=signed), bounds(estimate, digits, signed=signed)
    return DASH if value == ends == DASH else f"{value} {ends}"


def stacked(estimate: Interval | None, digits: int = 4, *, signed: bool = False) -> Markup:
    """Return a figure with its interval below it, for the cell of a table."""
    if estimate is None or interval(estimate) == DASH:
        return Markup("—")
    return Markup('{}<span class="ci">{}</span>').format(
        number(estimate.value, digits, signed=signed), bounds(estimate, digits, signed=signed)
    )


def horizon(milliseconds: int) -> str:
    """Return a horizon in milliseconds, or in seconds from one on."""
    return f"{milliseconds} ms" if milliseconds < _THOUSAND else f"{milliseconds / _THOUSAND:,g} s"


def horizons(milliseconds: Sequence[int]) -> str:
    """Return horizons in one phrase, the unit once where it is the same.

    >>> horizons([50, 100]), horizons([50, 100, 1000]), horizons([1000])
    ('50 and 100 ms', '50 ms, 100 ms and 1 s', '1 s')
    """
    names = [horizon(each) for each in milliseconds]
    units = {name.rpartition(" ")[2] for name in names}
    if len(units) == 1:
        names[:-1] = [name.rpartition(" ")[0] for name in names[:-1]]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def share_name(key: str) -> str:
    """Return what a set of class shares belongs to: a horizon, or the evaluation's own key."""
    return horizon(int(key)) if key.isascii() and key.isdigit() else key


def moment(nanoseconds: int) -> str:
    """Return a time in UTC to the minute."""
    return datetime.fromtimestamp(nanoseconds // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M UTC")


def outcome(difference: Interval) -> str:
    """Return whether the model is better or worse than a baseline: only where the interval leaves out zero."""
    if math.isnan(difference.low) or math.isnan(difference.high):
        return NOT_KNOWN
    if difference.high < 0:
        return BETTER
    return WORSE if difference.low > 0 else NO_DIFFERENT


def calibrated(calibration: Calibration) -> str:
    """Return whether a calibration error is within that of perfect probabilities."""
    if math.isnan(calibration.ece) or math.isnan(calibration.floor_95):
        return NOT_KNOWN
    return "within" if calibration.ece <= calibration.floor_95 else "above"


def calibration_text(calibration: Calibration) -> str:
    """Return the calibration error beside that of perfect probabilities."""
    ece, floor, floor_95 = (number(value, 3) for value in (calibration.ece, calibration.floor, calibration.floor_95))
    return f"{ece}, floor {floor}, 95th percentile {floor_95}: {calibrated(calibration)}"


def few_blocks(direction: str, points: Sequence[AtConfidence]) -> str:
    """Return which confidences in a direction cannot be judged, of those with rows; empty where all can."""
    points = [point for point in points if point.rows]
    few = [point for point in points if point.blocks < FEW_BLOCKS]
    if not few:
        return ""
    where = ", ".join(f"{number(point.confidence, 2)} ({count(point.blocks)})" for point in few)
    if len(few) == len(points) > 1:
        where = f"any confidence ({count(max(point.blocks for point in few))} at most)"
    return f"{direction.capitalize()}: too few independent blocks to judge at {where}."


def earnings(name: str, effects: Iterable[Effect]) -> str:
    """Return at how many confidences with trades the interval of one horizon's net effect leaves out zero."""
    nets = [effect.net_bps for effect in effects if effect.trades]
    if not nets:
        return f"{name}: no trades at any confidence."
    above, below = sum(net.low > 0 for net in nets), sum(net.high < 0 for net in nets)
    where = f"above zero at {above or 'none'} of {len(nets)} confidences, below zero at {below or 'none'}"
    return f"{name}: net of fees and spread, the interval lies {where}."


def skill(head: Head) -> float:
    """Return the share of the reference's loss that the output saves; not a number without a reference."""
    return 1 - head.loss / head.reference if head.reference > 0 else math.nan
