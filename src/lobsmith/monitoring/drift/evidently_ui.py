"""Evidently's own pages about its workspace, on loopback, for as long as somebody looks at them."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lobsmith.errors import ServingError
from lobsmith.serving import launcher
from lobsmith.serving.ports import HOST, Port, check_free, free_ports
from lobsmith.workspace import Workspace

UI_HEALTH = "/api/version"
"""Path of a page that answers as soon as the others do."""
_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 5.0
_POLL_S = 0.2


def evidently_workspace(workspace: Workspace) -> Path:
    """Return where Evidently keeps the reports that its own pages show."""
    return workspace.drift / "evidently"


@contextmanager
def evidently_ui(folder: Path, port: int | None = None) -> Iterator[str]:
    """Serve Evidently's workspace until the block ends, however it ends; yield the address.

    Nothing can be changed there: a key that nobody is told guards that. The pages have no other guard, so any user of
    this machine can read them.

    Args:
        folder: Evidently's workspace.
        port: to listen on; None takes one that is free.

    Raises:
        PortBusyError: the port is taken.
        ServingError: it does not answer in time, or ended at once.
    """
    if port is None:
        [port] = free_ports(1)
    else:
        check_free([Port(port)])
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory(prefix="lobsmith-evidently-") as nowhere:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *ui_command(folder, port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **ui_environment()},
            cwd=nowhere,
            # Ctrl-C is for this process, which then ends the child.
            start_new_session=True,
        )
        try:
            _wait_ready(url, child)
            yield url
        finally:
            _end(child)


def ui_command(folder: Path, port: int) -> tuple[str, ...]:
    """Return the command that serves Evidently's workspace on a port of loopback.

    It wants an empty working directory: a settings file there would be read as its configuration.
    """
    options = ("ui", "--workspace", str(folder), "--host", HOST, "--port", str(port))
    return (sys.executable, "-P", "-m", "evidently.cli", *options)


def ui_environment() -> dict[str, str]:
    """Return what the command needs in its environment: no telemetry, and a key for writing that only it knows."""
    return {"DO_NOT_TRACK": "1", "EVIDENTLY_SECRET": secrets.token_urlsafe(24)}


def _wait_ready(url: str, child: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < end:
        if child.poll() is not None:
            raise ServingError(f"Evidently's pages ended with status {child.returncode}; run evidently ui to see why")
        try:
            if httpx.get(f"{url}{UI_HEALTH}", timeout=_POLL_S * 5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(_POLL_S)
    raise ServingError(f"{url}: Evidently's pages do not answer within {_START_DEADLINE_S:g} s")


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
