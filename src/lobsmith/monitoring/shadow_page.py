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
from lobsmith.online.evidence import (
    KEEP,
    PROMOTE,
    REJECT,
    ROLL_BACK,
    LiveVerdict,
    compared_blocks,
    compared_horizons,
    e_value_text,
    losses,
)
from lobsmith.params import PairedParams

_TEMPLATE = "shadow.html.jinja"
_NOTHING = Markup("")
_SECTIONS = {
    "decision": "What it rests on",
    "evidence": "Evidence by block",
    "losses": "Losses by horizon",
    "answers": "Answers and latency",
    "reading": "How to read this",
}
_DECIDED = {
    PROMOTE: "{second} may take the place of {first}",
    REJECT: "{second} is rejected, {first} stays",
    ROLL_BACK: "{second} is to be rolled back to {first}",
    KEEP: "{second} stays",
}
_FILTERS = (
    formatting.number,
    formatting.figure,
    formatting.count,
    formatting.percent,
    formatting.horizon,
    e_value_text,
)

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
        first=first_of(verdict),
        answer=answer(verdict),
        tone=tone(verdict),
        missing=missing(verdict, paired),
        difference=difference_text(verdict),
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


def answer(verdict: LiveVerdict) -> str:
    """Return the decision in one sentence."""
    decided = _DECIDED.get(verdict.decision, "{second} is not decided yet")
    return f"{decided.format(first=first_of(verdict), second=verdict.second)}: {verdict.reason}."


def first_of(verdict: LiveVerdict) -> str:
    """Return the name of the first version; `without_fallback` numbers the one that there is not by 0."""
    return "no fallback" if verdict.first.endswith(" 0") else verdict.first


def tone(verdict: LiveVerdict) -> str:
    """Return the decision's tone: missing evidence is neither passed nor refused."""
    if verdict.decision in (REJECT, ROLL_BACK):
        return "refused"
    if not verdict.blocks:
        return "missing"
    return "passed" if verdict.passed else "no-different"


def missing(verdict: LiveVerdict, paired: PairedParams) -> str:
    """Return what is missing for a comparison of losses and what comes next; empty once a block is judged."""
    if verdict.blocks:
        return ""
    if not verdict.rows:
        return "No row was put to both versions yet. Rows come from live clients: start one with lobsmith live."
    if not verdict.compared:
        return (
            f"{formatting.count(verdict.rows)} rows came, none of which has an answer of both versions and a known "
            "outcome. Outcomes follow their rows by the horizon; a version that never answers shows below."
        )
    if verdict.block_s is None:
        return (
            f"The first {paired.measure_s:,.0f} s of traffic fix the length of blocks, {verdict.watched_s:,.0f} s have "
            "been watched. Blocks are judged from then on."
        )
    return f"No block of {verdict.block_s:,.0f} s is complete. The first is judged once its time has passed."


def difference_text(verdict: LiveVerdict) -> str:
    """Return the difference with as many ends of its interval as are known."""
    if verdict.difference is None:
        return "not known: no block is judged yet"
    low, high = (None if end is None else formatting.number(end, 4, signed=True) for end in (verdict.low, verdict.high))
    ends = f", between {low} and {high} at all times" if low and high else ", its interval is not known yet"
    if low and not high:
        ends = f", above {low} at all times"
    if high and not low:
        ends = f", below {high} at all times"
    mean = "" if verdict.mean_difference is None else formatting.number(verdict.mean_difference, 4, signed=True)
    plain = f"; plain mean {mean}" if mean else ""
    return f"{formatting.number(verdict.difference, 4, signed=True)} nats a row{ends}{plain}"


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
