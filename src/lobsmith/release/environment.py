"""What the bits of a model depend on besides data and parameters, as found on this machine."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from lobsmith.compress.gpu import this_gpu
from lobsmith.release.manifest import Environment

_PACKAGES = ("lobsmith", "numba", "numpy", "onnx", "onnxruntime", "torch")
_CPUINFO = Path("/proc/cpuinfo")
# What ONNX Runtime, oneDNN and LLVM choose their kernels by; the widest that the processor has comes first.
_INSTRUCTION_SETS = ("avx512_vnni", "avx512f", "avx2", "avx")
_GIT_DEADLINE_S = 10


def environment(threads: int) -> Environment:
    """Return versions of interpreter and packages, the training's thread count, the instruction set and the GPU."""
    gpu = this_gpu()
    return Environment(
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in _PACKAGES},
        threads=threads,
        instruction_set=_instruction_set(),
        gpu=None if gpu is None else gpu.name,
    )


def git_commit(root: Path) -> str | None:
    """Return the commit checked out at `root`, with `-dirty` where files differ; None outside a git checkout."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}-dirty" if _git(root, "status", "--porcelain") else head


def _instruction_set() -> str:
    try:
        line = next(line for line in _CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.machine()
    flags = set(line.split())
    return next((name for name in _INSTRUCTION_SETS if name in flags), platform.machine())


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # Without optional locks: a look at the checkout must not get in the way of whoever works in it.
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            [git, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_DEADLINE_S,
            check=True,
            env=variables,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
