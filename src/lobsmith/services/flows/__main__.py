"""The worker of a workspace's scheduled flows: `python -m lobsmith.services.flows`, until SIGTERM or Ctrl-C.

It waits for the Prefect server that PREFECT_API_URL names, and outlasts its absence.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import click
import httpx

from lobsmith import clock, telemetry
from lobsmith.errors import FlowsError, LobsmithError
from lobsmith.process import Heartbeat
from lobsmith.services.flows.forks import Zygote, say
from lobsmith.services.flows.register import FILE
from lobsmith.services.service import why_away
from lobsmith.workspace import Workspace

_POLL_S = 0.5
_SETTINGS = {"PREFECT_WORKER_QUERY_SECONDS": "5", "PREFECT_LOGGING_LEVEL": "ERROR"}
"""Prefect's, unless the user has set them already."""


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=".", help="The project's folder, with prefect.yaml.")
def main(root: Path) -> None:
    """Run the flows of prefect.yaml when they are due; PREFECT_API_URL names Prefect's server."""
    telemetry.turn_off()
    try:
        serve(Workspace.open(root), os.environ.get("PREFECT_API_URL"))
    except LobsmithError as error:
        sys.exit(f"Error: {error}")


def serve(workspace: Workspace, api: str | None) -> None:
    """Run what is due until SIGTERM or Ctrl-C.

    Args:
        workspace: of the project.
        api: address of Prefect's server.

    Raises:
        FlowsError: there is no address, or no prefect.yaml.
    """
    if not api:
        raise FlowsError("PREFECT_API_URL is not set: name Prefect's server, such as http://127.0.0.1:4200/api")
    if not (workspace.root / FILE).is_file():
        raise FlowsError(f"{workspace.root}/{FILE}: no such file; name the project's folder with --root")
    os.chdir(workspace.root)
    # The pull step of prefect.yaml names it.
    os.environ["LOBSMITH_ROOT"] = str(workspace.root)
    os.environ.setdefault("PREFECT_HOME", str(workspace.prefect))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if clock.speed() > 1:
        os.environ["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(_work(workspace.root, api))


async def _work(root: Path, api: str) -> None:
    working = cast("asyncio.Task[None]", asyncio.current_task())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    zygote, alive = Zygote(root), Heartbeat.inherited()
    while True:
        zygote.start()  # its imports go on beside those of the worker
        try:
            await _answering(api, alive)
            from lobsmith.services.flows.worker import ForkWorker

            await ForkWorker(zygote, alive).start(printer=say)
        except* (RuntimeError, httpx.HTTPError) as errors:
            # Prefect's loops end when the server has been away for minutes.
            say(f"the worker of the flows starts again: {errors.exceptions[0]}")
        finally:
            zygote.close()


async def _answering(api: str, alive: Heartbeat) -> None:
    """Wait for Prefect's server; that it is away is no fault of a worker that was ready."""
    said = False
    while (why := await asyncio.to_thread(why_away, api.rstrip("/"))) is not None:
        if not said:
            say(f"{api}: Prefect's server does not answer yet ({why}); it is waited for")
            said = True
        if alive.age_s() is not None:
            alive.beat()
        await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    main()
