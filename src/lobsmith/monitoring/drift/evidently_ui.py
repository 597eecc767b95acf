"""Evidently's own pages about its workspace, on loopback, for as long as somebody looks at them."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lobsmith.errors import PortBusyError, ServingError
from lobsmith.serving import launcher

_HOST = "127.0.0.1"
_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 5.0
_POLL_S = 0.2


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
    chosen = _free_port(port)
    url = f"http://{_HOST}:{chosen}"
    options = ("ui", "--workspace", str(folder), "--host", _HOST, "--port", str(chosen))
    command = [sys.executable, "-P", "-m", "evidently.cli", *options]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "EVIDENTLY_SECRET": secrets.token_urlsafe(24)}
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory(prefix="lobsmith-evidently-") as nowhere:
        # A settings file in the working directory would be read as its configuration.
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=nowhere,
            # Ctrl-C is for this process, which then ends the child.
            start_new_session=True,
        )
        try:
            _wait_ready(url, child)
            yield url
        finally:
            _end(child)


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((_HOST, port or 0))
        except OSError as error:
            raise PortBusyError(f"{_HOST}:{port}: {error.strerror}; pass another --port") from error
        return int(probe.getsockname()[1])


def _wait_ready(url: str, child: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < end:
        if child.poll() is not None:
            raise ServingError(f"Evidently's pages ended with status {child.returncode}; run evidently ui to see why")
        try:
            if httpx.get(f"{url}/api/version", timeout=_POLL_S * 5).is_success:
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
