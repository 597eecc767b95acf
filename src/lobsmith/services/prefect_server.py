"""Prefect's server with garbage collection in a thread: `python -m … PORT`.

In the event loop it may deadlock until SQLite's timeout, 60 s: freeing one of the cursors that Prefect leaves in cycles
waits for its connection, and that for a write lock that only the loop releases.
"""

import gc
import os
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from lobsmith import telemetry
from lobsmith.errors import FlowsError
from lobsmith.services.service import DRAIN_S
from lobsmith.serving.ports import HOST

_YOUNG_S = 1.0
"""Interval of collections of generation 1, s."""
_ALL_EVERY = 60
"""All generations are collected every so many intervals."""


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
