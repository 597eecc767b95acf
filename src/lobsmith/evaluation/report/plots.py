"""Drawings of the evaluation page."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lobsmith.evaluation.report.formatting import BETTER, FEW_BLOCKS, NO_DIFFERENT, WORSE, number, outcome
from lobsmith.evaluation.report.svg import ACCENT, BAD, DOWN, GOOD, INK, MUTED, PAPER, STILL, UP, svg
from lobsmith.evaluation.results import MODEL, AtConfidence, Calibration, Comparison
from lobsmith.features.definitions import DIRECTIONS

if TYPE_CHECKING:
    from lobsmith.models.trainer import Epoch

_LONGEST_NAME = 24
_BY_OUTCOME = {BETTER: GOOD, NO_DIFFERENT: MUTED, WORSE: BAD}
_BY_DIRECTION = dict(zip(DIRECTIONS, ((DOWN, "v"), (STILL, "s"), (UP, "^")), strict=True))


def plot_differences(name: str, comparisons: Sequence[Comparison]) -> Markup:
    """Draw the forest plot of one horizon; a difference far beyond the others is an arrow at the edge."""
    drawn = [
        comparison
        for comparison in comparisons
        if all(map(math.isfinite, (comparison.difference.low, comparison.difference.value, comparison.difference.high)))
    ]
    if not drawn:
        return Markup("")
    extents = [max(abs(comparison.difference.low), abs(comparison.difference.high)) for comparison in drawn]
    limit = min(max(extents), 4 * statistics.median(extents)) * 1.1 or 1.0

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for y, comparison in enumerate(drawn):
            _difference(axes, y, comparison, limit)
        axes.set_yticks(range(len(drawn)), [_short(comparison.against) for comparison in drawn])
        axes.set(xlim=(-limit, limit), ylim=(len(drawn) - 0.5, -0.5), title=name)
        axes.set_xlabel("log-loss of the model less the baseline's, nats\n← model better · model worse →")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))

    summary = "; ".join(
        f"{comparison.against} {number(comparison.difference.value, signed=True)}" for comparison in drawn
    )
    return svg(f"differences-{name}", f"Log-loss differences at {name}: {summary}", 1.3 + 0.27 * len(drawn), draw)


def _difference(axes: Axes, y: int, comparison: Comparison, limit: float) -> None:
    result, value = outcome(comparison.difference), comparison.difference.value
    colour = _BY_OUTCOME[result]
    axes.plot([comparison.difference.low, comparison.difference.high], [y, y], color=colour, linewidth=2)
    if abs(value) > limit:
        side = math.copysign(1, value)
        axes.plot([side * limit * 0.97], [y], marker="<" if value < 0 else ">", color=colour, markersize=7)
        text, anchor = number(value, signed=True), "left" if value < 0 else "right"
        axes.text(side * limit * 0.9, y, text, ha=anchor, va="center", color=colour, fontsize=8.5)
        return
    inside = PAPER if result == NO_DIFFERENT else colour
    axes.plot([value], [y], marker="o", markersize=6, color=colour, markerfacecolor=inside)


def plot_reliability(name: str, calibrations: Sequence[Calibration]) -> Markup:
    """Draw the reliability diagram of one horizon: the model in colour, the others in grey behind it."""
    curves = [
        (calibration.predictor == MODEL, calibration.points) for calibration in calibrations if calibration.points
    ]
    if not curves:
        return Markup("")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0.3, 1], [0.3, 1], color=INK, linewidth=0.8, linestyle="--", label="predicted = came true")
        others = 0
        for own, points in sorted(curves, key=lambda curve: curve[0]):
            predicted, true = [point.predicted for point in points], [point.came_true for point in points]
            if own:
                largest = max(point.rows for point in points) or 1
                axes.plot(predicted, true, color=ACCENT, linewidth=1.6, label="model; larger dot: more rows")
                axes.scatter(
                    predicted, true, [10 + 60 * point.rows / largest for point in points], color=ACCENT, zorder=3
                )
            else:
                others += 1
                label = "other predictors" if others == 1 else None
                axes.plot(predicted, true, color=MUTED, linewidth=0.9, marker=".", markersize=4, alpha=0.7, label=label)
        axes.set(xlabel="predicted probability of the likeliest direction", ylabel="share that came true")
        axes.legend(fontsize=8.5)

    return svg(f"reliability-{name}", f"Reliability diagram at {name}", 3.5, draw)


def plot_confidence(name: str, points: Sequence[AtConfidence]) -> Markup:
    """Draw precision and recall where there are rows, over confidence; hollow where too few blocks back the point."""
    points = [point for point in points if point.rows]
    if not points:
        return Markup("")

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        for direction, (colour, marker) in _BY_DIRECTION.items():
            own = sorted(
                (point for point in points if point.direction == direction), key=lambda point: point.confidence
            )
            if not own:
                continue
            x = [point.confidence for point in own]
            for axes, y in ((above, [point.precision for point in own]), (below, [point.recall for point in own])):
                axes.plot(x, y, color=colour, linewidth=1.4, marker=marker, label=direction)
                for level, height in zip(own, y, strict=True):
                    if level.blocks < FEW_BLOCKS:
                        axes.plot([level.confidence], [height], marker=marker, color=colour, markerfacecolor=PAPER)
        levels = sorted({point.confidence for point in points})
        above.plot(levels, levels, color=INK, linewidth=0.8, linestyle="--", label="as predicted")
        above.set(ylabel="precision", ylim=(-0.03, 1.03), title=f"hollow: fewer than {FEW_BLOCKS} blocks")
        below.set(ylabel="recall", xlabel="confidence: probability of the direction at least", ylim=(-0.03, None))
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)

    return svg(f"confidence-{name}", f"Precision and recall over confidence at {name}", 4.4, draw)


def plot_attention(weights: Sequence[float]) -> Markup:
    """Draw the mean weight of a row by its age."""
    if not any(map(math.isfinite, weights)):
        return Markup("")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.fill_between(range(len(weights)), weights, step="mid", color=ACCENT, alpha=0.25, linewidth=0)
        axes.step(range(len(weights)), weights, where="mid", color=ACCENT, linewidth=1.4)
        axes.axhline(1 / len(weights), color=INK, linewidth=0.8, linestyle="--", label="all rows alike")
        axes.set(xlabel="age in rows (0: the newest)", ylabel="mean weight", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(fontsize=8.5)

    return svg("attention", "Mean attention weight by age in rows", 2.8, draw)


def plot_training(history: Sequence["Epoch"]) -> Markup:
    """Draw the losses by epoch, and the epoch that was kept."""
    if not history:
        return Markup("")
    epochs = [epoch.epoch for epoch in history]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(epochs, [epoch.train_loss for epoch in history], color=MUTED, marker=".", label="training")
        axes.plot(epochs, [epoch.validation_loss for epoch in history], color=ACCENT, marker=".", label="validation")
        finite = [epoch for epoch in history if math.isfinite(epoch.validation_loss)]
        if finite:
            best = min(finite, key=lambda epoch: epoch.validation_loss)
            label = f"best, epoch {best.epoch}"
            axes.plot([best.epoch], [best.validation_loss], color=GOOD, marker="o", linestyle="", label=label)
        axes.set(xlabel="epoch", ylabel="loss, nats")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.legend(fontsize=8.5)

    return svg("training", "Training and validation loss by epoch", 2.8, draw)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
