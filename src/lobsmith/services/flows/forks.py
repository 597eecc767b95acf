"""The worker's client of the zygote."""

import asyncio
import os
import signal
import subprocess
import sys
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lobsmith.errors import FlowsError
from lobsmith.progress import console, room_permitting
from lobsmith.services.flows.orders import Ended, Forked, Order, Ping, Pong, Ready

_START_S = 120.0
"""Deadline of the zygote's imports, s, from a cold disk."""


@room_permitting()
def print_line(line: str) -> None:
    """Print on standard error; a full disk is ignored."""
    console.print(line, markup=False)


class ForkedRun:
    """A forked process with Prefect's attributes `pid` and `returncode`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def end(self, status: int) -> None:
        """Set its exit status."""
        self.returncode = status
        self._ended.set()

    async def wait(self) -> int:
        """Wait for its end; return exit status or negative signal."""
        await self._ended.wait()
        return self.returncode or 0


class Zygote:
    """Starts and restarts the process that flow runs are forked from."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tickets = count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._children: dict[int, ForkedRun] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: Connection | None = None
        self._ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id; None where it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, without waiting for its imports."""
        self._ready.clear()
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: no local file is imported in place of a package.
                [sys.executable, "-P", "-m", "lobsmith.services.flows.zygote", str(os.getpid()), str(theirs.fileno())],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the worker only
            )
        self._orders = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    async def ready(self) -> Connection:
        """Wait for its imports; return the pipe for orders.

        Raises:
            FlowsError: the zygote ended or was not ready in time.
        """
        if self._orders is None:
            self.start()
        try:
            async with asyncio.timeout(_START_S):
                await self._ready.wait()
        except TimeoutError:
            raise FlowsError(f"the zygote of the flows was not ready within {_START_S:g} s; see its log") from None
        if self._orders is None:
            raise FlowsError("the zygote of the flows ended before it was ready; see its log")
        return self._orders

    async def fork(self, job: str, environment: dict[str, str]) -> ForkedRun:
        """Fork a child that runs a job.

        Args:
            job: a key of `zygote.JOBS`.
            environment: added to the zygote's.

        Raises:
            FlowsError: the zygote ended or was not ready in time.
        """
        child: ForkedRun = await self._request(Order(next(self._tickets), job, environment))
        return child

    async def ping(self) -> None:
        """Wait until the zygote takes orders.

        Raises:
            FlowsError: the zygote ended or was not ready in time.
        """
        await self._request(Ping(next(self._tickets)))

    async def _request(self, message: Order | Ping) -> Any:
        orders = await self.ready()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[message.ticket] = reply
        try:
            orders.send(message)
        except OSError as error:
            del self._pending[message.ticket]
            raise FlowsError(f"the zygote of the flows is gone: {error.strerror}") from error
        return await reply

    def close(self) -> None:
        """End the process with all its children."""
        self._disconnect(restart=False)

    def _read(self) -> None:
        try:
            while self._orders is not None and self._orders.poll():
                self._handle(self._orders.recv())
        except (EOFError, OSError):
            self._disconnect(restart=self._ready.is_set())

    def _handle(self, message: Forked | Ended | Pong | Ready) -> None:
        match message:
            case Forked(ticket, pid):
                self._resolve(ticket, self._children.setdefault(pid, ForkedRun(pid)))
            case Pong(ticket):
                self._resolve(ticket, None)
            case Ended(pid, status):
                self._children.pop(pid).end(status)
            case Ready():
                self._ready.set()

    def _resolve(self, ticket: int, child: ForkedRun | None) -> None:
        reply = self._pending.pop(ticket)
        if not reply.done():
            reply.set_result(child)

    def _disconnect(self, *, restart: bool) -> None:
        """Kill the process with its children."""
        if self._orders is None or self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._orders.fileno())
        self._orders.close()
        self._process.kill()
        status = self._process.wait()
        self._orders = self._process = None
        children, self._children = self._children, {}
        for child in children.values():
            child.end(-signal.SIGKILL)
        pending, self._pending = self._pending, {}
        for reply in pending.values():
            if not reply.done():
                reply.set_exception(FlowsError(f"the zygote of the flows ended with status {status}"))
        if restart:
            print_line(f"the zygote of the flows ended with status {status}; it is started again")
            self.start()
        else:
            self._ready.set()  # makes `ready` raise
