"""`lobsmith mode`: a model's mode."""

from typing import TYPE_CHECKING

import click

from lobsmith import clock
from lobsmith.cli.options import json_option, model_option, overrides, print_json, results
from lobsmith.cli.times import format_time
from lobsmith.params import ModeParams, load_params
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.monitoring.mode.machine import ModeChange, PublishedMode
    from lobsmith.monitoring.mode.store import ModeUpdate

_LINES = 5


@click.group()
def mode() -> None:
    """Show or set the mode that gates predictions: normal, conservative or paused."""


@mode.command()
@model_option
@json_option
@click.pass_obj
def show(workspace: Workspace, model: str | None, as_json: bool) -> None:
    """Show mode, reason, last drift check and last changes."""
    from lobsmith.monitoring.mode.store import changes, read_mode

    params = load_params(workspace.params, overrides((), model))
    name = params.model.name
    published = read_mode(workspace, name)
    last = changes(workspace, name)[-_LINES:]
    if as_json:
        stale = published is None or _stale(published, params.modes)
        print_json({"model": name, "record": published, "away": stale, "changes": last})
        return
    if published is None:
        results.print(f"{name} has no mode yet; the monitor sets it with its first drift check", soft_wrap=True)
        return
    for heading, text in _described(published, params.modes):
        results.print(f"{heading:<10} {text}", soft_wrap=True, markup=False)
    for change in last:
        results.print(_change_line(change), soft_wrap=True, markup=False)


@mode.command(name="set")
@click.argument("name", metavar="MODE", type=click.Choice(["normal", "conservative", "paused"]))
@click.option("--reason", required=True, help="Why, for the journal.")
@model_option
@json_option
@click.pass_obj
def set_by_hand(workspace: Workspace, name: str, reason: str, model: str | None, as_json: bool) -> None:
    """Set MODE by hand until `lobsmith mode auto`; drift may make it more cautious meanwhile."""
    from lobsmith.monitoring.mode.machine import Mode
    from lobsmith.monitoring.mode.store import set_mode
    from lobsmith.process import user

    _show_update(set_mode(workspace, _model(workspace, model), Mode(name), reason, user()), as_json)


@mode.command()
@click.option("--reason", default="", help="Why, for the journal.")
@model_option
@json_option
@click.pass_obj
def auto(workspace: Workspace, reason: str, model: str | None, as_json: bool) -> None:
    """Let drift checks set the mode again; it stays until they have counted anew."""
    from lobsmith.monitoring.mode.store import set_auto
    from lobsmith.process import user

    _show_update(set_auto(workspace, _model(workspace, model), reason, user()), as_json)


def _model(workspace: Workspace, model: str | None) -> str:
    return load_params(workspace.params, overrides((), model)).model.name


def _show_update(update: "ModeUpdate", as_json: bool) -> None:
    after = update.after
    if as_json:
        print_json(after)
        return
    before = "no mode" if update.before is None else update.before.mode
    transition = f"was {before}" if update.changed else "as before"
    held = "held until `lobsmith mode auto`" if after.held else "set by drift checks"
    results.print(f"{after.model} {after.version} is {after.mode}, {transition}; {held}", soft_wrap=True)


def _described(published: "PublishedMode", params: ModeParams) -> list[tuple[str, str]]:
    from lobsmith.monitoring.state import State

    name = f"{published.model} {published.version}"
    held = ", set by hand" if published.held else ""
    checked_ns = published.looked_ns
    lines = [
        ("mode", f"{name} is {published.mode} since {format_time(published.since_ns)}{held}"),
        ("because", published.reason),
        *([("state", str(published.state))] if isinstance(published.state, State) else []),
        ("checked", f"{format_time(checked_ns)}: {published.last_look}" if checked_ns else "never"),
    ]
    if _stale(published, params):
        lines.append(("stale", f"no drift check for {params.stale_s:g} s; clients are at least conservative"))
    if published.mode != "normal":
        calm = min(published.calm_looks, params.calm_looks)
        transition = f"{calm} of {params.calm_looks} calm drift checks for a transition back"
        lines.append(("back", "only by `lobsmith mode auto`" if published.held else transition))
    if published.retrain_asked_ns is not None:
        lines.append(("retrain", f"requested at {format_time(published.retrain_asked_ns)}"))
    return [*lines, ("actionable", _actionable(published, params))]


def _actionable(published: "PublishedMode", params: ModeParams) -> str:
    """Return the buckets that are actionable in conservative mode."""
    from lobsmith.monitoring.mode.hit_rates import allowed

    rates = published.win_rates
    if rates is None:
        return "nothing while conservative: no hit rates are counted yet"
    buckets = []
    for horizon_ms, row, counts, hits in zip(
        rates.horizons_ms, allowed(rates, params), rates.counts, rates.wins, strict=True
    ):
        buckets += [
            f"{horizon_ms} ms from {low:.3f} to {high:.3f} ({correct} of {count} came true)"
            for low, high, actionable, count, correct in zip(
                rates.edges, rates.edges[1:], row, counts, hits, strict=False
            )
            if actionable
        ]
    answers = sum(map(sum, rates.counts))
    return "; ".join(buckets) or f"nothing while conservative: of {answers} answers no bucket came true often enough"


def _stale(published: "PublishedMode", params: ModeParams) -> bool:
    return clock.now_ns() - published.looked_ns > params.stale_s * NS_PER_S


def _change_line(change: "ModeChange") -> str:
    held = ", held" if change.held else ""
    transition = f"{change.mode_from or '-'} to {change.mode_to}{held}"
    return f"{format_time(change.time_ns)}  {transition} by {change.actor}: {change.reason}"
