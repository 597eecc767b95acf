"""`lobsmith repository`: the model repository."""

import sys

import click

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option
from lobsmith.errors import ServingError
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.group()
def repository() -> None:
    """Verify and repair the model repository."""


@repository.command()
@click.option("--repair", "repairs", is_flag=True, help="Repair what needs no decision; keeps every valid version.")
@json_option
@set_option
@click.pass_obj
def verify(workspace: Workspace, repairs: bool, as_json: bool, settings: tuple[str, ...]) -> None:
    """Check files, signatures, policies, companions, journal and server; exit 1 if an error is left."""
    from lobsmith.release.audit.repair import repair
    from lobsmith.release.audit.verify import verify as find_incidents
    from lobsmith.release.context import Release
    from lobsmith.serving.running_server import running_server

    incidents = find_incidents(workspace, _served(workspace))
    failures: dict[str, str] = {}
    left = incidents
    if repairs and incidents:
        params = load_params(workspace.params, overrides(settings))
        served, release = _served(workspace), Release(workspace, params, running_server(workspace, params))
        failures = {incident.place: reason for incident, reason in repair(release, incidents, served=served)}
        left = find_incidents(workspace, _served(workspace))
    if as_json:
        print_json({"found": incidents, "left": left, "failures": failures})
    else:
        for incident in incidents:
            state = ("left" if repairs else incident.remedy) if incident in left else "repaired"
            reason = f" ({failures[incident.place]})" if incident.place in failures else ""
            line = f"{incident.kind.value:<9} {incident.place}: {incident.message}; {state}{reason}"
            results.print(line, soft_wrap=True)
        results.print(f"{len(incidents)} found, {len(left)} left" if incidents else "nothing is wrong")
    if left:
        sys.exit(1)


def _served(workspace: Workspace) -> dict[str, list[int]] | None:
    """Return the versions that Triton serves; None, and a warning, if it does not answer."""
    from lobsmith.serving.triton.control import served_versions

    try:
        return served_versions(workspace)
    except ServingError as error:
        click.echo(f"the server is left out: {error}", err=True)
        return None
