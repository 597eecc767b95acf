"""Small services in place of the real ones, supervised in a process of their own, as `lobsmith up` is.

Run as `python -m tests.services.stand_ins ROOT SPECIFICATIONS [SPEED]`: JSON with one object a service. It prints a
line a change: name, state, process id and reason as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lobsmith.errors import LobsmithError
from lobsmith.services.guard import marked
from lobsmith.services.service import Service, ServiceState, answers
from lobsmith.services.supervisor import supervise
from lobsmith.serving.ports import Port
from lobsmith.workspace import Workspace

SERVER = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
BEATING = """
import time
from lobsmith.process import Heartbeat
alive = Heartbeat.inherited()
while True:
    alive.beat()
    time.sleep(0.05)
"""
SLEEPER = "import time; time.sleep(600)"
GRANDPARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True)
{BEATING}
"""
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{BEATING}"


def service(root: Path, specification: dict[str, Any]) -> Service:
    port = specification.pop("port", None)
    more: dict[str, Any] = {"probe_s": 0.1}
    if port is not None:
        more |= {"probe": answers(port, "/", deadline_s=1.5), "ports": (Port(port, "services.mlflow_port"),)}
    arguments = () if port is None else (str(port),)
    command = (sys.executable, "-c", specification.pop("code"), *arguments)
    return Service(command=command, folder=root, **more, **specification)


def changed(state: ServiceState) -> None:
    print(json.dumps([state.name, state.state.value, state.pid, state.why]), flush=True)


class Up:
    """A supervisor with its stand-ins, and the changes that it has printed so far."""

    def __init__(self, root: Path, services: list[dict[str, Any]], out: Path, speed: float) -> None:
        self.errors = out / "errors"
        self._out = out / "changes"
        with self._out.open("wb") as out_file, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.services.stand_ins", str(root), json.dumps(services), str(speed)],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=errors,
                cwd=Path(__file__).parents[2],
            )

    @property
    def changes(self) -> list[list[Any]]:
        lines = self._out.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def states(self, name: str) -> list[str]:
        return [change[1] for change in self.changes if change[0] == name]

    def pid(self, name: str) -> int:
        return next(change[2] for change in reversed(self.changes) if change[0] == name and change[2])

    def eventually(self, holds: Callable[[], bool], within_s: float = 90.0) -> None:
        end = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > end:
                pytest.fail(f"not within {within_s:g} s; {self.changes} {self.errors.read_text()}")
            time.sleep(0.02)

    def ready(self, *names: str) -> None:
        self.eventually(lambda: all(self.states(name)[-1:] == ["ready"] for name in names))

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(90)


@contextmanager
def up(root: Path, *services: dict[str, Any], out: Path | None = None, speed: float = 1.0) -> Iterator[Up]:
    """Supervise stand-ins until the end of the block, where nothing of them is left; `out` takes what is printed."""
    started = Up(root, list(services), out or root, speed)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        for pid in marked(str(root)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stand_ins = [service(folder, specification) for specification in json.loads(sys.argv[2])]
    try:
        supervise(Workspace(folder), stand_ins, speed=float((*sys.argv, 1)[3]), on_change=changed)
    except LobsmithError as error:
        sys.exit(f"Error: {error}")
