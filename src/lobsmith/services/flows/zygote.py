"""The process that flow runs are forked from: `python -m lobsmith.services.flows.zygote`.

It imports the frequent flows once, without modules that start threads, which a fork would lose. Each job is a child of
its own, which may crash and frees its memory.
"""

import atexit
import gc
import importlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

import sqlalchemy.orm

from lobsmith.process import end_with
from lobsmith.services.flows.orders import Ended, Forked, Order, Ping, Pong, Ready
from lobsmith.services.flows.register import register
from lobsmith.services.service import why_away

ENTRYPOINT = "PREFECT__FLOW_ENTRYPOINT"
"""Environment variable: the run's flow, such as `lobsmith.pipelines.retrain.retrain`."""
PRELOADED = ("lobsmith.pipelines.reconcile", "lobsmith.pipelines.shadow", "lobsmith.pipelines.monitor")
"""The frequent flows; a retrain imports its own modules."""
_ENGINES = (
    "alembic.command",
    "anyio._backends._asyncio",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.utilities.visualization",
    "rich.status",
    "sqlalchemy.dialects.sqlite",
)
"""Imported lazily by Prefect, MLflow and rich."""
_SERVER_S, _SERVER_POLL_S = 60.0, 0.5
_STARTS_THREADS = ("polars",)
"""Modules that start threads at import, optional for MLflow."""


def run_flow() -> None:
    """Run the flow run of the environment, as `python -m prefect.flow_engine ENTRYPOINT` does."""
    from prefect import flow_engine

    await_server(os.environ["PREFECT_API_URL"], _SERVER_S)
    sys.exit(flow_engine._main([os.environ[ENTRYPOINT]]))


def await_server(api: str, within_s: float) -> None:
    """Wait until Prefect's server answers; its restart must not crash a run.

    Args:
        api: address of Prefect's API.
        within_s: longest wait, s.
    """
    end = time.monotonic() + within_s
    while why_away(api.rstrip("/")) is not None and time.monotonic() < end:
        time.sleep(_SERVER_POLL_S)


JOBS: dict[str, Callable[[], None]] = {"run": run_flow, "register": register}


def preload(root: Path) -> None:
    """Import Prefect's engine and `PRELOADED`.

    Args:
        root: where flows of the project's own lie.

    Raises:
        RuntimeError: an import has started a thread.
    """
    sys.path.append(str(root))
    for name in _STARTS_THREADS:
        sys.modules[name] = None  # type: ignore[assignment]  # makes an import raise ImportError
    try:
        for name in (*_ENGINES, *PRELOADED):
            importlib.import_module(name)
    finally:
        for name in _STARTS_THREADS:
            del sys.modules[name]
    sqlalchemy.orm.configure_mappers()
    if threading.active_count() > 1:
        raise RuntimeError(f"an import has started {threading.enumerate()[1:]}, which no child would have")
    gc.collect()
    gc.freeze()  # else a collection in a child copies the pages of all imports


def serve(orders: Connection) -> None:
    """Fork a child for each order and report its end, until the pipe is closed."""
    fork = multiprocessing.get_context("fork")
    running: dict[int, multiprocessing.context.ForkProcess] = {}
    while True:
        for ready in wait([orders, *running]):
            if ready is orders:
                try:
                    order: Order | Ping = orders.recv()
                except EOFError:
                    return
                if isinstance(order, Ping):
                    orders.send(Pong(order.ticket))
                    continue
                child = fork.Process(target=_run_job, args=(order.job, order.environment, orders, os.getpid()))
                child.start()
                running[child.sentinel] = child
                orders.send(Forked(order.ticket, child.pid or 0))
            else:
                child = running.pop(cast(int, ready))
                child.join()
                orders.send(Ended(child.pid or 0, child.exitcode or 0))
                child.close()


def _run_job(job: str, environment: Mapping[str, str], orders: Connection, parent: int) -> None:
    end_with(parent)
    orders.close()
    os.environ.update(environment)
    try:
        JOBS[job]()
    finally:
        # A forked process does not run them; Prefect's threads would end within a request.
        atexit._run_exitfuncs()


def main(arguments: list[str]) -> None:
    """Serve the parent process and end with it."""
    parent, descriptor = int(arguments[0]), int(arguments[1])
    end_with(parent)
    orders = Connection(descriptor)
    preload(Path.cwd())
    orders.send(Ready())
    serve(orders)
    # sys.exit would wait for children.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
