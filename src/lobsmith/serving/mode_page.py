"""The modes over HTTP, for clients on other machines: `GET /modes/<model>` is the mode file, byte for byte.

Runs in the supervisor on its own port, so it answers while Triton restarts. Read-only, no key. Requests have a deadline
and a size limit, and at most `_AT_ONCE` are served at once. All other paths are `Pages` of a higher room: for browsers
on this machine only, at most `_PAGES_AT_ONCE`, so that the modes keep their places.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from socketserver import TCPServer
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from lobsmith.errors import PortBusyError
from lobsmith.params import ServingParams
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.triton.embedded import ipv4
from lobsmith.workspace import Workspace

PREFIX = "/modes/"
_HEAD_BYTES = 8192
_DEADLINE_S = 2.0
_AT_ONCE = 64
_PAGES_AT_ONCE = 8
_POLL_S = 0.1


class Answer(NamedTuple):
    """An answer to a browser; a file is sent and closed."""

    status: HTTPStatus
    content_type: str
    content: bytes | BinaryIO
    headers: Mapping[str, str] = {}


Pages = Callable[[str], Answer | None]
"""Takes a path without its query; returns None where there is no such page."""


@contextmanager
def mode_page(workspace: Workspace, params: ServingParams, pages: Pages | None = None) -> Iterator[None]:
    """Serve the modes in threads of their own within the block.

    Args:
        workspace: of the modes.
        params: host and port.
        pages: all other paths; None has none. Called in several threads.

    Raises:
        PortBusyError: `serving.modes_port` cannot be bound.
    """
    host = ipv4(params.host)
    try:
        server = _ModeServer((host, params.modes_port), workspace, pages)
    except OSError as error:
        raise PortBusyError(
            f"port {params.modes_port} on {host} cannot be used: {error.strerror}; free it, or set serving.modes_port "
            "in params.yaml or pass --modes-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="mode page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _ModeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * _AT_ONCE

    def __init__(self, address: tuple[str, int], workspace: Workspace, pages: Pages | None) -> None:
        self.workspace = workspace
        self.pages = pages
        self.free_pages = threading.BoundedSemaphore(_PAGES_AT_ONCE)
        self._free_threads = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Page)

    def server_bind(self) -> None:
        # HTTPServer would look up a host name that is not used, which some resolvers delay.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free_threads.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # Without a thread the place is released here.
            self._free_threads.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_threads.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnected."""


class _Page(BaseHTTPRequestHandler):
    server: _ModeServer
    server_version = "lobsmith"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        # Read before parsing: the parser has no deadline for slow clients.
        self.rfile = BytesIO(_head(self.connection))
        self.connection.settimeout(_DEADLINE_S)

    def do_GET(self) -> None:
        """Answer with the mode of the model in the path."""
        name = self.path.removeprefix(PREFIX)
        if name == self.path:
            self._answer_page()
        elif not Repository.is_name(name):
            self._answer(HTTPStatus.BAD_REQUEST, "not a model's name: letters, digits and underscores, a letter first")
        else:
            self._answer_mode(name)

    do_HEAD = do_GET  # noqa: N815 - the parser looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse in one line where the parser would write HTML."""
        self._answer(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer_page(self) -> None:
        pages, free = self.server.pages, self.server.free_pages
        if pages is None:
            self._answer(HTTPStatus.NOT_FOUND, f"no such page; ask for {PREFIX}<model>")
        elif not self._is_from_here():
            self._answer(HTTPStatus.FORBIDDEN, "this page is for browsers on the server's machine; use an SSH tunnel")
        elif not free.acquire(blocking=False):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once; try again")
        else:
            try:
                answer = pages(self.path.partition("?")[0])
                if answer is None:
                    self._answer(HTTPStatus.NOT_FOUND, f"no such page; ask for / or {PREFIX}<model>")
                else:
                    self._send(answer)
            finally:
                free.release()

    def _is_from_here(self) -> bool:
        """Return whether client and address are this machine's; a site's own name may lead here by its DNS."""
        client, own = self.client_address[0], self.connection.getsockname()[0]
        try:
            host = urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname or ""
            is_ours = host == "localhost" or bool(ipaddress.ip_address(host))
        except ValueError:
            return False
        return is_ours and (client == own or ipaddress.ip_address(client).is_loopback)

    def _answer_mode(self, model: str) -> None:
        try:
            content = (self.server.workspace.modes / f"{model}.json").read_bytes()
        except FileNotFoundError:
            self._answer(HTTPStatus.NOT_FOUND, f"{model} has no mode yet; the monitor sets it")
        except OSError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"the mode of {model} cannot be read: {error.strerror}")
        else:
            self._answer(HTTPStatus.OK, content)

    def _answer(self, status: HTTPStatus, body: bytes | str) -> None:
        if isinstance(body, bytes):
            self._send(Answer(status, "application/json", body))
        else:
            self._send(Answer(status, "text/plain; charset=utf-8", f"{body}\n".encode(errors="replace")))

    def _send(self, answer: Answer) -> None:
        content = answer.content
        length = len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(length))
            self.send_header("Cache-Control", "no-store")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if isinstance(content, bytes):
                self.wfile.write(content)
            else:
                self.connection.sendfile(content)
        finally:
            if not isinstance(content, bytes):
                content.close()


def _head(connection: socket.socket) -> bytes:
    """Return a request's line and headers; empty where too long or too late."""
    deadline, head = time.monotonic() + _DEADLINE_S, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or len(head) > _HEAD_BYTES:
            return b""
        connection.settimeout(left_s)
        try:
            received = connection.recv(_HEAD_BYTES)
        except OSError:
            return b""
        if not received:
            return b""
        head += received
    return head
