"""`lobsmith repository`: is the model repository what it claims, and can it be mended."""

import sys

import click

from lobsmith.cli.options import json_option, overrides, print_json, results, set_option
from lobsmith.errors import ServingError
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.group()
def repository() -> None:
    """Look after the model repository."""


@repository.command()
@click.option("--repair", "mend", is_flag=True, help="Mend what needs no decision; nothing good is deleted.")
@json_option
@set_option
@click.pass_obj
def verify(workspace: Workspace, mend: bool, as_json: bool, settings: tuple[str, ...]) -> None:
    """Check files, signatures, policies, companions, journal and server against each other.

    Exits with status 1 if something is wrong and was not mended.
    """
    from lobsmith.release.audit.repair import repair
    from lobsmith.release.audit.verify import verify as look
    from lobsmith.release.context import Release
    from lobsmith.serving.running import running_server

    found = look(workspace, _served(workspace))
    failures: dict[str, str] = {}
    left = found
    if mend and found:
        params = load_params(workspace.params, overrides(settings))
        served, release = _served(workspace), Release(workspace, params, running_server(workspace, params))
        failures = {one.place: why for one, why in repair(release, found, served=served)}
        left = look(workspace, _served(workspace))
    if as_json:
        print_json({"found": found, "left": left, "failures": failures})
    else:
        for finding in found:
            kept = finding in left
            state = ("left" if mend else finding.remedy) if kept else "mended"
            why = f" ({failures[finding.place]})" if finding.place in failures else ""
            results.print(f"{finding.kind.value:<9} {finding.place}: {finding.words}; {state}{why}", soft_wrap=True)
        results.print(f"{len(found)} found, {len(left)} left" if found else "nothing is wrong")
    if left:
        sys.exit(1)


def _served(workspace: Workspace) -> dict[str, list[int]] | None:
    """Return what the server answers with; a server that cannot be asked must not hide what is wrong on the disk."""
    from lobsmith.serving.triton.control import served_versions

    try:
        return served_versions(workspace)
    except ServingError as error:
        click.echo(f"the server is left out: {error}", err=True)
        return None
