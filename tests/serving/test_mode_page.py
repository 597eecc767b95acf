"""The pages of modes: their answers, and which requests are refused."""

import http.client
import socket
import threading
import time
from contextlib import suppress

import msgspec
import pytest

from lobsmith.errors import PortBusyError
from lobsmith.params import ServingParams
from lobsmith.serving import mode_page as mode_pages
from lobsmith.serving.mode_page import mode_page
from lobsmith.serving.supervisor import with_free_ports
from lobsmith.workspace import Workspace
from tests.release import toy

CONTENT = b'{"model": "lob", "mode": "normal"}'


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.modes.mkdir(parents=True)
    (workspace.modes / "lob.json").write_bytes(CONTENT)
    (workspace.modes / "journal.jsonl").write_bytes(b"{}\n")
    (workspace.modes / "folder.json").mkdir()
    return workspace


@pytest.fixture
def serving(workspace):
    params = with_free_ports(toy.params()).serving
    with mode_page(workspace, params):
        yield params


def ask(serving: ServingParams, path: str, method: str = "GET") -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", serving.modes_port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def send(serving: ServingParams, content: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", serving.modes_port), timeout=10) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_page_is_the_mode_file_byte_for_byte(workspace, serving) -> None:
    status, body, headers = ask(serving, "/modes/lob")
    assert (status, body, headers["Content-Type"]) == (200, CONTENT, "application/json")
    (workspace.modes / "lob.json").write_bytes(b"broken")
    assert ask(serving, "/modes/lob")[1] == b"broken"
    status, body, headers = ask(serving, "/modes/lob", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "6")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/modes/other", 404),
        ("/modes/lob_candidate", 404),
        ("/modes/folder", 500),
        ("/", 404),
        ("/modes", 404),
        ("/modes/", 400),
        ("/modes/lob.json", 400),
        ("/modes/journal.jsonl", 400),
        ("/modes/../modes/lob", 400),
        ("/modes/%2e%2e/params", 400),
        ("/modes/lob?x=1", 400),
        ("/modes/" + "l" * 4000, 400),
        ("http://127.0.0.1/modes/lob", 404),
    ],
)
def test_what_is_no_mode_is_answered_in_one_line(serving, path: str, status: int) -> None:
    answered, body, headers = ask(serving, path)
    assert (answered, headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert body.endswith(b"\n")
    assert len(body.splitlines()) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_a_page_is_only_read(serving, method: str) -> None:
    status, body, _ = ask(serving, "/modes/lob", method)
    assert (status, len(body.splitlines())) == (501, 1)


def test_a_request_of_another_kind_gets_one_line_or_nothing(serving) -> None:
    for head in (b"\x16\x03\x01 nonsense of a kind", b"GET /modes/lob HTTP/1.1 <more>", b"GET /modes/lob HTTP/9.9"):
        assert len(send(serving, head + b"\r\n\r\n").splitlines()) == 1
    assert send(serving, b"GET /modes/lob HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n") == b""
    assert ask(serving, "/modes/lob")[0] == 200


def test_slow_and_silent_clients_delay_no_other_client(serving) -> None:
    held = [socket.create_connection(("127.0.0.1", serving.modes_port), timeout=10) for _ in range(20)]
    slow = held[0]

    def drip() -> None:
        try:
            while True:
                slow.sendall(b"G")
                time.sleep(0.2)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    assert ask(serving, "/modes/lob")[:2] == (200, CONTENT)
    # They are disconnected.
    for connection in held[1:]:
        assert connection.recv(1) == b""
        connection.close()
    with suppress(ConnectionResetError):
        assert slow.recv(1) == b""
    slow.close()


def test_more_clients_than_places_are_turned_away_and_places_come_back(serving, monkeypatch) -> None:
    monkeypatch.setattr(mode_pages, "_DEADLINE_S", 60.0)  # none of them is disconnected before the last has come
    held = [socket.create_connection(("127.0.0.1", serving.modes_port), timeout=10) for _ in range(80)]
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(serving, "/modes/lob")
    for connection in held:
        connection.close()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            status = ask(serving, "/modes/lob")[0]
            break
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
    assert status == 200


def test_a_taken_port_says_which_setting_to_change(workspace) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        params = msgspec.structs.replace(with_free_ports(toy.params()).serving, modes_port=holder.getsockname()[1])
        message = r"serving\.modes_port in params\.yaml or pass --modes-port"
        with pytest.raises(PortBusyError, match=message), mode_page(workspace, params):
            pass


def test_a_port_is_free_again_at_once(workspace, serving) -> None:
    params = with_free_ports(toy.params()).serving
    for _ in range(3):
        with mode_page(workspace, params):
            assert ask(params, "/modes/lob")[0] == 200


def test_no_host_name_is_looked_up(workspace, monkeypatch) -> None:
    def ask_dns(_: str = "") -> str:
        raise AssertionError("DNS lookup")

    monkeypatch.setattr(socket, "getfqdn", ask_dns)
    with mode_page(workspace, with_free_ports(toy.params()).serving):
        pass


def test_a_machine_out_of_threads_loses_no_places(serving, monkeypatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.endswith("(process_request_thread)"):
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as out_of_threads:
        out_of_threads.setattr(threading.Thread, "start", refuse)
        for _ in range(100):
            assert send(serving, b"") == b""
    assert ask(serving, "/modes/lob")[0] == 200
