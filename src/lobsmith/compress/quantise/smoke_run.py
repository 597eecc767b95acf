"""Smoke run of a model file in a child process: ONNX Runtime has crashed on valid half-precision graphs.

`python -m lobsmith.compress.quantise.smoke_run FILE` runs single steps and a chunk of two streams; exits with 0, or 1
and the reason on standard output.
"""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from lobsmith.compress import FP32
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import LobsmithError, PrecisionError, ReleaseError
from lobsmith.process import run_module

_DEADLINE_S = 60.0
_MESSAGE_CHARACTERS = 400
"""Characters of the output's end in an error message."""
_SHAPES = ((1, 1), (2, 3))
"""Streams and rows."""


def check_runs(path: Path, precision: str) -> None:
    """Refuse a file that this machine cannot run: not every precision has kernels everywhere.

    Raises:
        PrecisionError: ONNX Runtime cannot load or run it, crashes or hangs, or the answers are not finite.
    """
    try:
        completed = run_module(__name__, str(path), deadline_s=_DEADLINE_S)
    except subprocess.TimeoutExpired:
        reason = f"ONNX Runtime has not run it within {_DEADLINE_S:g} s"
    else:
        status = completed.returncode
        if status == 0:
            return
        output = completed.stdout or completed.stderr[-_MESSAGE_CHARACTERS:]
        message = " ".join(output.decode(errors="replace").split())
        reason = message if status > 0 else f"ONNX Runtime crashed on it ({signal.Signals(-status).name})"
    remedy = "train the network again" if precision == FP32 else "take it out of compress.precisions"
    raise PrecisionError(f"{precision}: not on this machine: {reason}; {remedy}")


def _smoke_run(path: Path) -> None:
    model = OnnxModel(path)
    for batch, rows in _SHAPES:
        features = np.zeros((batch, rows, model.feature_count), np.float32)
        try:
            outputs = model.run(features, model.cold_state(batch))
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ReleaseError(f"{path}: ONNX Runtime cannot run it") from error
        if not all(np.isfinite(output).all() for output in outputs):
            raise ReleaseError("its answers are not finite")


def _main(arguments: list[str]) -> int:
    try:
        _smoke_run(Path(arguments[0]))
    except LobsmithError as error:
        sys.stdout.write(str(error.__cause__ or error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
