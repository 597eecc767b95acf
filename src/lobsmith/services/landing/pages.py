"""The pages that `lobsmith serve` gives browsers: `/`, `/status.json` and the reports below `/files/`.

A child process reads the workspace, on request and at most every `_PERIOD_S`; it ends by itself once no page is open.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import IO

import msgspec
from msgspec import Struct

from lobsmith.serving import report_files
from lobsmith.serving.mode_page import Answer, Pages
from lobsmith.workspace import Workspace

IDLE_S = 30.0
"""Time without a request after which the child ends, s."""
_PERIOD_S = 1.8
"""Least time between two readings, s: a little less than the page's own period."""
_DEADLINE_S = 20.0
_CHUNK = 65_536
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Built(Struct, frozen=True, kw_only=True):
    """A page, its Content-Security-Policy and the same content as JSON."""

    html: str
    policy: str
    document: msgspec.Raw


@contextmanager
def landing_pages(workspace: Workspace) -> Iterator[Pages]:
    """Yield the pages of a workspace; their child process ends with the block."""
    builder = _Builder(workspace)

    def pages(path: str) -> Answer | None:
        if path.startswith(report_files.PREFIX):
            return report_files.answer_report(workspace, path)
        if path not in ("/", "/status.json"):
            return None
        built = builder.build()
        if isinstance(built, str):
            text = f"the page cannot be made: {built}; it is tried again\n".encode()
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text, {"Refresh": "3"})
        if path == "/":
            headers = {**_HEADERS, "Content-Security-Policy": built.policy}
            return Answer(HTTPStatus.OK, "text/html; charset=utf-8", built.html.encode(), headers)
        return Answer(HTTPStatus.OK, "application/json", bytes(built.document), _HEADERS)

    try:
        yield pages
    finally:
        builder.close()


class _Builder:
    def __init__(self, workspace: Workspace) -> None:
        self._root = str(workspace.root)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._built: Built | str = ""
        self._built_s = -_PERIOD_S

    def build(self) -> Built | str:
        """Return the page, at most `_PERIOD_S` old, or why there is none; requests at once share one reading."""
        with self._lock:
            if time.monotonic() - self._built_s >= _PERIOD_S:
                self._built = self._ask()
                self._built_s = time.monotonic()
            return self._built

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _ask(self) -> Built | str:
        for _ in range(2):
            child = self._running()
            if isinstance(child, str):
                return child
            try:
                line = _answer(child.stdin, child.stdout) if child.stdin and child.stdout else b""
            except TimeoutError:
                self._end()
                return f"its reading took more than {_DEADLINE_S:g} s"
            except OSError:
                line = b""
            if line:
                return msgspec.json.decode(line, type=Built)
            # It ended just now, as nothing had been asked for.
            was_idle = child.wait() == 0
            self._end()
            if not was_idle:
                break
        return "its process ends; lobsmith status says more"

    def _running(self) -> "subprocess.Popen[bytes] | str":
        if self._child is None:
            command = [sys.executable, "-P", "-m", "lobsmith.services.landing", self._root]
            try:
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
            except OSError as error:
                return f"no process can be started: {error.strerror}"
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _answer(requests: IO[bytes], answers: IO[bytes]) -> bytes:
    """Ask the child and return its line, empty where it has ended.

    Raises:
        OSError: it has ended; as `TimeoutError`, it did not answer in time.
    """
    requests.write(b"\n")
    requests.flush()
    end, line = time.monotonic() + _DEADLINE_S, b""
    while not line.endswith(b"\n"):
        if not select.select([answers], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(answers.fileno(), _CHUNK)
        if not part:
            return b""
        line += part
    return line
