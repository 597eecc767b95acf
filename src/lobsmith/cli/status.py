"""`lobsmith status`: desired and actual state."""

from typing import Any

import click
from rich.table import Table

from lobsmith.cli.options import json_option, print_json, results
from lobsmith.errors import LobsmithError
from lobsmith.workspace import Workspace


@click.command()
@json_option
@click.pass_obj
def status(workspace: Workspace, as_json: bool) -> None:
    """Show what the registry wants, what the repository holds and what Triton serves."""
    state = _state(workspace)
    if as_json:
        print_json(state)
        return
    server = state["server"]
    results.print(
        f"server   HTTP {server['http']}, gRPC {server['grpc']}, metrics {server['metrics']}"
        if server
        else "server   not running; start it with `lobsmith serve`",
        soft_wrap=True,
    )
    if not state["models"]:
        results.print("models   none yet; make one with `lobsmith retrain`")
        return
    table = Table()
    for heading in ("model", "champion", "active", "listed", "READY", "faults"):
        table.add_column(heading)
    for model, one in state["models"].items():
        table.add_row(
            model,
            str(one["champion"] or "-"),
            str(one["active"] or "-"),
            ", ".join(map(str, one["listed"])),
            ", ".join(map(str, one["ready"])) or "-",
            "; ".join(f"{version}: {why}" for version, why in one["faults"].items()) or "none",
        )
    results.print(table)
    for entry in state["journal"]:
        results.print(f"{entry['time']}  {entry['action']:<10} {entry['model']} {entry['version']}  {entry['reason']}")


def _state(workspace: Workspace) -> dict[str, Any]:
    from datetime import UTC, datetime

    from lobsmith.release import journal
    from lobsmith.release.repository import Repository
    from lobsmith.serving.control import connect
    from lobsmith.serving.loadable import loadable

    repository = Repository.of(workspace)
    control = connect(workspace)
    models = {}
    for model in repository.models():
        faults: dict[int, str] = {}
        listed: list[int] = []
        ready: list[int] = []
        error = None
        try:
            listed = repository.listed(model)
            faults = loadable(workspace, model)[1] if control else repository.sound(model)[1]
            ready = control.ready_versions(model) if control else []
            unloadable = control.failures(model) if control else {}
            faults |= {version: why for version, why in unloadable.items() if version in set(listed) - faults.keys()}
        except LobsmithError as fault:
            error = str(fault)
        models[model] = {
            "champion": _champion(workspace, model),
            "active": max(listed, default=None),
            "listed": listed,
            "ready": ready,
            "faults": {str(version): why for version, why in faults.items()} | ({"-": error} if error else {}),
        }
    return {
        "server": {
            "http": control.endpoint.http_url,
            "grpc": control.endpoint.grpc_url,
            "metrics": control.endpoint.metrics_url,
        }
        if control
        else None,
        "models": models,
        "journal": [
            {
                "time": datetime.fromtimestamp(entry.time_ns / 1e9, UTC).isoformat(timespec="seconds"),
                "action": entry.action,
                "model": entry.model,
                "version": entry.version_to,
                "who": entry.who,
                "reason": entry.reason,
            }
            for entry in journal.read(workspace.journal)[-5:]
        ],
    }


def _champion(workspace: Workspace, model: str) -> str | None:
    """Return what the registry's alias asks for, or why that cannot be told."""
    from lobsmith.release.registry import champion

    if not (workspace.home / "mlflow.db").exists():
        return None
    try:
        wanted = champion(workspace, model)
    except LobsmithError as error:
        return f"unknown: {error}"
    return None if wanted is None else f"registered version {wanted.registry_version}"
