"""Evidently's own pages about its workspace, on loopback, while a command shows them."""

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
"""Path that answers once the pages do."""
_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 5.0
_POLL_S = 0.2


def evidently_workspace(workspace: Workspace) -> Path:
    """Return the folder of the reports that Evidently's pages show."""
    return workspace.drift / "evidently"


@contextmanager
def evidently_ui(folder: Path, port: int | None = None) -> Iterator[str]:
    """Serve Evidently's workspace until the block ends; yield the address.

    Writing needs a key that is not passed on; reading is open to any user of this machine.

    Args:
        folder: Evidently's workspace.
        port: to listen on; None takes a free one.

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

    Needs an empty working directory: a settings file there would be read.
    """
    options = ("ui", "--workspace", str(folder), "--host", HOST, "--port", str(port))
    return (sys.executable, "-P", "-m", "evidently.cli", *options)


def ui_environment() -> dict[str, str]:
    """Return the command's environment: no telemetry, and a secret key for writing."""
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
