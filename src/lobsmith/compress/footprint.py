"""Memory of a model, measured in a child process: a process does not return memory.

`python -m lobsmith.compress.footprint FILE BATCH ROWS` prints the growth of the resident set, bytes.
"""

import subprocess
import sys
from pathlib import Path

import psutil

from lobsmith.errors import ReleaseError
from lobsmith.process import run_module

_DEADLINE_S = 60.0
_CALLS = 20


def measure_footprint(path: Path, batch: int, rows: int) -> int:
    """Return the resident memory of loading a model and running calls of one shape, bytes.

    Raises:
        ReleaseError: the model cannot be loaded or run.
    """
    try:
        completed = run_module(__name__, str(path), str(batch), str(rows), deadline_s=_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise ReleaseError(f"{path}: not loaded and run within {_DEADLINE_S:g} s; export it again") from None
    if completed.returncode:
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        raise ReleaseError(f"{path}: cannot be run: {lines[-1] if lines else f'status {completed.returncode}'}")
    return int(completed.stdout)


def _main(arguments: list[str]) -> None:
    from lobsmith.compress.runtime import BoundModel

    process = psutil.Process()
    before = process.memory_info().rss
    model = BoundModel(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    for _ in range(_CALLS):
        model.step()
    sys.stdout.write(str(max(process.memory_info().rss - before, 0)))


if __name__ == "__main__":
    _main(sys.argv[1:])
