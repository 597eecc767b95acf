"""The `lobsmith` command."""

import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import click

from lobsmith import __version__, telemetry
from lobsmith.cli.bench import bench
from lobsmith.cli.data import data
from lobsmith.cli.demo import demo
from lobsmith.cli.doctor import doctor
from lobsmith.cli.flows import drift, monitor, reconcile, shadow
from lobsmith.cli.init import init
from lobsmith.cli.interrupt import STATUS
from lobsmith.cli.live import live
from lobsmith.cli.mode import mode
from lobsmith.cli.models import models
from lobsmith.cli.predictions import predictions
from lobsmith.cli.replay import replay
from lobsmith.cli.report import report
from lobsmith.cli.repository import repository
from lobsmith.cli.retrain import retrain
from lobsmith.cli.serve import serve
from lobsmith.cli.stage import stage
from lobsmith.cli.status import status
from lobsmith.cli.up import down, logs, up
from lobsmith.errors import LobsmithError
from lobsmith.project.project import require_project
from lobsmith.workspace import Workspace

ANYWHERE = ("init", "doctor", "data describe", "data simulate", "data watch")
"""Commands that need no project."""


class _Commands(click.Group):
    """Reports `LobsmithError` in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(STATUS) from None
        except LobsmithError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LOBSMITH_ROOT",
    default=".",
    help="The project's folder, with params.yaml (see init); LOBSMITH_ROOT, else the current one.",
)
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, root: Path) -> None:
    """Keep a neural network on limit-order-book data in service."""
    # `down` and `logs` work with a corrupt clock too.
    clockless = ctx.invoked_subcommand in (down.name, logs.name)
    ctx.obj = Workspace(root.resolve()) if clockless else Workspace.open(root)


for command in (
    bench,
    data,
    demo,
    doctor,
    down,
    drift,
    init,
    logs,
    live,
    mode,
    models,
    monitor,
    predictions,
    reconcile,
    replay,
    report,
    repository,
    retrain,
    serve,
    shadow,
    stage,
    status,
    up,
):
    cli.add_command(command)


def _in_project(name: str, command: click.Command) -> None:
    """Make a command, or those of a group, refuse a folder that is no project."""
    if isinstance(command, click.Group):
        for part, below in command.commands.items():
            _in_project(f"{name} {part}".lstrip(), below)
    elif name not in ANYWHERE and (run := command.callback) is not None:

        @wraps(run)
        def checked(*arguments: Any, **options: Any) -> Any:
            require_project(click.get_current_context().obj)
            return run(*arguments, **options)

        command.callback = checked


_in_project("", cli)


def main() -> None:
    """Run the command line."""
    telemetry.turn_off()
    # Python's default would leave a flow's servers running.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    cli()
