"""The two sources of a client's mode, and what can be wrong there."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from lobsmith.errors import DeadlineError, LobsmithError, ModeError, ServingError
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import set_mode, state_path
from lobsmith.trading.guard.monitor_mode import FileModes, HttpModes
from lobsmith.workspace import Workspace
from tests.trading.scores import record

PUBLISHED = record(Mode.CONSERVATIVE)
CONTENT = msgspec.json.encode(PUBLISHED)


@contextmanager
def page(status: int, content: bytes, *, pause_s: float = 0.0, deadline_s: float = 60.0) -> Iterator[HttpModes]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/modes/lob"
            self.send_response(status if known else 500)
            self.end_headers()
            try:
                for place in range(0, len(content), 1 if pause_s else len(content)):
                    self.wfile.write(content[place:] if not pause_s else content[place : place + 1])
                    self.wfile.flush()
                    time.sleep(pause_s)
            except OSError:
                pass

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield HttpModes(f"http://127.0.0.1:{server.server_port}/modes", "lob", deadline_s=deadline_s)
    finally:
        server.shutdown()
        server.server_close()


def test_both_read_the_same_mode(tmp_path: Path) -> None:
    source = FileModes(Workspace(tmp_path), "lob")
    assert source.read() is None
    path = state_path(Workspace(tmp_path), "lob")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert source.read() == PUBLISHED
    with page(200, CONTENT) as http:
        assert http.read() == PUBLISHED
    with page(404, b"none") as http:
        assert http.read() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        CONTENT[:-5],
        b"\xff\xfe",
        b"[]",
        CONTENT.replace(b"conservative", b"reckless"),
        CONTENT.replace(b"lob", b"bol"),
    ],
)
def test_a_corrupt_or_other_models_mode_is_refused(content: bytes, tmp_path: Path) -> None:
    path = state_path(Workspace(tmp_path), "lob")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ModeError):
        FileModes(Workspace(tmp_path), "lob").read()
    with page(200, content) as http, pytest.raises(ModeError, match="not that model's mode"):
        http.read()


@pytest.mark.parametrize("left", [None, b"{"], ids=["lost", "corrupt"])
def test_a_mode_that_is_gone_undoes_no_caution(left: bytes | None, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = state_path(workspace, "lob")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    set_mode(workspace, "lob", Mode.PAUSED, "a test", "the test")
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    mode = FileModes(workspace, "lob").read()
    assert mode is not None
    # Without a drift check it is stale, and only its caution counts.
    assert (mode.mode, mode.looked_ns) == (Mode.PAUSED, 0)


def test_a_page_that_never_ends_is_refused() -> None:
    with page(200, b" " * (1 << 21)) as http, pytest.raises(ModeError, match="longer than any mode"):
        http.read()


def test_a_server_in_trouble_is_out_of_reach() -> None:
    with page(503, b"starting") as http, pytest.raises(ServingError, match="503"):
        http.read()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/modes"
    with pytest.raises(ServingError, match="is the server up"):
        HttpModes(url, "lob").read()


def test_silence_and_a_page_that_trickles_end_at_the_deadline() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(DeadlineError):
            HttpModes(f"http://127.0.0.1:{server.getsockname()[1]}/modes", "lob", deadline_s=0.2).read()
    with page(200, CONTENT, pause_s=0.02, deadline_s=0.3) as http, pytest.raises(DeadlineError):
        http.read()


def test_headers_that_trickle_end_at_the_deadline() -> None:
    ended = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            for place in itertools.count():
                connection.sendall(b"HTTP/1.1 200 OK\r\n" if not place else b"x")
                if ended.wait(0.02):
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,), daemon=True)
        thread.start()
        began = time.monotonic()
        try:
            with pytest.raises(DeadlineError, match="no answer within 0.2 s"):
                HttpModes(f"http://127.0.0.1:{server.getsockname()[1]}/modes", "lob", deadline_s=0.2).read()
        finally:
            ended.set()
            thread.join(5)
        assert time.monotonic() - began < 60  # of headers without an end


@pytest.mark.parametrize("url", ["127.0.0.1:80/modes", "http://:1", "http://h:x/modes", "ftp://h/modes", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(LobsmithError, match="write http://HOST:PORT/modes"):
        HttpModes(url, "lob")
