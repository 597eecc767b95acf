"""Plots of the page of a drift check."""

from collections.abc import Sequence
from datetime import UTC

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, FeatureShift, Finding, Kind
from lobsmith.evaluation.report.formatting import figure as figure_text
from lobsmith.evaluation.report.formatting import horizon, number
from lobsmith.evaluation.report.svg import ACCENT, BAD, DOWN, GOOD, INK, MUTED, PAPER, svg
from lobsmith.monitoring.accuracy import VersionAccuracy
from lobsmith.monitoring.drift.content import PageChange
from lobsmith.monitoring.drift.history import PastCheck, PastVerdict, as_line
from lobsmith.units import NS_PER_DAY

_NOTHING = Markup("")
_TICKS = 6
_BY_KIND = {Kind.COVARIATE: ACCENT, Kind.PREDICTION: MUTED, Kind.CONCEPT: DOWN}
_BY_FINDING = {
    Finding.DRIFT: (BAD, "o", BAD),
    Finding.NO_DRIFT: (GOOD, "o", GOOD),
    Finding.INSUFFICIENT: (MUTED, "o", PAPER),
    Finding.MISSING: (BAD, "x", BAD),
}
"""Colour, marker and fill."""
_BY_MODE = {"normal": GOOD, "conservative": DOWN, "paused": BAD}
_NORMAL = "normal"
_LEAST_P = 1e-4


def plot_moved(kind: Kind, moved: FeatureShift) -> Markup:
    """Draw both distributions of a shifted quantity, bin beside bin; the outermost bins hold all beyond them."""
    if not moved.reference or len(moved.edges) != len(moved.reference) + 1:
        return _NOTHING
    place = np.arange(len(moved.reference) + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for shares, colour, label, alpha in (
            (moved.reference, MUTED, "reference", 0.35),
            (moved.recent, ACCENT, "recent", 0.2),
        ):
            axes.stairs(shares, place, fill=True, color=colour, alpha=alpha, linewidth=0)
            axes.stairs(shares, place, color=colour, linewidth=1.5, label=label)
        chosen = np.unique(np.linspace(0, place[-1], min(_TICKS, len(place))).round().astype(int))
        axes.set_xticks(chosen, [figure_text(float(f"{moved.edges[edge]:.3g}")) for edge in chosen])
        axes.set(ylabel="share of rows", ylim=(0, None), title=moved.name)
        axes.grid(visible=False, axis="x")
        axes.legend(fontsize=8.5)

    description = f"Distribution of {moved.name}, then and now: PSI {number(moved.psi, 3)}"
    return svg(f"moved-{kind.value}-{moved.name}", description, 2.5, draw)


def plot_null(verdict: DriftVerdict) -> Markup:
    """Draw the null distribution, and the statistic now."""
    if not verdict.null:
        return _NOTHING
    past = np.sort(np.asarray(verdict.null))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(past, bins=min(20, max(5, len(past) // 2)), color=MUTED, alpha=0.35)
        axes.plot(past, np.zeros_like(past), color=MUTED, marker="|", linestyle="", markersize=9)
        if verdict.value is not None:
            colour = _BY_FINDING[verdict.finding][0]
            axes.axvline(verdict.value, color=colour, linewidth=2, label=f"now {number(verdict.value, 3)}")
            axes.legend(fontsize=8.5)
        what = "AUC" if verdict.kind is Kind.COVARIATE else "statistic"
        axes.set(xlabel=what, ylabel="past windows", title=f"{verdict.kind.value}: {len(past)} past windows")

    description = f"{verdict.kind.value} drift: {number(verdict.value, 3)} now, past {number(past[0], 3)} to"
    return svg(f"null-{verdict.kind.value}", f"{description} {number(past[-1], 3)}", 2.5, draw)


def plot_history(check: DriftCheck, earlier: Sequence[PastCheck], changes: Sequence[PageChange]) -> Markup:
    """Draw the findings, the discriminator's AUC and the p-values of past checks, over the modes."""
    lines = [*earlier, as_line(check, "", None)]

    def draw(figure: Figure) -> None:
        above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1, 1.2))
        for axes in (above, middle, below):
            _modes(axes, lines[0].looked_ns, lines[-1].looked_ns, changes)
        _findings(above, lines)
        _statistics(middle, below, lines)
        _time_axis(below)
        handles, labels = above.get_legend_handles_labels()
        more, names = below.get_legend_handles_labels()
        figure.legend(handles + more, labels + names, loc="outside lower center", ncols=3, fontsize=8.5)

    return svg("history", f"Findings of {len(lines)} checks", 5.0, draw)


def plot_losses(losses: Sequence[Sequence[VersionAccuracy]]) -> Markup:
    """Draw each version's log-loss at the first horizon over time; bins without a known outcome are gaps."""
    drawn = [bins for bins in losses if any(_loss(accuracy) is not None for accuracy in bins)]
    if not drawn:
        return _NOTHING

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, bins in enumerate(drawn):
            known = [accuracy for accuracy in bins if accuracy.from_ns is not None]
            times = [_time(accuracy.from_ns) for accuracy in known if accuracy.from_ns is not None]
            values = [_or_nan(_loss(accuracy)) for accuracy in known]
            label = f"{bins[0].model} {bins[0].version}"
            axes.plot(times, values, color=(ACCENT, DOWN)[place % 2], marker=".", label=label)
            if place == 0:
                base = [
                    _or_nan(accuracy.horizons[0].base_log_loss if accuracy.horizons else None) for accuracy in known
                ]
                axes.plot(times, base, color=MUTED, linestyle="--", linewidth=0.9, label="base rate")
        axes.set(ylabel=f"log-loss at {horizon(drawn[0][0].horizons[0].horizon_ms)}, nats")
        _time_axis(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)

    return svg("losses", "Log-loss over time", 2.8, draw)


def _modes(axes: Axes, first_ns: int, last_ns: int, changes: Sequence[PageChange]) -> None:
    for place, change in enumerate(changes):
        until = changes[place + 1].time_ns if place + 1 < len(changes) else last_ns
        start, end = max(change.time_ns, first_ns), min(until, last_ns)
        if change.after != _NORMAL and start < end:
            colour = _BY_MODE.get(change.after, MUTED)
            axes.axvspan(_time(start), _time(end), color=colour, alpha=0.13, linewidth=0)


def _findings(axes: Axes, lines: Sequence[PastCheck]) -> None:
    kinds = list(Kind)
    for finding, (colour, marker, inside) in _BY_FINDING.items():
        places = [(line, y) for line in lines for y, kind in enumerate(kinds) if _finding(line, kind) is finding]
        if places:
            times, heights = [_time(line.looked_ns) for line, _ in places], [y for _, y in places]
            axes.plot(
                times,
                heights,
                color=colour,
                label=finding.value,
                marker=marker,
                markersize=4,
                markerfacecolor=inside,
                linestyle="",
            )
    axes.set_yticks(range(len(kinds)), [kind.value for kind in kinds])
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _statistics(auc: Axes, p_value: Axes, lines: Sequence[PastCheck]) -> None:
    verdicts = [(line.looked_ns, line.of(Kind.COVARIATE)) for line in lines]
    known = [
        (_time(at), verdict.value) for at, verdict in verdicts if verdict is not None and verdict.value is not None
    ]
    auc.plot([at for at, _ in known], [value for _, value in known], color=ACCENT, marker=".", linewidth=0.9)
    auc.axhline(0.5, color=INK, linewidth=0.8, linestyle="--")
    auc.set(ylabel="AUC of rows")
    for kind, colour in _BY_KIND.items():
        verdicts = [(line.looked_ns, line.of(kind)) for line in lines]
        known = [
            (_time(at), verdict.p_value)
            for at, verdict in verdicts
            if verdict is not None and verdict.p_value is not None
        ]
        if known:
            times, values = [at for at, _ in known], [max(p, _LEAST_P) for _, p in known]
            p_value.plot(times, values, color=colour, marker=".", linewidth=0.9, label=f"p of {kind.value}")
    levels = [verdict.level for line in lines[-1:] for verdict in line.verdicts if verdict.level > 0]
    if levels:
        p_value.axhline(max(levels), color=INK, linewidth=0.8, linestyle="--", label="level")
    p_value.set(yscale="log", ylabel="p-value", ylim=(None, 1.5))
    p_value.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    p_value.yaxis.set_minor_formatter(NullFormatter())


def _finding(line: PastCheck, kind: Kind) -> Finding | None:
    verdict: PastVerdict | None = line.of(kind)
    return None if verdict is None else verdict.finding


def _loss(score: VersionAccuracy) -> float | None:
    return score.horizons[0].log_loss if score.horizons else None


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _time(nanoseconds: int) -> float:
    """Return a time as Matplotlib counts it: in days since 1970."""
    return nanoseconds / NS_PER_DAY


def _time_axis(axes: Axes) -> None:
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    axes.set_xlabel("UTC")
