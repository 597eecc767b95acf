"""Prefect's server with garbage collection in a thread: `python -m … PORT`.

In the event loop it may deadlock until SQLite's timeout, 60 s: freeing one of the cursors that Prefect leaves in cycles
waits for its connection, and that for a write lock that only the loop releases.
"""

import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path

from lobsmith import telemetry
from lobsmith.errors import FlowsError
from lobsmith.services.service import DRAIN_S, why_away
from lobsmith.serving import launcher
from lobsmith.serving.ports import HOST, free_ports

_YOUNG_S = 1.0
"""Interval of collections of generation 1, s."""
_ALL_EVERY = 60
"""All generations are collected every so many intervals."""
_START_DEADLINE_S = 120.0
_END_S = 1.5
"""Time from SIGTERM to SIGKILL of a temporary server, s."""
_POLL_S = 0.05


def check_database(home: Path) -> None:
    """Check that the database of a Prefect home is readable, before Prefect prints 200 lines.

    Raises:
        FlowsError: it is corrupt.
    """
    path = home.expanduser().absolute() / "prefect.db"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        return  # missing, or in use
    except sqlite3.DatabaseError as error:
        way_out = "move the file away, and with it the history of runs"
        raise FlowsError(f"{path}: Prefect's database cannot be used: {error}; {way_out}") from error


class TemporaryServer(AbstractContextManager["TemporaryServer"]):
    """A server on a free port until the end of the block; the kernel kills it with the thread that started it.

    Its session is its own: Ctrl-C in a terminal reaches the flow alone, which still reports to it.

    Args:
        home: PREFECT_HOME; the server's log is in it.

    Attributes:
        api: address of its API.

    Raises:
        FlowsError: log or process cannot be opened.
    """

    def __init__(self, home: Path) -> None:
        (port,) = free_ports(1)
        self.api = f"http://{HOST}:{port}/api"
        self._log = home / "server.log"
        environment = {"PREFECT_HOME": str(home), "PREFECT_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}
        command = [sys.executable, "-P", "-m", "lobsmith.services.prefect_server", str(port)]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
                    env={**os.environ, **environment, "PREFECT__SERVER_FINAL": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise FlowsError(f"{self._log}: Prefect's server cannot be started: {error.strerror}") from error

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            FlowsError: it ended, or does not answer in time.
        """
        end = time.monotonic() + _START_DEADLINE_S
        while (why := why_away(self.api)) is not None:
            if (code := self._process.poll()) is not None:
                from lobsmith.serving.triton.embedded import describe_exit, error_line

                lines = self._log.read_text(errors="replace").splitlines()
                why = f"{describe_exit(code)}: {error_line(lines) or 'no output'}"
            elif time.monotonic() < end:
                time.sleep(_POLL_S)
                continue
            raise FlowsError(f"Prefect's server did not start: {why}; see {self._log}")

    def __exit__(self, *error: object) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(port: int) -> None:
    """Serve until SIGTERM."""
    telemetry.turn_off()
    try:
        check_database(Path(os.environ["PREFECT_HOME"]))
    except FlowsError as error:
        sys.exit(f"Error: {error}")
    import uvicorn

    gc.disable()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=HOST,
        port=port,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
    )


def _collect() -> None:
    while True:
        for _ in range(_ALL_EVERY):
            time.sleep(_YOUNG_S)
            gc.collect(1)
        gc.collect()


if __name__ == "__main__":
    main(int(sys.argv[1]))
