"""Recorded sessions: another day is drift from the training day, and what comes next on the same day is not."""

from pathlib import Path

import pytest

from benchmarks.studies.drift_recorded import LEVEL, after, checks, frozen, halves, read, short
from lobsmith.drift.reference import RawRows
from lobsmith.drift.verdict import Finding
from lobsmith.params import DriftParams, load_params
from lobsmith.units import NS_PER_S

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
pytestmark = pytest.mark.recorded


def newest(rows: RawRows, windows: int, params: DriftParams) -> RawRows:
    """The newest rows that hold so many past windows: each costs a fit."""
    until = int(rows.time_ns[-1]) + 1
    return rows.between(until - round((params.reference_s + windows * params.recent_s) * NS_PER_S), until)


@pytest.mark.slow
def test_another_market_is_drift_and_the_product_says_that_minutes_are_no_history(recorded: Path) -> None:
    training, other = (read(recorded, name, PARAMS) for name in ("BTC spot, 8 August", "BTC perpetual, 8 August"))
    brief = short(PARAMS.drift, 7.0)
    scaling, rows = frozen(training, brief)
    old = newest(rows, 44, brief)
    (verdict,) = checks(scaling, old, after(old, frozen(other, brief)[1]), brief, 1, follow=False)
    assert verdict.finding is Finding.DRIFT
    assert verdict.p_value is not None
    assert verdict.p_value <= LEVEL
    scaling, old = frozen(training, PARAMS.drift)
    (verdict,) = checks(scaling, old, after(old, frozen(other, PARAMS.drift)[1]), PARAMS.drift, 1, follow=False)
    assert verdict.finding is Finding.INSUFFICIENT


@pytest.mark.slow
def test_the_other_half_of_a_session_is_no_drift(recorded: Path) -> None:
    brief = short(PARAMS.drift, 3.0)
    scaling, rows = frozen(read(recorded, "BTC spot, 8 August", PARAMS), brief)
    old, new = halves(rows)
    (verdict,) = checks(scaling, newest(old, 44, brief), new, brief, 1, follow=True)
    assert verdict.finding is Finding.NO_DRIFT
