"""The page of a shadow evaluation: two versions on the same rows of live traffic."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure

from lobsmith.errors import DataError
from lobsmith.evaluation.report import formatting
from lobsmith.evaluation.report.page import render
from lobsmith.evaluation.report.svg import ACCENT, BAD, GOOD, INK, MUTED, svg
from lobsmith.files import write_atomic
from lobsmith.online.answers import Answers, Compared
from lobsmith.online.e_values import log_capital, predictable_bounds
from lobsmith.online.evidence import LiveVerdict, compared_blocks, compared_horizons, losses
from lobsmith.params import PairedParams

_TEMPLATE = "shadow.html.jinja"
_NOTHING = Markup("")
_SECTIONS = {
    "decision": "Decision",
    "evidence": "Evidence by block",
    "losses": "Losses by horizon",
    "answers": "Answers and latency",
    "reading": "How to read this",
}
_FILTERS = (formatting.number, formatting.figure, formatting.count, formatting.percent, formatting.horizon)

Float = npt.NDArray[np.float64]


class Row(NamedTuple):
    """Both versions at one horizon, on the rows that both answered and whose label is known."""

    horizon_ms: int
    rows: int
    first_loss: float
    second_loss: float
    first_accuracy: float
    second_accuracy: float
    judged: bool


def render_shadow(verdict: LiveVerdict, compared: Compared, paired: PairedParams, *, margin: float = 0.0) -> str:
    """Return the page of a verdict, deterministic.

    Args:
        margin: nats a row that the second may be worse: `rollback.margin` of rollback verdicts.
    """
    differences, evidence = _blocks(compared, paired, margin)
    return render(
        "lobsmith.monitoring",
        _TEMPLATE,
        _FILTERS,
        v=verdict,
        rows=_rows(compared, paired),
        evidence_plot=_plot_evidence(evidence, verdict.threshold),
        difference_plot=_plot_differences(differences, verdict),
        titles=_SECTIONS,
    )


def shadow_path(directory: Path, verdict: LiveVerdict, model: str, version: int) -> Path:
    """Return the path of the page of a verdict about a version."""
    return directory / f"{verdict.gate}-{model}-{version}.html"


def write_shadow(
    directory: Path,
    evaluated: tuple[str, int],
    verdict: LiveVerdict,
    compared: Compared,
    paired: PairedParams,
    *,
    margin: float = 0.0,
) -> Path:
    """Write the page of a verdict about a model's version, in place of an earlier one; return its path.

    Raises:
        DataError: it cannot be written.
    """
    path = shadow_path(directory, verdict, *evaluated)
    try:
        write_atomic(path, render_shadow(verdict, compared, paired, margin=margin).encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; give this user the right to it") from error
    return path


def _blocks(compared: Compared, paired: PairedParams, margin: float) -> tuple[Float, Float]:
    """Return the blocks' differences, second less first, and log10 of both capitals after each, [K] and [2, K]."""
    blocks, _ = compared_blocks(compared, paired, margin=margin)
    if blocks.rule is None or not len(blocks.differences):
        return np.empty(0), np.empty((2, 0))
    bounds = predictable_bounds(blocks.differences, blocks.rule.measured, paired.clip)
    bets = np.clip(blocks.differences / bounds, -1.0, 1.0)
    return margin - blocks.differences, np.stack([log_capital(bets), log_capital(-bets)]) / np.log(10)


def _rows(compared: Compared, paired: PairedParams) -> list[Row]:
    judged = compared_horizons(compared.first.horizons_ms, paired.longest_ms)
    return [_row(compared, h, judged=h in judged) for h in range(len(compared.first.horizons_ms))]


def _row(compared: Compared, h: int, *, judged: bool) -> Row:
    (first_loss, known), (second_loss, also_known) = losses(compared.first, [h]), losses(compared.second, [h])
    both = known & also_known
    missing = float("nan")

    def mean(values: Float) -> float:
        return float(values[both].mean()) if both.any() else missing

    def accuracy(answers: Answers) -> float:
        right = answers.probabilities[both][:, h].argmax(axis=1) == answers.labels[both][:, h]
        return float(right.mean()) if both.any() else missing

    return Row(
        compared.first.horizons_ms[h],
        int(both.sum()),
        mean(first_loss),
        mean(second_loss),
        accuracy(compared.first),
        accuracy(compared.second),
        judged,
    )


def _plot_evidence(evidence: Float, threshold: float) -> Markup:
    if not evidence.shape[1]:
        return _NOTHING
    blocks = np.arange(1, evidence.shape[1] + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for capital, colour, label in zip(evidence, (GOOD, BAD), ("it is better", "it is worse"), strict=True):
            axes.plot(blocks, capital, color=colour, marker=".", label=label)
        axes.axhline(np.log10(threshold), color=INK, linewidth=0.9, linestyle="--", label="decides")
        axes.axhline(0.0, color=MUTED, linewidth=0.6)
        axes.set(xlabel="block", ylabel="e-value, log10")
        axes.legend(fontsize=8.5)

    return svg("evidence", "Evidence by block, for better and for worse", 2.8, draw)


def _plot_differences(differences: Float, verdict: LiveVerdict) -> Markup:
    if not len(differences):
        return _NOTHING
    blocks = np.arange(1, len(differences) + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0.0, color=INK, linewidth=0.9)
        if verdict.low is not None and verdict.high is not None:
            axes.axhspan(verdict.low, verdict.high, color=ACCENT, alpha=0.15, linewidth=0)
        if verdict.difference is not None:
            axes.axhline(verdict.difference, color=ACCENT, linewidth=0.9)
        axes.plot(blocks, differences, color=MUTED, marker="o", markersize=3, linestyle="")
        axes.set(xlabel="block", ylabel="log-loss less the first's, nats")

    return svg("differences", "Difference in log-loss of each block; below zero the second is better", 2.8, draw)
