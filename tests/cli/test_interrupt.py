"""Ctrl-C: exit status 130 within seconds, no traceback, no process left."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from lobsmith.cli.interrupt import STATUS
from lobsmith.workspace import Workspace
from tests.small import SMALL, params_file
from tests.trading.recorded import published

_MARK = "LOBSMITH_TEST_MARK"
_LONGEST_S = 30.0
"""Far beyond the limit of a command: a busy machine fails no test, a command that goes on does."""


class Interrupted:
    """A process in a session of its own, as at a terminal, with all that it starts."""

    def __init__(self, log: Path, *command: str) -> None:
        self._log, self._mark = log, uuid4().hex
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, _MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # A shell's background jobs ignore SIGINT, and so would this process.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 600
        while text not in self.output and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert self._process.poll() is None, self.output
        assert text in self.output

    def interrupt(self) -> int:
        """Send SIGINT to the process group; return the exit status, once nothing that it started is left."""
        try:
            os.killpg(self._process.pid, signal.SIGINT)
            status = self._process.wait(_LONGEST_S)
            end = time.monotonic() + _LONGEST_S
            while self.left() and time.monotonic() < end:
                time.sleep(0.05)
            assert self.left() == []
        finally:
            for pid in (self._process.pid, *self.left()):
                if self._process.poll() is None or pid != self._process.pid:
                    os.kill(pid, signal.SIGKILL)
        return status

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def left(self) -> list[int]:
        assignment = f"{_MARK}={self._mark}".encode()
        pids = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and assignment in (folder / "environ").read_bytes().split(b"\0"):
                    pids.append(int(folder.name))
            except OSError:
                continue
        return pids


STUBBORN = {
    "swallowed": """
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
""",
    "in compiled code": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)",
    "beside a thread that goes on": "threading.Thread(target=time.sleep, args=(600,)).start(); time.sleep(600)",
    "at an exit that hangs": "atexit.register(time.sleep, 600); time.sleep(600)",
    "in a child": "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)",
    "in a destructor": """
class Slow:
    def __del__(self):
        time.sleep(600)
Slow()
time.sleep(600)
""",
    "printed by compiled code": """
try:
    time.sleep(600)
except KeyboardInterrupt:
    sys.excepthook(*sys.exc_info())  # as PyErr_Print
    time.sleep(600)
""",
    "turned into another error": """
try:
    time.sleep(600)
except KeyboardInterrupt:
    raise ImportError("half imported") from None
""",
}


@pytest.mark.parametrize("code", STUBBORN.values(), ids=STUBBORN)
def test_nothing_keeps_a_command_from_ending(tmp_path: Path, code: str) -> None:
    block = "\n".join(f"    {line}" for line in code.strip().splitlines())
    script = f"""
import atexit, hashlib, subprocess, sys, threading, time
from lobsmith.cli.interrupt import allow, ending_on_interrupt
allow(0.3)
with ending_on_interrupt():
    print("ready", flush=True)
{block}
"""
    running = Interrupted(tmp_path / "log", "-c", script)
    running.wait_for("ready")
    time.sleep(0.1)
    assert running.interrupt() == STATUS
    assert running.output == "ready\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with versions of a small network, and its parameters in the file."""
    workspace = published(tmp_path_factory.mktemp("interrupted"))
    table = yaml.safe_load(params_file().read_text())
    for name, value in {**SMALL, "compress.precisions": ["fp32", "int8_static"]}.items():
        *sections, key = name.split(".")
        section = table
        for part in sections:
            section = section[part]
        section[key] = value
    workspace.params.write_text(yaml.safe_dump(table))
    return workspace


RETRAIN = ("retrain", "--force", "--model", "other")
PLAYED = ("--simulate", "60", "--transport", "inprocess")
DEMO = ("demo", "--model", "shown", *(f"--set={name}={SMALL[name]}" for name in ("data.simulator.seconds",)))
MOMENTS = [
    (("retrain",), ""),
    (RETRAIN, "✓ start Prefect"),
    (RETRAIN, "✓ describe the training window"),
    (RETRAIN, "✓ train network"),
    ((*DEMO, "--set=train.epochs=2", "--set=window.minimum_rows=500", "--set=walk_forward.epochs=1"), "✓ serve with"),
    (("replay", *PLAYED), ""),
    (("live", *PLAYED), ""),
    (("live", *PLAYED), "rows/s"),
    (("data", "simulate", "--seconds", "3600", "capture.gz"), ""),
    (("bench", "tick"), ""),
    (("up", "--free-ports"), ""),
    (("up", "--free-ports"), "mlflow    ready"),
]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(("arguments", "after"), MOMENTS, ids=[f"{words[0]} {text}" for words, text in MOMENTS])
def test_a_command_ends_at_any_moment(
    workspace: Workspace, tmp_path: Path, arguments: Sequence[str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    delay_s = random.uniform(0.2, 2.5)
    running = Interrupted(tmp_path / "log", "-m", "lobsmith", "--root", str(workspace.root), *arguments)
    if after:
        running.wait_for(after)
    time.sleep(delay_s)
    status = running.interrupt()
    assert status == STATUS, (delay_s, running.output)
    assert "Traceback" not in running.output, delay_s
    assert "KeyboardInterrupt" not in running.output, delay_s
