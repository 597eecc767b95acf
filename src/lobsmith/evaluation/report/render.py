"""The evaluation report: one HTML page without outside references."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from lobsmith.evaluation.report import plots, words
from lobsmith.evaluation.report.page import render
from lobsmith.evaluation.results import (
    DIRECTIONS,
    MODEL,
    AtConfidence,
    Calibration,
    Comparison,
    Confusion,
    Effect,
    Evaluation,
    HorizonMetrics,
    Interval,
)

if TYPE_CHECKING:
    from lobsmith.models.trainer import Epoch

_TEMPLATE = "report.html.jinja"
_SECTIONS = {
    "verdicts": "Verdicts",
    "headlines": "The model against each rival",
    "scores": "Scores",
    "differences": "Differences in log-loss",
    "calibration": "Calibration",
    "confidence": "Precision and recall by confidence",
    "confusion": "Confusion",
    "effects": "Effect after fees and spread",
    "heads": "Other outputs",
    "attention": "Attention over time",
    "dependence": "Dependence of rows",
    "training": "Training",
}
_FILTERS = (
    words.number,
    words.figure,
    words.count,
    words.percent,
    words.interval,
    words.stacked,
    words.horizon,
    words.share_name,
    words.moment,
    words.outcome,
    words.evidence,
    words.calibrated,
    words.calibration_text,
    words.skill,
)


@dataclass(frozen=True)
class Level:
    """A direction's rows of the table of confidences."""

    direction: str
    points: list[AtConfidence]
    warning: str


@dataclass(frozen=True)
class Section:
    """The page's figures of one horizon."""

    name: str
    model: HorizonMetrics | None
    scores: list[HorizonMetrics]
    best: list[str]
    comparisons: list[Comparison]
    shares: list[float] | None
    calibration: list[Calibration]
    levels: list[Level]
    confusion: Confusion | None
    effects: list[Effect]
    earnings: str
    differences_plot: Markup
    reliability_plot: Markup
    confidence_plot: Markup

    @property
    def summary(self) -> str:
        """How many baselines the model beats, does not differ from, and loses to."""
        answers = [words.outcome(one.difference) for one in self.comparisons]
        parts = ((words.BETTER, "better than"), (words.NO_DIFFERENT, "no different from"), (words.WORSE, "worse than"))
        told = [f"{text} {answers.count(answer)}" for answer, text in parts if answer in answers]
        rivals = "rival" if len(answers) == 1 else "rivals"
        return f"{', '.join(told)} of {len(answers)} {rivals}" if told else "not known against any rival"

    def difference(self, predictor: str) -> Interval | None:
        """Return the model's log-loss less that of a predictor; None for the model itself."""
        return next((one.difference for one in self.comparisons if one.against == predictor), None)


def render_report(evaluation: Evaluation, history: Sequence["Epoch"]) -> str:
    """Return the page, the same for the same figures.

    Args:
        evaluation: the figures on the held-out rows.
        history: the epochs of the training.
    """
    horizons = _horizons(evaluation)
    return render(
        "lobsmith.evaluation.report",
        _TEMPLATE,
        _FILTERS,
        e=evaluation,
        decision=words.decision(evaluation.verdicts),
        titles=_SECTIONS,
        horizons=[_section(evaluation, horizon) for horizon in horizons],
        known_shares=[str(one.horizon_ms) for one in evaluation.scores],
        directions=DIRECTIONS,
        few_blocks=words.FEW_BLOCKS,
        model_name=MODEL,
        attention_plot=plots.plot_attention(evaluation.attention),
        training_plot=plots.plot_training(history),
        epochs=len(history),
    )


def _horizons(evaluation: Evaluation) -> list[int]:
    found: set[int] = set()
    for part in (
        evaluation.scores,
        evaluation.comparisons,
        evaluation.calibration,
        evaluation.confidence,
        evaluation.confusion,
        evaluation.effects,
    ):
        found.update(one.horizon_ms for one in part)
    return sorted(found)


def _section(evaluation: Evaluation, horizon: int) -> Section:
    """Gather one horizon's part of each list."""
    name = words.horizon(horizon)
    scores = [one for one in evaluation.scores if one.horizon_ms == horizon]
    comparisons = [one for one in evaluation.comparisons if one.horizon_ms == horizon]
    calibration = [one for one in evaluation.calibration if one.horizon_ms == horizon]
    confidence = [one for one in evaluation.confidence if one.horizon_ms == horizon]
    effects = [one for one in evaluation.effects if one.horizon_ms == horizon]
    least = min((one.log_loss.value for one in scores if not math.isnan(one.log_loss.value)), default=None)
    return Section(
        name=name,
        model=next((one for one in scores if one.predictor == MODEL), None),
        scores=scores,
        best=[one.predictor for one in scores if one.log_loss.value == least],
        comparisons=comparisons,
        shares=evaluation.class_shares.get(str(horizon)),
        calibration=calibration,
        levels=[_level(direction, confidence) for direction in DIRECTIONS],
        confusion=next((one for one in evaluation.confusion if one.horizon_ms == horizon), None),
        effects=effects,
        earnings=words.earnings(name, effects),
        differences_plot=plots.plot_differences(name, comparisons),
        reliability_plot=plots.plot_reliability(name, calibration),
        confidence_plot=plots.plot_confidence(name, confidence),
    )


def _level(direction: str, points: Sequence[AtConfidence]) -> Level:
    own = sorted((one for one in points if one.direction == direction), key=lambda one: one.confidence)
    return Level(direction, own, words.few_blocks(direction, own))
