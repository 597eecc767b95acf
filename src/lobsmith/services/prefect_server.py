"""Prefect's server in one process, which collects its garbage in a thread of its own: `python -m … PORT`.

The event loop must not do it. A dead cursor of SQLite waits, when it is freed, for its connection; where that one waits
for the database's write lock, and the loop itself would have to let go of the lock, nothing moves before SQLite's
timeout of 60 s. Prefect leaves dead cursors in cycles after errors, and any allocation may free them.
"""

import gc
import sys
import threading
import time

from lobsmith import telemetry
from lobsmith.services.service import DRAIN_S
from lobsmith.serving.ports import HOST

_YOUNG_S = 1.0
"""Between two collections of what is new, s."""
_ALL_EVERY = 60
"""A collection of everything after so many of those."""


def main(port: int) -> None:
    """Serve until SIGTERM; Prefect's settings are in the environment."""
    telemetry.turn_off()
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
