"""`lobsmith models`: versions."""

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.table import Table

from lobsmith.cli.options import json_option, model_option, overrides, print_json, results, set_option
from lobsmith.cli.reproduce import reproduce
from lobsmith.cli.times import format_time
from lobsmith.errors import LobsmithError, RegistryError, ReleaseError
from lobsmith.params import Params, load_params
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.release.repository.repository import Repository

_reason_option = click.option("--reason", default="", help="Why, for the journal.")


@click.group()
def models() -> None:
    """List, show, promote, roll back and reproduce versions."""


models.add_command(reproduce)


@models.command(name="list")
@model_option
@set_option
@json_option
@click.pass_obj
def list_models(workspace: Workspace, model: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """List published and registered versions."""
    name = _params(workspace, model, settings).model.name
    listing = _listing(workspace, name)
    if as_json:
        print_json(listing)
        return
    table = Table(title=f"{name} in the repository")
    for heading in ("version", "artifact", "state", "registered", "companions"):
        table.add_column(heading)
    for version in listing["versions"]:
        registered = ", ".join(f"registry:{number}" for number in version["registered"]) or "-"
        companions = ", ".join(version["companions"]) or "-"
        artifact = (version["artifact_id"] or "?")[:12]
        table.add_row(str(version["version"]), artifact, version["state"], registered, companions)
    results.print(table)
    if listing["away"]:
        results.print(f"MLflow is unreachable: {listing['away']}", soft_wrap=True)
        return
    table = Table(title=f"{name} in MLflow")
    for heading in ("version", "artifact", "aliases", "status"):
        table.add_column(heading)
    for version in listing["registered"]:
        artifact = (version["artifact_id"] or "?")[:12]
        aliases = ", ".join(version["aliases"]) or "-"
        table.add_row(f"registry:{version['version']}", artifact, aliases, version["serving"] or "-")
    results.print(table)


@models.command()
@click.argument("version")
@model_option
@set_option
@json_option
@click.pass_obj
def show(workspace: Workspace, version: str, model: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Show manifest and journal of VERSION, a number in the repository or registry:N."""
    from lobsmith.release.reconcile.requests import registered_of, version_named
    from lobsmith.release.registry.aliases import release_of
    from lobsmith.release.repository import journal
    from lobsmith.release.version.names import candidate_model

    name = _params(workspace, model, settings).model.name
    if version.startswith("registry:"):
        with release_of(workspace, name, registered_of(workspace, name, version)) as (_, manifest):
            pass
    else:
        manifest = version_named(workspace, name, version)
    entries = [
        entry
        for entry in journal.read(workspace.journal)
        if entry.model in (name, candidate_model(name))
        and (entry.artifact_id == manifest.artifact_id or entry.version_from == manifest.version)
    ]
    shown: dict[str, Any] = {"manifest": msgspec.to_builtins(manifest), "journal": msgspec.to_builtins(entries)}
    if as_json:
        print_json(shown)
        return
    for key, value in shown["manifest"].items():
        if key not in ("params", "environment", "verdicts", "files", "metrics"):
            results.print(f"{key:<17} {value}", soft_wrap=True, markup=False)
    for verdict in manifest.verdicts:
        results.print(f"{'verdict':<17} {verdict}", soft_wrap=True)
    for entry in entries:
        line = f"{format_time(entry.time_ns)}  {entry.action} {entry.model} {entry.version_to}: {entry.reason}"
        results.print(line, markup=False)


@models.command()
@click.argument("version", required=False)
@click.option("--dry-run", is_flag=True, help="Show the plan only.")
@_reason_option
@model_option
@set_option
@json_option
@click.pass_obj
def promote(
    workspace: Workspace,
    version: str | None,
    dry_run: bool,
    reason: str,
    model: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make VERSION the champion and serve it: a number in the repository, registry:N, by default the challenger.

    An older artifact gets a new, highest number. Exits with 1 if it is not served.
    """
    from lobsmith.release.context import Release
    from lobsmith.release.publish.promote import promotion_plan
    from lobsmith.release.reconcile.artifact_source import source_of
    from lobsmith.release.reconcile.requests import registered_of, request_promotion
    from lobsmith.serving.running_server import running_server

    params = _params(workspace, model, settings)
    name = params.model.name
    registered = registered_of(workspace, name, version)
    if dry_run:
        with source_of(workspace, name, registered) as source:
            plan = promotion_plan(Release(workspace, params), source, model=name)
        if as_json:
            print_json(plan)
        else:
            for key, value in msgspec.to_builtins(plan).items():
                results.print(f"{key:<14} {value}", soft_wrap=True, markup=False)
        if plan.refusals:
            sys.exit(1)
        return
    server = running_server(workspace, params)
    outcome = request_promotion(Release(workspace, params, server), name, registered.version, reason=reason)
    if outcome.unreachable is not None:
        raise RegistryError(f"{outcome.unreachable}; {name} {outcome.active} continues serving")
    refusal = outcome.refused.get("champion")
    if refusal is not None:
        raise ReleaseError(f"{refusal}; {name} {outcome.active} continues serving")
    if outcome.champion != registered.version:
        current = "no version" if outcome.champion is None else f"registry:{outcome.champion}"
        raise ReleaseError(f"{name}: champion names {current} by now, set by another client; promote again if need be")
    if as_json:
        print_json({"registered": registered.version, **msgspec.to_builtins(outcome), "served": server is not None})
        return
    results.print(outcome.summary(), soft_wrap=True, markup=False)
    serving = "serves it" if server is not None else "will serve it; start it with lobsmith serve"
    results.print(f"{name} {outcome.active} is registry:{registered.version}; Triton {serving}", soft_wrap=True)


@models.command()
@click.argument("version", type=int, required=False)
@_reason_option
@model_option
@set_option
@json_option
@click.pass_obj
def rollback(
    workspace: Workspace,
    version: int | None,
    reason: str,
    model: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Roll back to VERSION, a listed one; by default the last valid one before the active version.

    Repository and Triton change at once; MLflow's alias follows.
    """
    from lobsmith.release.context import Release
    from lobsmith.release.reconcile.reconcile import reconcile
    from lobsmith.release.repository.rollback import rollback as apply_rollback
    from lobsmith.serving.running_server import running_server

    params = _params(workspace, model, settings)
    name = params.model.name
    release = Release(workspace, params, running_server(workspace, params))
    outcome = apply_rollback(release, name, to=version, reason=reason)
    try:
        away = reconcile(release, name).unreachable
    except LobsmithError as error:
        away = str(error)
    if as_json:
        print_json({**msgspec.to_builtins(outcome), "alias_follows_later": away})
        return
    if outcome.version_from is None:
        results.print(f"{name} {outcome.version_to} is active already")
    else:
        results.print(f"{name} was rolled back from {outcome.version_from} to {outcome.version_to}")
    if away is not None:
        results.print(f"the alias follows once lobsmith can reconcile: {away}", soft_wrap=True)


def _params(workspace: Workspace, model: str | None, settings: tuple[str, ...]) -> Params:
    return load_params(workspace.params, overrides(settings, model))


def _listing(workspace: Workspace, model: str) -> dict[str, Any]:
    from lobsmith.release.registry.aliases import (
        CHALLENGER,
        CHAMPION,
        SERVING,
        Registered,
        alias_targets,
        find_registered,
    )
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.names import candidate_model, companions

    away, registered, aliases = None, list[Registered](), dict[str, Registered | None]()
    try:
        registered = find_registered(workspace, model, {})
        targets = alias_targets(workspace, model)
        aliases = {CHAMPION: targets.champion, CHALLENGER: targets.challenger}
    except RegistryError as error:
        away = str(error)
    repository = Repository.of(workspace)
    versions = []
    for name in (candidate_model(model), model):
        listed, fallback = repository.listed(name), repository.fallback(name)
        companion_versions = {companion: _listed(repository, companion) for companion in companions(name)}
        for version in reversed(repository.versions(name)):
            artifact, state = None, "not listed"
            if version in listed:
                state = "active" if version == listed[-1] else "fallback" if version == fallback else "listed"
            try:
                artifact = repository.verify(name, version).artifact_id
            except LobsmithError as error:
                state = f"faulty: {error}"
            if name != model and state == "active":
                state = "candidate"
            versions.append(
                {
                    "model": name,
                    "version": version,
                    "artifact_id": artifact,
                    "state": state,
                    "registered": [entry.version for entry in registered if entry.artifact_id == artifact],
                    "companions": [companion for companion, own in companion_versions.items() if version in own],
                }
            )
    return {
        "model": model,
        "versions": versions,
        "registered": [
            {
                "version": entry.version,
                "artifact_id": entry.artifact_id,
                "run_id": entry.run_id,
                "aliases": [
                    alias for alias, target in aliases.items() if target is not None and target.version == entry.version
                ],
                "serving": entry.tags.get(SERVING),
            }
            for entry in reversed(registered)
        ],
        "away": away,
    }


def _listed(repository: "Repository", model: str) -> list[int]:
    try:
        return repository.listed(model)
    except ReleaseError:
        # `lobsmith status` reports it.
        return []
