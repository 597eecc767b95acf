"""Figures of an evaluation, from which the page and the verdicts are made."""

import re
from collections.abc import Sequence

from msgspec import Struct, field

from lobsmith.market.instrument import Instrument
from lobsmith.verdict import Verdict

EVALUATION, REPORT = "evaluation.json", "report.html"
"""Files in a run's folder: figures, page."""
MODEL, MAJORITY, RECENT = "model", "base rate", "recent base rate"


class Interval(Struct, frozen=True, forbid_unknown_fields=True):
    """A figure with its 95 % interval from a block bootstrap."""

    value: float
    low: float
    high: float


class Dependence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Correlation time of the model's losses at one horizon, and the bootstrap's blocks, which are longer."""

    horizon_ms: int
    correlation_s: float
    block_s: float
    blocks: int


class HorizonMetrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of one predictor at one horizon; log-loss in nats a row, PR-AUC as average precision."""

    predictor: str
    horizon_ms: int
    rows: int
    accuracy: float
    log_loss: Interval
    macro_f1: Interval
    mcc: Interval
    pr_auc: dict[str, float]


class Comparison(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Log-loss of the model less that of another predictor on the same rows: negative is better."""

    against: str
    horizon_ms: int
    difference: Interval


class ReliabilityPoint(Struct, frozen=True, forbid_unknown_fields=True):
    """A bin of the reliability diagram: mean probability of the likeliest class, share that came true."""

    predicted: float = field(name="said")
    came_true: float
    rows: int


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Expected calibration error of one predictor.

    `floor` and `floor_95` are the median and the 95th percentile of the error of labels drawn from the predictor's own
    probabilities with the same overlap.
    """

    predictor: str
    horizon_ms: int
    ece: float
    floor: float
    floor_95: float
    points: list[ReliabilityPoint]


class AtConfidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's rows with at least that probability of one direction; `blocks` are non-overlapping horizons."""

    horizon_ms: int
    direction: str
    confidence: float
    rows: int
    blocks: int
    precision: float
    mean_confidence: float
    recall: float


class Confusion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows by true direction, then by the model's likeliest direction."""

    horizon_ms: int
    counts: list[list[int]]


class Effect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Earnings per trade at a confidence, basis points: cross the spread now and at the horizon."""

    horizon_ms: int
    confidence: float
    trades: int
    gross_bps: float
    spread_bps: float
    fees_bps: float
    net_bps: Interval


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of an auxiliary output: log-loss of probabilities, mean squared error of moves and volatility.

    `reference` is the loss of the training rows' mean.
    """

    output: str
    horizon_ms: int
    rows: int
    mean: float
    loss: float
    reference: float
    pr_auc: float | None = None


class Evaluation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures on the held-out rows of one instrument.

    `test_start_ns` is the local time of the first row; `attention` the mean weight of the row of that age, empty where
    the network has none.
    """

    instrument: Instrument
    network: str
    protocol: str
    data_fingerprint: str
    seeds: list[int]
    rows: dict[str, int]
    test_start_ns: int
    class_shares: dict[str, list[float]]
    dependence: list[Dependence]
    horizon_metrics: list[HorizonMetrics] = field(name="scores")
    comparisons: list[Comparison]
    calibration: list[Calibration]
    confidence: list[AtConfidence]
    confusion: list[Confusion]
    effects: list[Effect]
    heads: list[Head]
    attention: list[float]
    verdicts: tuple[Verdict, ...]

    def metrics(self) -> dict[str, float]:
        """Return the main figures under flat names, such as `model_log_loss_100ms`."""
        return flat_metrics(self.horizon_metrics, self.calibration)


def flat_metrics(horizon_metrics: Sequence[HorizonMetrics], calibration: Sequence[Calibration]) -> dict[str, float]:
    """Return the main figures of metrics and of the model's calibration, under the names of `Evaluation.metrics`."""
    flat = {}
    for metrics in horizon_metrics:
        name = f"{re.sub('[^a-z0-9]+', '_', metrics.predictor.lower())}_{{}}_{metrics.horizon_ms}ms"
        flat[name.format("accuracy")] = metrics.accuracy
        flat[name.format("log_loss")] = metrics.log_loss.value
        flat[name.format("macro_f1")] = metrics.macro_f1.value
        flat[name.format("mcc")] = metrics.mcc.value
    for error in calibration:
        if error.predictor == MODEL:
            flat[f"model_ece_{error.horizon_ms}ms"] = error.ece
    return flat
