"""`lobsmith status`: desired and actual state."""

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

_Answer = TypeVar("_Answer")


@click.command()
@click.option("--at", metavar="TIME", help="What was serving then, and why: ISO 8601, UTC unless it says otherwise.")
@model_option
@json_option
@click.pass_obj
def status(workspace: Workspace, at: str | None, model: str | None, as_json: bool) -> None:
    """Show what the registry wants, what the repository holds and what Triton serves: of all models, or of one."""
    if at is not None:
        _show_past(workspace, at, model, as_json)
        return
    state = _state(workspace, model)
    if as_json:
        print_json(state)
        return
    server = state["server"]
    results.print(
        f"server   HTTP {server['http']}, gRPC {server['grpc']}, metrics {server['metrics']}, modes {server['modes']}"
        if server
        else "server   not running; start it with `lobsmith serve`",
        soft_wrap=True,
    )
    for error in state["errors"]:
        results.print(f"[red]error[/red]    {error}", soft_wrap=True)
    for alert in state["alerts"]:
        words = escape(f"{alert['since']}  {alert['name']}: {alert['message']}")
        results.print(f"[red]alert[/red]    {words}", soft_wrap=True)
    for one in state["findings"]:
        words = f"{one['place']}: {one['words']}; lobsmith repository verify --repair would {one['remedy']}"
        if not one["safe"]:
            words = f"{one['place']}: {one['words']}; {one['remedy']}"
        results.print(f"[red]wrong[/red]    {escape(words)}", soft_wrap=True)
    if not state["models"]:
        of = "" if model is None else f" of {model}"
        results.print(f"models   none{of} yet; make one with `lobsmith retrain`", soft_wrap=True)
        return
    table = Table()
    for heading in ("model", "champion", "challenger", "active", "listed", "READY", "state", "mode", "faults"):
        table.add_column(heading)
    for name, one in state["models"].items():
        table.add_row(
            name,
            escape(str(one["champion"] or "-")),
            str(one["challenger"] or "-"),
            str(one["active"] or "-"),
            ", ".join(map(str, one["listed"])),
            ", ".join(map(str, one["ready"])) or "-",
            f"[{one['state']['colour']}]{one['state']['name']}[/]" if one["state"] else "-",
            one["mode"]["mode"] if one["mode"] else "-",
            escape("; ".join(f"{version}: {why}" for version, why in one["faults"].items())) or "none",
        )
    results.print(table)
    for name, one in state["models"].items():
        if (seen := one["state"]) and seen["detail"]:
            words = f"{name}: {seen['name']}: {seen['detail']}"
            results.print(f"[{seen['colour']}]state[/]    {escape(words)}", soft_wrap=True)
        if one["waits"]:
            results.print(f"waits    {name}: {one['waits']}", soft_wrap=True, markup=False)
        if one["verdict"]:
            results.print(f"verdict  {name}: {one['verdict']}", soft_wrap=True, markup=False)
        if one["mode"]:
            words = f"{one['mode']['mode']} since {one['mode']['since']}: {one['mode']['reason']}"
            results.print(f"mode     {name}: {words}", soft_wrap=True, markup=False)
    for entry in state["journal"]:
        words = f"{entry['time']}  {entry['action']:<10} {entry['model']} {entry['version']}  {entry['reason']}"
        results.print(words, markup=False)


def _show_past(workspace: Workspace, at: str, only: str | None, as_json: bool) -> None:
    from lobsmith.monitoring.mode.store import mode_at
    from lobsmith.release.repository import journal
    from lobsmith.release.version.names import family, may_produce

    time = parse_time(at)
    entries = journal.read(workspace.journal)
    found: dict[str, Any] = {}
    for model in sorted({entry.model for entry in entries} - {journal.EVERYTHING}):
        if only is not None and model not in family(only):
            continue
        time_ns = int(time.timestamp() * NS_PER_S)
        entry = journal.state_at(entries, model, time_ns)
        if entry is None:
            found[model] = None
            continue
        found[model] = {**_line(entry), "verdicts": list(map(str, entry.verdicts)), "mode": None}
        if may_produce(model) and (change := mode_at(workspace, model, time_ns)):
            found[model]["mode"] = _mode_line(change.mode_to, change.time_ns, change.reason, who=change.who)
    if as_json:
        print_json({"at": time.isoformat(), "models": found})
        return
    for model, line in found.items():
        if line is None:
            results.print(f"{model}: served nothing")
        else:
            why = f": {line['reason']}" if line["reason"] else ""
            words = f"{model} {line['version']}, {line['action']} at {line['time']} by {line['who']}{why}"
            results.print(words, soft_wrap=True, markup=False)
            for verdict in line["verdicts"]:
                results.print(f"    {verdict}", soft_wrap=True)
            if mode := line["mode"]:
                words = f"    mode {mode['mode']} since {mode['since']} by {mode['who']}: {mode['reason']}"
                results.print(words, soft_wrap=True, markup=False)


def _line(entry: "Entry") -> dict[str, Any]:
    return {
        "time": format_time(entry.time_ns),
        "action": entry.action,
        "model": entry.model,
        "version": entry.version_to,
        "who": entry.who,
        "reason": entry.reason,
    }


def _mode(workspace: Workspace, model: str) -> dict[str, str] | None:
    from lobsmith.monitoring.mode.store import read_mode
    from lobsmith.release.version.names import may_produce

    record = read_mode(workspace, model) if may_produce(model) else None
    return None if record is None else _mode_line(record.mode, record.since_ns, record.reason)


def _in_service(workspace: Workspace, model: str) -> dict[str, str] | None:
    """Return the state of a production model that serves: its name, the detail, and the colour it is shown in."""
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
    record = read_mode(workspace, model)
    looked = (record.looked_ns, record.state) if record and record.version == version else None
    state = state_now(connected(workspace, params, active, now_ns=now_ns), looked, params.modes.stale_s, now_ns)
    return {"name": state.name, "detail": state.detail, "colour": state.colour}


def _waits(workspace: Workspace, model: str) -> str | None:
    """Return for what clients of a production model wait that it has refused; None where there are none."""
    from lobsmith.monitoring.waiting import unopposed, waiting
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
        beside = read_manifest(repository.directory(deployment, candidate))
        found = unopposed(workspace, load_params(workspace.params), active, beside, now_ns=clock.now_ns())
        if found is not None:
            return f"{found.reason}; the shadow flow makes it the champion" if found.promote else found.reason
    refused = [one for one in waiting(workspace, model) if not active.has_learnt(one)]
    if not refused:
        return None
    return f"clients ask about {', '.join(refused)}, which {model} {version} has not learnt; a retrain on it is needed"


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
    # One spoilt file must not hide what the others tell.
    control = _told(errors, lambda: connect(workspace))
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
            **_wanted(workspace, model),
            "mode": _told(errors, partial(_mode, workspace, model)),
            "state": _told(errors, partial(_in_service, workspace, model)),
            "waits": _told(errors, partial(_waits, workspace, model)),
            "active": max(listed, default=None),
            "listed": listed,
            "ready": ready,
            "faults": {str(version): why for version, why in faults.items()} | ({"-": error} if error else {}),
        }
    entries = _told(errors, lambda: journal.read(workspace.journal)) or []
    return {
        "server": {
            "http": control.endpoint.http_url,
            "grpc": control.endpoint.grpc_url,
            "metrics": control.endpoint.metrics_url,
            "modes": control.endpoint.modes_url,
        }
        if control
        else None,
        "models": models,
        "findings": _told(errors, lambda: _findings(workspace)) or [],
        "alerts": [
            {
                "since": format_time(alert.time_ns),
                "name": alert.name,
                "about": alert.about,
                "message": alert.message,
            }
            for alert in _told(errors, lambda: firing(workspace)) or ()
            if only is None or alert.about in family(only)
        ],
        "journal": [_line(entry) for entry in entries if only is None or entry.model in family(only)][-5:],
        "errors": errors,
    }


def _findings(workspace: Workspace) -> list[dict[str, Any]]:
    """Return what is wrong with the repository besides its versions' own faults."""
    import msgspec

    from lobsmith.release.audit.verify import IntegrityKind, verify
    from lobsmith.serving.triton.control import served_versions

    try:
        served = served_versions(workspace)
    except LobsmithError:
        served = None
    found = [one for one in verify(workspace, served) if one.kind is not IntegrityKind.UNSOUND]
    return [{"kind": one.kind.value, **msgspec.to_builtins(one)} for one in found]


def _told(errors: list[str], ask: Callable[[], _Answer]) -> _Answer | None:
    try:
        return ask()
    except LobsmithError as error:
        words = " ".join(str(error).split())
        if words not in errors:
            errors.append(words)
        return None


def _wanted(workspace: Workspace, model: str) -> dict[str, str | None]:
    """Return what the registry's aliases ask for and the last verdict on the challenger, or why that cannot be told."""
    import msgspec

    from lobsmith.release.registry.aliases import SHADOW, wanted
    from lobsmith.release.version.names import may_produce
    from lobsmith.verdict import Verdict
    from lobsmith.workspace import SQLITE

    nothing: dict[str, str | None] = {"champion": None, "challenger": None, "verdict": None}
    embedded = workspace.mlflow_uri.startswith(SQLITE)
    if not may_produce(model) or (embedded and not (workspace.home / "mlflow.db").exists()):
        return nothing
    try:
        found = wanted(workspace, model)
    except LobsmithError as error:
        return {**nothing, "champion": f"unknown: {error}"}
    verdict = None
    if found.challenger is not None and (text := found.challenger.tags.get(SHADOW)):
        try:
            said = msgspec.json.decode(text, type=Verdict)
            decision, reason = said.evidence.get("decision"), said.evidence.get("reason")
            verdict = f"{decision}: {reason}" if decision else str(said)
        except msgspec.DecodeError:
            verdict = text
    aliases = {"champion": found.champion, "challenger": found.challenger}
    return {
        **{name: None if one is None else f"registered version {one.version}" for name, one in aliases.items()},
        "verdict": verdict,
    }
