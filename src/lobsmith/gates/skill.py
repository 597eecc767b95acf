"""Gates on an evaluation: skill against the base rate, and calibration."""

import msgspec

from lobsmith.evaluation.assess import Assessment
from lobsmith.evaluation.results import MAJORITY, MODEL, RECENT
from lobsmith.verdict import Verdict


def skill(assessment: Assessment, threshold: float) -> Verdict:
    """Return the verdict on the model's log-loss at the first horizon as a share of the base rate's, upper end of its
    interval.

    The base rate is of the training or validation rows, whichever leaves less: with drifting shares a newer rate beats
    the older without skill. Longer horizons, which minutes of data cannot teach, are reported only.
    """
    horizon = min(metrics.horizon_ms for metrics in assessment.horizon_metrics)
    losses = {
        metrics.predictor: metrics.log_loss.value
        for metrics in assessment.horizon_metrics
        if metrics.horizon_ms == horizon
    }
    gains = [
        comparison
        for comparison in assessment.comparisons
        if comparison.horizon_ms == horizon and comparison.against in (MAJORITY, RECENT)
    ]
    gain = max(gains, key=lambda comparison: comparison.difference.high / losses[comparison.against])
    value = 1.0 + gain.difference.high / losses[gain.against]
    return Verdict(
        gate="skill",
        passed=bool(value < threshold),
        value=value,
        threshold=threshold,
        evidence={
            "horizon_ms": horizon,
            "log_loss": losses,
            "against": gain.against,
            "difference": msgspec.to_builtins(gain.difference),
        },
    )


def calibrated(assessment: Assessment, threshold: float) -> Verdict:
    """Return the verdict on the model's calibration error in excess of the 95th percentile of perfect probabilities,
    any horizon.
    """
    errors = [calibration for calibration in assessment.calibration if calibration.predictor == MODEL]
    worst = max(errors, key=lambda calibration: calibration.ece - calibration.floor_95)
    value = worst.ece - worst.floor_95
    return Verdict(
        gate="calibration",
        passed=bool(value <= threshold),
        value=value,
        threshold=threshold,
        evidence={
            str(calibration.horizon_ms): {
                "ece": calibration.ece,
                "floor": calibration.floor,
                "floor_95": calibration.floor_95,
            }
            for calibration in errors
        },
    )
