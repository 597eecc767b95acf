"""`lobsmith retrain`: the retrain flow, now."""

from pathlib import Path

import click
import msgspec

from lobsmith.cli.options import capture_arguments, json_option, overrides, print_json, results, set_option, use_prefect
from lobsmith.params import load_params
from lobsmith.workspace import Workspace


@click.command()
@capture_arguments
@set_option
@json_option
@click.pass_obj
def retrain(
    workspace: Workspace, captures: tuple[Path, ...], more: tuple[Path, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Train on the newest window of data, gate, publish, and load into a running server."""
    changes = overrides(settings)
    load_params(workspace.params, changes)  # a mistake in them is told before Prefect is started
    use_prefect(workspace)
    from pipelines.retrain import retrain as flow

    files = [str(path.resolve()) for path in (*captures, *more)]
    result = flow(str(workspace.root), files or None, changes)
    if as_json:
        print_json(result)
        return
    for name, value in msgspec.structs.asdict(result).items():
        results.print(f"{name:<14} {value}", soft_wrap=True)
