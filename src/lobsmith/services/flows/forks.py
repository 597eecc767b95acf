"""The zygote as the worker sees it: a coroutine that forks a child, another that waits for its end."""

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
"""Seconds for its imports; a cold disk takes most of them."""


@room_permitting()
def say(line: str) -> None:
    """Print a line for people."""
    console.print(line, markup=False)


class ForkedRun:
    """A forked process. Prefect reads `pid` and `returncode`, as of any process that it has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def end(self, status: int) -> None:
        """Note how it ended."""
        self.returncode = status
        self._ended.set()

    async def wait(self) -> int:
        """Wait for its end; return the exit status, or the negative signal that killed it."""
        await self._ended.wait()
        return self.returncode or 0


class Zygote:
    """Starts the process that flow runs are forked from, and starts it again when it has ended."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tickets = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._children: dict[int, ForkedRun] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: Connection | None = None
        self._ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process; None where it is not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; its imports go on for seconds, and `fork` waits for them."""
        self._ready.clear()
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P keeps a local file named like a package from being imported in its place.
                [sys.executable, "-P", "-m", "lobsmith.services.flows.zygote", str(os.getpid()), str(theirs.fileno())],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the worker, which then ends it
            )
        self._orders = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    async def ready(self) -> Connection:
        """Wait for its imports.

        Raises:
            FlowsError: the zygote ended, or has not come up in time.
        """
        if self._orders is None:
            self.start()
        try:
            async with asyncio.timeout(_START_S):
                await self._ready.wait()
        except TimeoutError:
            raise FlowsError(
                f"the zygote of the flows has not come up within {_START_S:g} s; look at its log"
            ) from None
        if self._orders is None:
            raise FlowsError("the zygote of the flows ended before it was ready; look at its log")
        return self._orders

    async def fork(self, job: str, environment: dict[str, str]) -> ForkedRun:
        """Fork a child that does a job.

        Args:
            job: a key of `lobsmith.services.flows.zygote.JOBS`.
            environment: what its environment has beside that of the zygote.

        Raises:
            FlowsError: the zygote ended, or has not come up in time.
        """
        child: ForkedRun = await self._ask(Order(next(self._tickets), job, environment))
        return child

    async def ping(self) -> None:
        """Wait until it takes orders.

        Raises:
            FlowsError: the zygote ended, or has not come up in time.
        """
        await self._ask(Ping(next(self._tickets)))

    async def _ask(self, message: Order | Ping) -> Any:
        orders = await self.ready()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[message.ticket] = answer
        try:
            orders.send(message)
        except OSError as error:
            del self._asked[message.ticket]
            raise FlowsError(f"the zygote of the flows is gone: {error.strerror}") from error
        return await answer

    def close(self) -> None:
        """End it, and with it every child that still runs."""
        self._let_go(restart=False)

    def _read(self) -> None:
        try:
            while self._orders is not None and self._orders.poll():
                self._take(self._orders.recv())
        except (EOFError, OSError):
            self._let_go(restart=self._ready.is_set())

    def _take(self, message: Forked | Ended | Pong | Ready) -> None:
        match message:
            case Forked(ticket, pid):
                self._answer(ticket, self._children.setdefault(pid, ForkedRun(pid)))
            case Pong(ticket):
                self._answer(ticket, None)
            case Ended(pid, status):
                self._children.pop(pid).end(status)
            case Ready():
                self._ready.set()

    def _answer(self, ticket: int, answer: ForkedRun | None) -> None:
        asked = self._asked.pop(ticket)
        if not asked.done():
            asked.set_result(answer)

    def _let_go(self, *, restart: bool) -> None:
        """Take leave of the process; its children end with it."""
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
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(FlowsError(f"the zygote of the flows ended with status {status}"))
        if restart:
            say(f"the zygote of the flows ended with status {status}; it is started again")
            self.start()
        else:
            self._ready.set()  # ends the wait in `ready`, which then finds none
