"""`lobsmith status`: requested and actual state."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.markup import escape
from rich.table import Table

from lobsmith import clock
from lobsmith.cli.options import json_option, model_option, print_json, results
from lobsmith.cli.times import format_time, parse_time
from lobsmith.errors import LobsmithError
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.release.repository.journal import Entry

_Value = TypeVar("_Value")


@click.command()
@click.option("--at", metavar="TIME", help="What was serving then, and why: ISO 8601, UTC unless it has a zone.")
@click.option("--all", "everything", is_flag=True, help="List the versions of candidates and companions too.")
@model_option
@json_option
@click.pass_obj
def status(workspace: Workspace, at: str | None, everything: bool, model: str | None, as_json: bool) -> None:
    """Show what the registry requests, the repository has and Triton serves."""
    if at is not None:
        _show_past(workspace, at, model, as_json)
        return
    state = _state(workspace, model)
    if as_json:
        print_json(state)
        return
    server = state["server"]
    if server:
        results.print(f"page     {server['page']}", soft_wrap=True)
    results.print(
        f"server   HTTP {server['http']}, gRPC {server['grpc']}, metrics {server['metrics']}, modes {server['modes']}"
        if server
        else "server   not running; start it with `lobsmith serve`",
        soft_wrap=True,
    )
    for error in state["errors"]:
        results.print(f"[red]error[/red]    {error}", soft_wrap=True)
    for alert in state["alerts"]:
        text = escape(f"{alert['since']}  {alert['name']}: {alert['message']}")
        results.print(f"[red]alert[/red]    {text}", soft_wrap=True)
    for incident in state["findings"]:
        remedy = ("lobsmith repository verify --repair would " if incident["safe"] else "") + incident["remedy"]
        text = escape(f"{incident['place']}: {incident['words']}; {remedy}")
        results.print(f"[red]wrong[/red]    {text}", soft_wrap=True)
    if not state["models"]:
        of = "" if model is None else f" of {model}"
        results.print(f"models   none{of} yet; make one with `lobsmith retrain`", soft_wrap=True)
        return
    shown, folded = _folded(state["models"], everything=everything)
    results.print(_table({name: state["models"][name] for name in shown}))
    for name, row in state["models"].items():
        for version, why in row["faults"].items():
            results.print(f"[red]fault[/red]    {name} {version}: {escape(why)}", soft_wrap=True)
    if folded:
        names = ", ".join(f"{name} {state['models'][name]['active'] or '-'}" for name in folded)
        results.print(f"beside   {names}; --all lists their versions", soft_wrap=True)
    for name, row in state["models"].items():
        if aliases := [f"{alias} {row[alias]}" for alias in ("champion", "challenger") if row[alias]]:
            results.print(f"aliases  {name}: {', '.join(aliases)}", soft_wrap=True, markup=False)
    for name, row in state["models"].items():
        if (service := row["state"]) and service["detail"]:
            text = escape(f"{name}: {service['name']}: {service['detail']}")
            results.print(f"[{service['colour']}]state[/]    {text}", soft_wrap=True)
        if row["waits"]:
            results.print(f"waits    {name}: {row['waits']}", soft_wrap=True, markup=False)
        if row["verdict"]:
            results.print(f"verdict  {name}: {row['verdict']}", soft_wrap=True, markup=False)
        if mode := row["mode"]:
            text = f"{mode['mode']} since {mode['since']}: {mode['reason']}"
            results.print(f"mode     {name}: {text}", soft_wrap=True, markup=False)
    for entry in state["journal"]:
        text = f"{entry['time']}  {entry['action']:<10} {entry['model']} {entry['version']}  {entry['reason']}"
        results.print(text, soft_wrap=True, markup=False)


def _folded(models: dict[str, Any], *, everything: bool) -> tuple[list[str], list[str]]:
    """Return the models of the table, and those that only follow one of them."""
    from lobsmith.release.version.names import family, may_produce

    follow = {name for model in models if may_produce(model) for name in family(model)[1:]}
    folded = [] if everything else [name for name in models if name in follow]
    return [name for name in models if name not in folded], folded


def _table(models: dict[str, Any]) -> Table:
    """Return the listed versions, newest first, in at most 80 columns for a short name."""
    table = Table()
    for heading in ("model", "version", "READY", "serves", "state", "mode"):
        table.add_column(heading, no_wrap=heading == "version", overflow="fold")
    for name, row in models.items():
        state, mode = row["state"], row["mode"]
        texts = (f"[{state['colour']}]{state['name']}[/]" if state else "-", mode["mode"] if mode else "-")
        for place, version in enumerate(sorted(row["listed"], reverse=True) or ["-"]):
            serves = "active" if version == row["active"] else "fallback" if place == 1 else ""
            ready = "yes" if version in row["ready"] else "no"
            table.add_row(name if place == 0 else "", str(version), ready, serves, *(texts if place == 0 else ()))
    return table


def _show_past(workspace: Workspace, at: str, only: str | None, as_json: bool) -> None:
    from lobsmith.monitoring.mode.store import mode_at
    from lobsmith.release.repository import journal
    from lobsmith.release.version.names import family, may_produce

    time = parse_time(at)
    time_ns = int(time.timestamp() * NS_PER_S)
    entries = [entry for entry in journal.read(workspace.journal) if only is None or entry.model in family(only)]
    begins_ns = min((entry.time_ns for entry in entries), default=None)
    lines: dict[str, Any] = {}
    for model in sorted({entry.model for entry in entries} - {journal.EVERYTHING}):
        entry = journal.state_at(entries, model, time_ns)
        if entry is None:
            lines[model] = None
            continue
        lines[model] = {**_line(entry), "verdicts": list(map(str, entry.verdicts)), "mode": None}
        if may_produce(model) and (change := mode_at(workspace, model, time_ns)):
            lines[model]["mode"] = _mode_line(change.mode_to, change.time_ns, change.reason, who=change.actor)
    if as_json:
        begins = None if begins_ns is None else format_time(begins_ns)
        print_json({"at": time.isoformat(), "known_since": begins, "models": lines})
        return
    of = "" if only is None else f" of {only}"
    if begins_ns is None:
        results.print(f"nothing is known{of}: nothing was published here yet", soft_wrap=True)
        return
    if time_ns < begins_ns:
        begins = f"the journal begins at {format_time(begins_ns)}"
        results.print(f"nothing is known{of} at {time.isoformat()}: {begins}", soft_wrap=True)
        return
    for model, line in lines.items():
        if line is None:
            results.print(f"{model}: served nothing")
        else:
            reason = f": {line['reason']}" if line["reason"] else ""
            text = f"{model} {line['version']}, {line['action']} at {line['time']} by {line['who']}{reason}"
            results.print(text, soft_wrap=True, markup=False)
            for verdict in line["verdicts"]:
                results.print(f"    {verdict}", soft_wrap=True)
            if mode := line["mode"]:
                text = f"    mode {mode['mode']} since {mode['since']} by {mode['who']}: {mode['reason']}"
                results.print(text, soft_wrap=True, markup=False)


def _line(entry: "Entry") -> dict[str, Any]:
    return {
        "time": format_time(entry.time_ns),
        "action": entry.action,
        "model": entry.model,
        "version": entry.version_to,
        "who": entry.actor,
        "reason": entry.reason,
    }


def _mode(workspace: Workspace, model: str) -> dict[str, str] | None:
    from lobsmith.monitoring.mode.store import read_mode
    from lobsmith.release.version.names import may_produce

    published = read_mode(workspace, model) if may_produce(model) else None
    return None if published is None else _mode_line(published.mode, published.since_ns, published.reason)


def _service_state(workspace: Workspace, model: str) -> dict[str, str] | None:
    """Return name, detail and colour of a production model's state."""
    from lobsmith.monitoring.mode.store import read_mode
    from lobsmith.monitoring.state import connected, state_now
    from lobsmith.params import load_params
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.manifest import read_manifest
    from lobsmith.release.version.names import may_produce

    repository = Repository.of(workspace)
    version = repository.active(model)
    if version is None or not may_produce(model):
        return None
    params, now_ns = load_params(workspace.params), clock.now_ns()
    active = read_manifest(repository.directory(model, version))
    published = read_mode(workspace, model)
    checked = (published.looked_ns, published.state) if published and published.version == version else None
    state = state_now(connected(workspace, params, active, now_ns=now_ns), checked, params.modes.stale_s, now_ns)
    return {"name": state.name, "detail": state.detail, "colour": state.colour}


def _waiting_reason(workspace: Workspace, model: str) -> str | None:
    """Return what refused clients of a model wait for, if any."""
    from lobsmith.monitoring.waiting import uncompared, waiting
    from lobsmith.params import load_params
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.manifest import read_manifest
    from lobsmith.release.version.names import candidate_model, may_produce

    repository, deployment = Repository.of(workspace), candidate_model(model)
    version = repository.active(model)
    if version is None or not may_produce(model):
        return None
    active, candidate = read_manifest(repository.directory(model, version)), repository.active(deployment)
    if candidate is not None:
        challenger = read_manifest(repository.directory(deployment, candidate))
        decision = uncompared(workspace, load_params(workspace.params), active, challenger, now_ns=clock.now_ns())
        if decision is not None:
            return f"{decision.reason}; the shadow flow makes it the champion" if decision.promote else decision.reason
    refused = [instrument for instrument in waiting(workspace, model) if not active.was_trained_on(instrument)]
    if not refused:
        return None
    return f"{', '.join(refused)}: clients wait, {model} {version} was not trained on it; a retrain on it is needed"


def _mode_line(mode: str, since_ns: int, reason: str, **more: str) -> dict[str, str]:
    return {"mode": mode, "since": format_time(since_ns), "reason": reason, **more}


def _state(workspace: Workspace, only: str | None) -> dict[str, Any]:
    from lobsmith.monitoring.alerts import firing
    from lobsmith.release.repository import journal
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.names import family
    from lobsmith.serving.triton.control import connect
    from lobsmith.serving.triton.loadable import loadable

    repository = Repository.of(workspace)
    errors: list[str] = []
    # A corrupt file must not hide the rest.
    control = _value(errors, lambda: connect(workspace))
    models = {}
    for model in repository.models():
        if only is not None and model not in family(only):
            continue
        faults: dict[int, str] = {}
        listed: list[int] = []
        ready: list[int] = []
        error = None
        try:
            listed = repository.listed(model)
            faults = loadable(workspace, model)[1] if control else repository.valid(model)[1]
            ready = control.ready_versions(model) if control else []
            unloadable = control.failures(model) if control else {}
            faults |= {version: why for version, why in unloadable.items() if version in set(listed) - faults.keys()}
        except LobsmithError as fault:
            error = str(fault)
        models[model] = {
            **_aliases(workspace, model),
            "mode": _value(errors, partial(_mode, workspace, model)),
            "state": _value(errors, partial(_service_state, workspace, model)),
            "waits": _value(errors, partial(_waiting_reason, workspace, model)),
            "active": max(listed, default=None),
            "listed": listed,
            "ready": ready,
            "faults": {str(version): why for version, why in faults.items()} | ({"-": error} if error else {}),
        }
    entries = _value(errors, lambda: journal.read(workspace.journal)) or []
    return {
        "server": {
            "http": control.endpoint.http_url,
            "grpc": control.endpoint.grpc_url,
            "metrics": control.endpoint.metrics_url,
            "modes": control.endpoint.modes_url,
            "page": control.endpoint.page_url,
        }
        if control
        else None,
        "models": models,
        "findings": _value(errors, lambda: _incidents(workspace)) or [],
        "alerts": [
            {
                "since": format_time(alert.time_ns),
                "name": alert.name,
                "about": alert.about,
                "message": alert.message,
            }
            for alert in _value(errors, lambda: firing(workspace)) or ()
            if only is None or alert.about in family(only)
        ],
        "journal": [_line(entry) for entry in entries if only is None or entry.model in family(only)][-5:],
        "errors": errors,
    }


def _incidents(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the integrity errors outside a version's files."""
    import msgspec

    from lobsmith.release.audit.verify import IntegrityKind, verify
    from lobsmith.serving.triton.control import served_versions

    try:
        served = served_versions(workspace)
    except LobsmithError:
        served = None
    incidents = [incident for incident in verify(workspace, served) if incident.kind is not IntegrityKind.CORRUPT]
    return [{"kind": incident.kind.value, **msgspec.to_builtins(incident)} for incident in incidents]


def _value(errors: list[str], read: Callable[[], _Value]) -> _Value | None:
    """Return the value of `read`, or None with its error added to `errors`."""
    try:
        return read()
    except LobsmithError as error:
        message = " ".join(str(error).split())
        if message not in errors:
            errors.append(message)
        return None


def _aliases(workspace: Workspace, model: str) -> dict[str, str | None]:
    """Return champion, challenger and its last verdict, or the registry's error."""
    import msgspec

    from lobsmith.release.registry.aliases import SHADOW, alias_targets
    from lobsmith.release.version.names import may_produce
    from lobsmith.verdict import Verdict
    from lobsmith.workspace import SQLITE

    empty: dict[str, str | None] = {"champion": None, "challenger": None, "verdict": None}
    embedded = workspace.mlflow_uri.startswith(SQLITE)
    if not may_produce(model) or (embedded and not (workspace.home / "mlflow.db").exists()):
        return empty
    try:
        targets = alias_targets(workspace, model)
    except LobsmithError as error:
        return {**empty, "champion": f"unknown: {error}"}
    text = None
    if targets.challenger is not None and (tag := targets.challenger.tags.get(SHADOW)):
        try:
            verdict = msgspec.json.decode(tag, type=Verdict)
            decision, reason = verdict.evidence.get("decision"), verdict.evidence.get("reason")
            text = f"{decision}: {reason}" if decision else str(verdict)
        except msgspec.DecodeError:
            text = tag
    aliases = {"champion": targets.champion, "challenger": targets.challenger}
    return {
        **{
            name: None if target is None else f"registered version {target.version}" for name, target in aliases.items()
        },
        "verdict": text,
    }
