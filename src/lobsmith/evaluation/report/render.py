"""The evaluation report: one HTML page without outside references."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from lobsmith.evaluation.report import formatting, plots
from lobsmith.evaluation.report.evidence import listed
from lobsmith.evaluation.report.headline import headline
from lobsmith.evaluation.report.page import render
from lobsmith.evaluation.results import (
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
from lobsmith.features.definitions import DIRECTIONS

if TYPE_CHECKING:
    from lobsmith.models.trainer import Epoch

_TEMPLATE = "report.html.jinja"
_SECTIONS = {
    "verdicts": "Verdicts",
    "headlines": "The model beside each baseline",
    "metrics": "Metrics",
    "differences": "Differences in log-loss",
    "calibration": "Calibration",
    "confidence": "Precision and recall by confidence",
    "confusion": "Confusion",
    "effects": "Effect after fees and spread",
    "heads": "Auxiliary outputs",
    "attention": "Attention over time",
    "dependence": "Dependence of rows",
    "training": "Training",
}
_FILTERS = (
    formatting.number,
    formatting.figure,
    formatting.count,
    formatting.percent,
    formatting.interval,
    formatting.stacked,
    formatting.horizon,
    formatting.share_name,
    formatting.moment,
    formatting.outcome,
    listed,
    formatting.calibrated,
    formatting.calibration_text,
    formatting.skill,
)


_GATES = {
    "parity": "largest difference between the network and its exported file",
    "skill": "log-loss as a share of the base rate's, upper end of its interval",
    "calibration": "calibration error beyond that of perfect probabilities, worst horizon",
    "compression": "rise of log-loss over the trained network, a share, upper end of its interval",
    "walk_forward": "log-loss as a share of the base rate's, worst regime",
}
"""What the value of a gate is."""


@dataclass(frozen=True)
class Level:
    """A direction's rows of the table of confidences; `empty` are confidences that no row reaches."""

    direction: str
    points: list[AtConfidence]
    empty: str
    warning: str


@dataclass(frozen=True)
class HorizonSection:
    """The page's figures of one horizon."""

    name: str
    model: HorizonMetrics | None
    predictors: list[HorizonMetrics]
    best: list[str]
    comparisons: list[Comparison]
    shares: list[float] | None
    calibration: list[Calibration]
    levels: list[Level]
    confusion: Confusion | None
    effects: list[Effect]
    untraded: str
    earnings: str
    differences_plot: Markup
    reliability_plot: Markup
    confidence_plot: Markup

    @property
    def summary(self) -> str:
        """How many baselines the model beats, does not differ from, and loses to."""
        answers = [formatting.outcome(comparison.difference) for comparison in self.comparisons]
        parts = (
            (formatting.BETTER, "better than"),
            (formatting.NO_DIFFERENT, "no different from"),
            (formatting.WORSE, "worse than"),
        )
        counts = [f"{text} {answers.count(answer)}" for answer, text in parts if answer in answers]
        baselines = "baseline" if len(answers) == 1 else "baselines"
        return f"{', '.join(counts)} of {len(answers)} {baselines}" if counts else "not known against any baseline"

    def difference(self, predictor: str) -> Interval | None:
        """Return the model's log-loss less that of a predictor; None for the model itself."""
        return next((comparison.difference for comparison in self.comparisons if comparison.against == predictor), None)


def render_report(
    evaluation: Evaluation, history: Sequence["Epoch"], *, run: str | None = None, version: str | None = None
) -> str:
    """Return the page of an evaluation and its training epochs, the same for the same figures.

    Args:
        evaluation: figures and verdicts.
        history: one entry for each epoch.
        run: the retrain's run; None outside a retrain.
        version: `model version` as published; None before.
    """
    horizons = _horizons(evaluation)
    return render(
        "lobsmith.evaluation.report",
        _TEMPLATE,
        _FILTERS,
        e=evaluation,
        headline=headline(evaluation),
        subject=_subject(evaluation, run, version),
        run=run,
        version=version or _unpublished(evaluation, run),
        rough=_rough(evaluation),
        gates=[(verdict, _GATES.get(verdict.gate, "")) for verdict in evaluation.verdicts],
        titles=_SECTIONS,
        horizons=[_section(evaluation, horizon) for horizon in horizons],
        known_shares=[str(metrics.horizon_ms) for metrics in evaluation.horizon_metrics],
        directions=DIRECTIONS,
        few_blocks=formatting.FEW_BLOCKS,
        model_name=MODEL,
        attention_plot=plots.plot_attention(evaluation.attention),
        training_plot=plots.plot_training(history),
        epochs=len(history),
    )


def with_version(page: str, version: str) -> str:
    """Return the page of a run as `render_report` draws it with this `model version`, without drawing again."""
    name = str(escape(version))
    page = re.sub(r"(Evaluation of )(?:[^<]*, )?(run )", lambda match: f"{match[1]}{name}, {match[2]}", page, count=2)
    return re.sub(r'(<dd class="version">)[^<]*', lambda match: match[1] + name, page, count=1)


def _subject(evaluation: Evaluation, run: str | None, version: str | None) -> str:
    if run is None:
        return f"{evaluation.network} on {evaluation.instrument}"
    return f"run {run}" if version is None else f"{version}, run {run}"


def _unpublished(evaluation: Evaluation, run: str | None) -> str:
    if run is None:
        return "none: evaluated outside a retrain"
    passed = all(verdict.passed for verdict in evaluation.verdicts)
    return "none yet" if passed else "none: a refused model is not published"


def _rough(evaluation: Evaluation) -> str:
    """Return the horizons whose intervals are rough; empty where none is."""
    few = [each.horizon_ms for each in evaluation.dependence if each.blocks < formatting.FEW_BLOCKS]
    if len(few) == len(evaluation.dependence) > 1:
        return "every horizon"
    return formatting.horizons(few) if few else ""


def _horizons(evaluation: Evaluation) -> list[int]:
    horizons: set[int] = set()
    for part in (
        evaluation.horizon_metrics,
        evaluation.comparisons,
        evaluation.calibration,
        evaluation.confidence,
        evaluation.confusion,
        evaluation.effects,
    ):
        horizons.update(figures.horizon_ms for figures in part)
    return sorted(horizons)


def _section(evaluation: Evaluation, horizon: int) -> HorizonSection:
    """Gather one horizon's part of each list."""
    name = formatting.horizon(horizon)
    predictors = [metrics for metrics in evaluation.horizon_metrics if metrics.horizon_ms == horizon]
    comparisons = [comparison for comparison in evaluation.comparisons if comparison.horizon_ms == horizon]
    calibrations = [calibration for calibration in evaluation.calibration if calibration.horizon_ms == horizon]
    points = [point for point in evaluation.confidence if point.horizon_ms == horizon]
    effects = [effect for effect in evaluation.effects if effect.horizon_ms == horizon]
    least = min(
        (metrics.log_loss.value for metrics in predictors if not math.isnan(metrics.log_loss.value)), default=None
    )
    return HorizonSection(
        name=name,
        model=next((metrics for metrics in predictors if metrics.predictor == MODEL), None),
        predictors=predictors,
        best=[metrics.predictor for metrics in predictors if metrics.log_loss.value == least],
        comparisons=comparisons,
        shares=evaluation.class_shares.get(str(horizon)),
        calibration=calibrations,
        levels=[_level(direction, points) for direction in DIRECTIONS],
        confusion=next((confusion for confusion in evaluation.confusion if confusion.horizon_ms == horizon), None),
        effects=effects,
        untraded=", ".join(formatting.number(effect.confidence, 2) for effect in effects if not effect.trades),
        earnings=formatting.earnings(name, effects),
        differences_plot=plots.plot_differences(name, comparisons),
        reliability_plot=plots.plot_reliability(name, calibrations),
        confidence_plot=plots.plot_confidence(name, points),
    )


def _level(direction: str, points: Sequence[AtConfidence]) -> Level:
    own = sorted((point for point in points if point.direction == direction), key=lambda point: point.confidence)
    empty = ", ".join(formatting.number(point.confidence, 2) for point in own if not point.rows)
    return Level(direction, [point for point in own if point.rows], empty, formatting.few_blocks(direction, own))
