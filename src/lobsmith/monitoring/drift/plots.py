"""Plots of the page of a drift check."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, FeatureShift, Finding, Kind
from lobsmith.evaluation.report.formatting import figure as figure_text
from lobsmith.evaluation.report.formatting import horizon, number
from lobsmith.evaluation.report.svg import ACCENT, BAD, DOWN, GOOD, INK, MUTED, PAPER, WARN, svg
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
    Finding.MISSING: (WARN, "x", WARN),
}
"""Colour, marker and fill."""
_BY_MODE = {"normal": GOOD, "conservative": WARN, "paused": BAD}
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
    """Draw the findings of past checks over the modes, and where known the discriminator's AUC and the p-values; the
    first check has no history.
    """
    if not earlier:
        return _NOTHING
    lines = [*earlier, as_line(check, "", None)]
    auc = [(at, verdict.value) for at, verdict in _of(lines, Kind.COVARIATE) if verdict.value is not None]
    p_values = {
        kind: [(at, max(verdict.p_value, _LEAST_P)) for at, verdict in _of(lines, kind) if verdict.p_value is not None]
        for kind in Kind
    }
    drawn = [_findings_of(lines)]
    if auc:
        drawn.append(_statistics_of(auc))
    if any(p_values.values()):
        drawn.append(_p_values_of(p_values, max((verdict.level for verdict in check.verdicts), default=0.0)))

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(len(drawn), 1, sharex=True))
        for axes, draw_panel in zip(panels, drawn, strict=True):
            _modes(axes, lines[0].looked_ns, lines[-1].looked_ns, changes)
            draw_panel(axes)
        _time_axis(panels[-1])
        named = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        handles, labels = zip(*named, strict=True)
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5)

    return svg("history", f"Findings of {len(lines)} checks", 1.4 + 1.2 * len(drawn), draw)


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


def _findings_of(lines: Sequence[PastCheck]) -> Callable[[Axes], None]:
    kinds = list(Kind)

    def draw(axes: Axes) -> None:
        for finding, (colour, marker, inside) in _BY_FINDING.items():
            places = [(line, y) for line in lines for y, kind in enumerate(kinds) if _finding(line, kind) is finding]
            if places:
                times, heights = [_time(line.looked_ns) for line, _ in places], [y for _, y in places]
                style: dict[str, Any] = {"marker": marker, "markersize": 4, "markerfacecolor": inside, "linestyle": ""}
                axes.plot(times, heights, color=colour, label=finding.value, **style)
        axes.set_yticks(range(len(kinds)), [kind.value for kind in kinds])
        axes.set_ylim(len(kinds) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")

    return draw


def _statistics_of(auc: Sequence[tuple[float, float]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.plot([at for at, _ in auc], [value for _, value in auc], color=ACCENT, marker=".", linewidth=0.9)
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle="--")
        axes.set(ylabel="AUC of rows")

    return draw


def _p_values_of(p_values: Mapping[Kind, Sequence[tuple[float, float]]], level: float) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for kind, known in p_values.items():
            if known:
                times, values = [at for at, _ in known], [p for _, p in known]
                label = f"p of {kind.value}"
                axes.plot(times, values, color=_BY_KIND[kind], marker=".", linewidth=0.9, label=label)
        if level > 0:
            axes.axhline(level, color=INK, linewidth=0.8, linestyle="--", label="level")
        axes.set(yscale="log", ylabel="p-value", ylim=(None, 1.5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())

    return draw


def _of(lines: Sequence[PastCheck], kind: Kind) -> list[tuple[float, PastVerdict]]:
    """Return the times and verdicts of the checks on a kind."""
    return [(_time(line.looked_ns), verdict) for line in lines if (verdict := line.of(kind)) is not None]


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
