"""`lobsmith up` in the background: started, waited for, and ended."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lobsmith.errors import ServiceError
from lobsmith.services.logs import SUPERVISOR, Output, log_folder
from lobsmith.services.run import Run, holder, read_run, unusable
from lobsmith.services.service import Phase, ServiceState
from lobsmith.workspace import Workspace

READY_DEADLINE_S = 180.0
"""Time that all services have to become ready, s."""
STOP_DEADLINE_S = 120.0
"""Time that they have to end, s."""
_HOPELESS_RESTARTS = 3
"""Restarts after which a service that was never ready is reported instead of waited for."""
_POLL_S = 0.1
_ROOM_BYTES = 65_536
_ERROR = "Error: "


def start_in_background(
    workspace: Workspace, arguments: Sequence[str], on_change: Callable[[ServiceState], None] = lambda _one: None
) -> Run:
    """Run `lobsmith up` in a session of its own until its services are ready.

    Args:
        workspace: the project.
        arguments: of `lobsmith up`.
        on_change: called while services are waited for, with each that has changed.

    Returns:
        What runs. Services that are not ready after a few restarts, or after `READY_DEADLINE_S`, are among it.

    Raises:
        ServiceError: it has ended; the message is its own.
    """
    log = log_folder(workspace) / f"{SUPERVISOR}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = Output(log)
        with log.open("ab") as file:
            process = subprocess.Popen(
                # -P keeps a local file named like a package from being imported in its place.
                [sys.executable, "-P", "-m", "lobsmith", "--root", str(workspace.root), "up", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise unusable(log, error) from error
    end = time.monotonic() + READY_DEADLINE_S
    known: tuple[ServiceState, ...] = ()
    while process.poll() is None:
        run = read_run(workspace)
        # Another one may have been running all along; ours then ends with an error.
        if run is not None and run.process.pid == process.pid and run.services:
            for one in run.services:
                if one not in known:
                    on_change(one)
            known = run.services
            waited_for = [one for one in run.unready if not _hopeless(one.state, one.restarts)]
            if not waited_for or time.monotonic() > end:
                return run
        time.sleep(_POLL_S)
    lines = output.lines()
    words = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), None)
    if words is None and process.returncode == 0:
        words = "`lobsmith up` was ended before all services were ready"
    raise ServiceError(words or f"`lobsmith up` ended with status {process.returncode}; see {log}{_no_room(log)}")


def _no_room(log: Path) -> str:
    """Say why a log may lack the last words of a process: no room for them; empty where there is some."""
    return ", whose disk is full" if shutil.disk_usage(log.parent).free < _ROOM_BYTES else ""


def _hopeless(state: Phase, restarts: int) -> bool:
    # What waits for a service that does not come up cannot come up either.
    return state is Phase.WAITING or restarts >= _HOPELESS_RESTARTS


def end_run(workspace: Workspace) -> Run | None:
    """End `lobsmith up` and wait until it has ended; return what ran, None where nothing did.

    Of one that is only just starting, or whose state is spoilt, the services are not known.

    Raises:
        ServiceError: it belongs to another user, runs on another machine or in another container, or does not end in
            time.
    """
    run = read_run(workspace)
    if run is None:
        if (process := holder(workspace)) is None:
            return None
        run = Run(process=process, started_ns=0, prefect_api="")
    if not run.process.is_here():
        raise ServiceError(f"{run.process} cannot be seen from here; end it with `lobsmith down` where it runs")
    pid = run.process.pid
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return run
    try:
        # Asked again now that the number cannot be given away any more.
        if run.process.is_dead():
            return run
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not select.select([descriptor], [], [], STOP_DEADLINE_S)[0]:
            raise ServiceError(
                f"{run.process} has not ended within {STOP_DEADLINE_S:g} s; `kill -9 {pid}` ends it and its services"
            )
    except PermissionError as error:
        raise ServiceError(f"{run.process} belongs to another user; end it as that user") from error
    finally:
        os.close(descriptor)
    return run
