"""A venue for tests: plays a capture back over WebSocket, and serves the REST snapshot of where it is."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed


@dataclass
class Script:
    """What goes wrong, and where; numbers count the messages of the playback from 0."""

    drop_at: tuple[int, ...] = ()
    """The connection is cut before these."""
    silent_at: tuple[int, ...] = ()
    """Nothing is sent any more on that connection."""
    pause_s: float = 0.0
    """Between batches of 100 messages."""
    bad_answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the first REST answers."""
    old_snapshots: int = 0
    """The next answers are the book as it was long ago."""
    unknown: tuple[str, ...] = ()
    """Symbols that REST answers with 400."""
    paced: bool = False
    """Each message is sent at its local time, by this machine's clock."""


class Exchange:
    """Plays lines back, once over all connections: one that comes later goes on where the last one ended.

    Args:
        lines: a raw capture, from its snapshot on.
        script: what goes wrong.
    """

    def __init__(self, lines: Sequence[bytes], script: Script | None = None) -> None:
        first = next(n for n, line in enumerate(lines) if b'"lastUpdateId"' in line[:80])
        snapshot = json.loads(lines[first][20:])
        sent = [line for line in lines[first + 1 :] if line[20:].startswith(b'{"stream"')]
        self.messages, self.due_ns = [line[20:] for line in sent], [int(line[:19]) for line in sent]
        self.script = script or Script()
        self.sent = 0
        self.connections = 0
        self.requests = 0
        self.finished = asyncio.Event()
        self._last = snapshot["lastUpdateId"]
        self._sides = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
        self._beginning = self._snapshot(0)
        self._servers: list[Server | asyncio.Server] = []

    async def __aenter__(self) -> "Exchange":
        socket = await serve(self._play, "127.0.0.1", 0, ping_interval=None, compression=None)
        rest = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self._servers = [socket, rest]
        self.ws_url, self.rest_url = (
            f"{scheme}://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            for scheme, server in (("ws", socket), ("http", rest))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    async def _play(self, connection: ServerConnection) -> None:
        self.connections += 1
        script = self.script
        began = self.sent
        try:
            while self.sent < len(self.messages):
                if self.sent in script.drop_at and self.sent > began:
                    connection.transport.abort()
                    return
                if self.sent in script.silent_at and self.sent > began:
                    await connection.wait_closed()
                    return
                if script.paced and (left_ns := self.due_ns[self.sent] - time.time_ns()) > 0:
                    await asyncio.sleep(left_ns / 1e9)
                text = self.messages[self.sent]
                self._apply(text)
                self.sent += 1
                await connection.send(text, text=True)
                if self.sent % 100 == 0:
                    await asyncio.sleep(script.pause_s)
        except ConnectionClosed:
            return
        self.finished.set()
        await connection.wait_closed()

    def _apply(self, text: bytes) -> None:
        if b"@depth" not in text[:60]:
            return
        data = json.loads(text)["data"]
        if data["u"] < self._last:
            return
        self._last = data["u"]
        for side, levels in self._sides.items():
            for price, size in data[side]:
                levels[price] = size
                if not float(size):
                    del levels[price]

    def _snapshot(self, last: int) -> bytes:
        names = (("bids", "b"), ("asks", "a"))
        sides = {name: [list(level) for level in self._sides[key].items()] for name, key in names}
        return json.dumps({"lastUpdateId": last, **sides}).encode()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass
            self.requests += 1
            status, headers, body = 200, {}, b"{}"
            if any(f"symbol={name}".encode() in line for name in self.script.unknown):
                status, body = 400, b'{"code":-1121,"msg":"Invalid symbol."}'
            elif self.script.bad_answers:
                status, headers = self.script.bad_answers.pop(0)
            elif self.script.old_snapshots:
                self.script.old_snapshots -= 1
                body = self._beginning
            else:
                body = self._snapshot(self._last)
            lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
        writer.close()


async def eventually(holds: Callable[[], bool], deadline_s: float = 30.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(deadline_s):
        while not holds():
            await asyncio.sleep(0.02)
