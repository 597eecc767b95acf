"""`lobsmith init`: a new project."""

import shlex
from pathlib import Path

import click

from lobsmith.cli.options import json_option, print_json, results


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@json_option
def init(directory: Path, as_json: bool) -> None:
    """Make DIR a project: parameters, schedules, stages, a README. Other files in it stay."""
    from lobsmith.project.create import create_project

    folder = directory.resolve()
    written = create_project(folder)
    if as_json:
        print_json({"project": str(folder), "files": written})
        return
    results.print(f"{folder} is a project: {', '.join(written)}", soft_wrap=True, markup=False)
    steps = [] if folder == Path.cwd() else [f"cd {shlex.quote(str(directory))}"]
    steps += ["lobsmith demo", "lobsmith up --detach", "lobsmith status"]
    results.print("next:", *(f"  {step}" for step in steps[:3]), sep="\n", soft_wrap=True, markup=False)
