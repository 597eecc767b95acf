"""`lobsmith mode`: what clients may act on, and a person's word on it."""

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
    """Show or set what clients may act on: normal, conservative or paused."""


@mode.command()
@model_option
@json_option
@click.pass_obj
def show(workspace: Workspace, model: str | None, as_json: bool) -> None:
    """Show the mode, why it is that, what the last look for drift found, and the last changes."""
    from lobsmith.monitoring.mode.store import changes, read_mode

    params = load_params(workspace.params, overrides((), model))
    name = params.model.name
    record = read_mode(workspace, name)
    last = changes(workspace, name)[-_LINES:]
    if as_json:
        print_json(
            {"model": name, "record": record, "away": record is None or _away(record, params.modes), "changes": last}
        )
        return
    if record is None:
        results.print(f"{name} has no mode yet; the monitor sets it with its first look for drift", soft_wrap=True)
        return
    for heading, words in _described(record, params.modes):
        results.print(f"{heading:<10} {words}", soft_wrap=True, markup=False)
    for change in last:
        results.print(_line(change), soft_wrap=True, markup=False)


@mode.command(name="set")
@click.argument("wanted", metavar="MODE", type=click.Choice(["normal", "conservative", "paused"]))
@click.option("--reason", required=True, help="Why, for the journal.")
@model_option
@json_option
@click.pass_obj
def set_by_hand(workspace: Workspace, wanted: str, reason: str, model: str | None, as_json: bool) -> None:
    """Set MODE by hand. It holds until `lobsmith mode auto`; drift may make it more cautious meanwhile."""
    from lobsmith.monitoring.mode.machine import Mode
    from lobsmith.monitoring.mode.store import set_mode
    from lobsmith.process import user

    _say(set_mode(workspace, _name(workspace, model), Mode(wanted), reason, user()), as_json)


@mode.command()
@click.option("--reason", default="", help="Why, for the journal.")
@model_option
@json_option
@click.pass_obj
def auto(workspace: Workspace, reason: str, model: str | None, as_json: bool) -> None:
    """Let looks for drift set the mode again; it stays what it is until they have counted anew."""
    from lobsmith.monitoring.mode.store import set_auto
    from lobsmith.process import user

    _say(set_auto(workspace, _name(workspace, model), reason, user()), as_json)


def _name(workspace: Workspace, model: str | None) -> str:
    return load_params(workspace.params, overrides((), model)).model.name


def _say(change: "ModeUpdate", as_json: bool) -> None:
    after = change.after
    if as_json:
        print_json(after)
        return
    before = "no mode" if change.before is None else change.before.mode
    words = f"was {before}" if change.changed else "as before"
    held = "held until `lobsmith mode auto`" if after.held else "set by looks for drift"
    results.print(f"{after.model} {after.version} is {after.mode}, {words}; {held}", soft_wrap=True)


def _described(record: "PublishedMode", params: ModeParams) -> list[tuple[str, str]]:
    from lobsmith.monitoring.state import State

    held = ", set by hand" if record.held else ""
    lines = [
        ("mode", f"{record.model} {record.version} is {record.mode} since {format_time(record.since_ns)}{held}"),
        ("because", record.reason),
        *([("state", str(record.state))] if isinstance(record.state, State) else []),
        ("looked", f"{format_time(record.looked_ns)}: {record.last_look}" if record.looked_ns else "never"),
    ]
    if _away(record, params):
        lines.append(
            ("away", f"the monitor has not looked for {params.stale_s:g} s; clients are cautious by themselves")
        )
    if record.mode != "normal":
        calm = f"{min(record.calm_looks, params.calm_looks)} of {params.calm_looks} calm looks for a step back"
        lines.append(("back", "only by `lobsmith mode auto`" if record.held else calm))
    if record.retrain_asked_ns is not None:
        lines.append(("retrain", f"asked for at {format_time(record.retrain_asked_ns)}"))
    return [*lines, ("acts on", _acted_on(record, params))]


def _acted_on(record: "PublishedMode", params: ModeParams) -> str:
    """Say which confidences conservative mode would act on."""
    from lobsmith.monitoring.mode.hit_rates import allowed

    rates = record.win_rates
    if rates is None:
        return "nothing while conservative: no win rates are counted yet"
    words = []
    for horizon_ms, row, counts, wins in zip(
        rates.horizons_ms, allowed(rates, params), rates.counts, rates.wins, strict=True
    ):
        words += [
            f"{horizon_ms} ms from {low:.3f} to {high:.3f} ({won} of {count} came true)"
            for low, high, may, count, won in zip(rates.edges, rates.edges[1:], row, counts, wins, strict=False)
            if may
        ]
    counted = sum(map(sum, rates.counts))
    return (
        "; ".join(words) or f"nothing while conservative: of {counted} answers counted no bucket came true often enough"
    )


def _away(record: "PublishedMode", params: ModeParams) -> bool:
    return clock.now_ns() - record.looked_ns > params.stale_s * NS_PER_S


def _line(change: "ModeChange") -> str:
    held = ", held" if change.held else ""
    step = f"{change.mode_from or '-'} to {change.mode_to}{held}"
    return f"{format_time(change.time_ns)}  {step} by {change.who}: {change.reason}"
