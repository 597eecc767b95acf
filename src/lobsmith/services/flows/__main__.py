"""The worker of a workspace's scheduled flows: `python -m lobsmith.services.flows`, until SIGTERM or Ctrl-C.

It waits for the Prefect server of PREFECT_API_URL.
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
from lobsmith.services.flows.forks import Zygote, print_line
from lobsmith.services.flows.register import FILE
from lobsmith.services.service import why_away
from lobsmith.workspace import Workspace

_POLL_S = 0.5
_SETTINGS = {"PREFECT_WORKER_QUERY_SECONDS": "5", "PREFECT_LOGGING_LEVEL": "ERROR"}
"""Settings of Prefect, unless set in the environment."""


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=".", help="The project's folder, with prefect.yaml.")
def main(root: Path) -> None:
    """Run due flows of prefect.yaml from the Prefect server of PREFECT_API_URL."""
    telemetry.turn_off()
    try:
        serve(Workspace.open(root), os.environ.get("PREFECT_API_URL"))
    except LobsmithError as error:
        sys.exit(f"Error: {error}")


def serve(workspace: Workspace, api: str | None) -> None:
    """Run due flows until SIGTERM or Ctrl-C.

    Args:
        workspace: of the project.
        api: address of Prefect's API.

    Raises:
        FlowsError: address or prefect.yaml is missing.
    """
    if not api:
        raise FlowsError("PREFECT_API_URL is not set: name Prefect's server, such as http://127.0.0.1:4200/api")
    if not (workspace.root / FILE).is_file():
        raise FlowsError(f"{workspace.root}/{FILE}: no such file; `lobsmith init` writes one, --root names a project")
    os.chdir(workspace.root)
    sys.path.append(str(workspace.root))  # for flows of the project's own
    # Read by the pull step of prefect.yaml.
    os.environ["LOBSMITH_ROOT"] = str(workspace.root)
    os.environ.setdefault("PREFECT_HOME", str(workspace.prefect))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if clock.speed() > 1:
        os.environ["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(_work(workspace.root, api))


async def _work(root: Path, api: str) -> None:
    task = cast("asyncio.Task[None]", asyncio.current_task())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    zygote, heartbeat = Zygote(root), Heartbeat.inherited()
    while True:
        zygote.start()  # imports in parallel
        try:
            await _await_prefect(api, heartbeat)
            from lobsmith.services.flows.worker import ForkWorker

            await ForkWorker(zygote, heartbeat).start(printer=print_line)
        except* (RuntimeError, httpx.HTTPError) as errors:
            # Prefect's loops end after minutes without a server.
            print_line(f"the worker of the flows starts again: {errors.exceptions[0]}")
        finally:
            zygote.close()


async def _await_prefect(api: str, heartbeat: Heartbeat) -> None:
    """Wait for Prefect's server; a worker that was ready continues its heartbeat."""
    printed = False
    while (why := await asyncio.to_thread(why_away, api.rstrip("/"))) is not None:
        if not printed:
            print_line(f"{api}: Prefect's server does not answer yet ({why}); it is waited for")
            printed = True
        if heartbeat.age_s() is not None:
            heartbeat.beat()
        await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    main()
