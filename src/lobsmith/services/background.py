"""`lobsmith up` in the background: start, wait until ready, end."""

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
from lobsmith.services.run import Run, file_error, lock_holder, read_run
from lobsmith.services.service import Phase, ServiceState
from lobsmith.workspace import Workspace

READY_DEADLINE_S = 180.0
"""Deadline for all services to be ready, s."""
STOP_DEADLINE_S = 120.0
"""Deadline for all services to end, s."""
_HOPELESS_RESTARTS = 3
"""Restarts after which an unready service is not waited for."""
_POLL_S = 0.1
_ROOM_BYTES = 65_536
_ERROR = "Error: "


def start_in_background(
    workspace: Workspace, arguments: Sequence[str], on_change: Callable[[ServiceState], None] = lambda _state: None
) -> Run:
    """Start `lobsmith up` in a session of its own and wait for its services.

    Args:
        workspace: of the project.
        arguments: of `lobsmith up`.
        on_change: called with each new state of a service.

    Returns:
        Its state; services may be unready after `READY_DEADLINE_S` or `_HOPELESS_RESTARTS` restarts.

    Raises:
        ServiceError: it has ended, with its own message.
    """
    log = log_folder(workspace) / f"{SUPERVISOR}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = Output(log)
        with log.open("ab") as file:
            process = subprocess.Popen(
                # -P: no local file is imported in place of a package.
                [sys.executable, "-P", "-m", "lobsmith", "--root", str(workspace.root), "up", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise file_error(log, error) from error
    end = time.monotonic() + READY_DEADLINE_S
    known: tuple[ServiceState, ...] = ()
    while process.poll() is None:
        run = read_run(workspace)
        # Another `lobsmith up` may run; ours then ends with an error.
        if run is not None and run.process.pid == process.pid and run.services:
            for state in run.services:
                if state not in known:
                    on_change(state)
            known = run.services
            waited_for = [state for state in run.unready if not _hopeless(state)]
            if not waited_for or time.monotonic() > end:
                return run
        time.sleep(_POLL_S)
    lines = output.lines()
    message = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), None)
    if message is None and process.returncode == 0:
        message = "`lobsmith up` was ended before all services were ready"
    raise ServiceError(message or f"`lobsmith up` ended with status {process.returncode}; see {log}{_disk_full(log)}")


def _disk_full(log: Path) -> str:
    return ", whose disk is full" if shutil.disk_usage(log.parent).free < _ROOM_BYTES else ""


def _hopeless(service: ServiceState) -> bool:
    # A waiting service depends on a hopeless one.
    return service.state is Phase.WAITING or service.restarts >= _HOPELESS_RESTARTS


def end_run(workspace: Workspace) -> Run | None:
    """End `lobsmith up` and wait for its end.

    Returns:
        Its last state, without services where that is missing or corrupt; None where it did not run.

    Raises:
        ServiceError: it belongs to another user or machine or container, or does not end in time.
    """
    run = read_run(workspace)
    if run is None:
        if (process := lock_holder(workspace)) is None:
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
        # From here on the kernel cannot reuse the process id.
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
