"""Processes that kill themselves, forked from one that has imported what they need: `python -m tests.release.zygote`.

It has one thread when it forks, so a child is as good as a new interpreter. ONNX Runtime, whose import starts a thread,
is left to the children that need it.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """How a forked process ended."""

    returncode: int
    stderr: str


class Zygote:
    """Forks one process at a time, which calls the function `main` of a module below `tests.release`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, module: str, *arguments: str) -> Ended:
        """Call `main` in a process of its own; the first argument is a folder that a log may be written beside."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        log = Path(arguments[0]).with_suffix(".stderr")
        print(json.dumps([module, str(log), *arguments]), file=self._process.stdin, flush=True)
        return Ended(int(self._process.stdout.readline()), log.read_text())

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def _fork(main: Any, log: str, root: str, *arguments: str) -> int:
    """Return how the child ended, as `subprocess` does: the negative signal that killed it."""
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"  # noqa: PTH208
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(descriptor, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        main(Path(root), *arguments)
        status = 0
    except BaseException:  # noqa: BLE001 - it must not go on as the parent
        traceback.print_exc()
    finally:
        os._exit(status)


def _import_when_used(name: str) -> None:
    """Import a module at the first use of one of its attributes."""
    stub = ModuleType(name)

    def attribute(wanted: str) -> Any:
        if wanted.startswith("__"):  # `inspect` asks every module for these
            raise AttributeError(wanted)
        if sys.modules[name] is stub:
            del sys.modules[name]
        return getattr(importlib.import_module(name), wanted)

    stub.__getattr__ = attribute
    sys.modules[name] = stub


def _serve() -> None:
    _import_when_used("onnxruntime")
    from tests.release import publisher, reconciler

    known = {"publisher": publisher.main, "reconciler": reconciler.main}
    for line in sys.stdin:
        module, *arguments = json.loads(line)
        print(_fork(known[module], *arguments), flush=True)


if __name__ == "__main__":
    _serve()
