"""A model must beat the base rate by more than luck, and its probabilities must be calibrated."""

import math

import pytest

from lobsmith.evaluation.assess import Assessment
from lobsmith.evaluation.results import MAJORITY, MODEL, Calibration, Comparison, HorizonMetrics, Interval
from lobsmith.gates.skill import calibrated, skill
from tests.evaluations import around


def assessment(losses: dict[int, float], *, half: float = 0.05) -> Assessment:
    """The model's log-loss by horizon, where the base rate's is 1."""
    horizon_metrics, comparisons = [], []
    for horizon, loss in losses.items():
        for name, value in ((MODEL, loss), (MAJORITY, 1.0)):
            nothing = Interval(0, 0, 0)
            horizon_metrics.append(
                HorizonMetrics(
                    predictor=name,
                    horizon_ms=horizon,
                    rows=100,
                    accuracy=0.5,
                    log_loss=around(value, half),
                    macro_f1=nothing,
                    mcc=nothing,
                    pr_auc={},
                )
            )
        comparisons.append(Comparison(against=MAJORITY, horizon_ms=horizon, difference=around(loss - 1.0, half)))
    return Assessment({}, [], horizon_metrics, comparisons, [], [], [], [], [])


@pytest.mark.parametrize(("loss", "passed"), [(0.8, True), (1.0, False), (1.2, False), (math.nan, False)])
def test_skill_asks_for_less_loss_than_the_base_rate(loss: float, passed: bool) -> None:
    verdict = skill(assessment({100: loss}), 1.0)
    assert verdict.passed is passed
    assert verdict.value == pytest.approx(loss + 0.05, nan_ok=True)


def test_skill_that_luck_may_explain_is_refused() -> None:
    assert skill(assessment({100: 0.97}, half=0.02), 1.0).passed
    assert not skill(assessment({100: 0.97}, half=0.04), 1.0).passed


@pytest.mark.parametrize(("first", "later", "passed"), [(0.8, 1.2, True), (1.2, 0.8, False)])
def test_only_the_first_horizon_decides(first: float, later: float, passed: bool) -> None:
    verdict = skill(assessment({1000: later, 50: first}), 1.0)
    assert verdict.passed is passed
    assert verdict.evidence["horizon_ms"] == 50


@pytest.mark.parametrize(("ece", "passed"), [(0.03, True), (0.049, True), (0.06, False), (math.nan, False)])
def test_calibration_is_judged_beyond_what_perfect_probabilities_show(ece: float, passed: bool) -> None:
    errors = [
        Calibration(predictor=name, horizon_ms=horizon, ece=value, floor=0.01, floor_95=0.03, points=[])
        for name, horizon, value in ((MODEL, 50, ece), (MODEL, 100, 0.01), ("logistic", 50, 0.9))
    ]
    verdict = calibrated(assessment({50: 0.8})._replace(calibration=errors), 0.02)
    assert verdict.passed is passed
    assert set(verdict.evidence) == {"50", "100"}
