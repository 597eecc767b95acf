"""The recipe of a version: data, parameters and environment that its bits and the verdicts on them depend on."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.errors import ReleaseError
from lobsmith.params import Params, as_table
from lobsmith.release.version.manifest import Environment, Manifest

BITS = ("window", "features", "labels", "split", "model", "train", "compress", "reference")
"""Sections of `params.yaml` that the bits of a version depend on besides its data."""
VERDICTS = ("contract", "evaluation", "walk_forward", "gates", "drift")
"""Sections that the verdicts on those bits depend on; of `drift` the rows of the reference do, too."""
_PACKAGES = ("lobsmith", "numba", "numpy", "onnx", "onnxruntime", "torch")
_CPUINFO = Path("/proc/cpuinfo")
# What ONNX Runtime, oneDNN and LLVM choose their kernels by; the widest that the processor has comes first.
_INSTRUCTION_SETS = ("avx512_vnni", "avx512f", "avx2", "avx")
_GIT_DEADLINE_S = 10


def window_id(params: Params, fingerprints: Iterable[str], commit: str | None) -> str:
    """Return what tells one training from another: the data, the code, and the parameters that it depends on.

    Parameters of what comes after the verdicts (serving, client, engines, retention) make no difference. Nor does
    `data`: the fingerprints say what was read.

    Args:
        params: all of `params.yaml`.
        fingerprints: of the datasets that are trained on.
        commit: of the code, None where it is unknown.
    """
    recipe = sections(as_table(params), *BITS, *VERDICTS)
    content = msgspec.json.encode([sorted(fingerprints), commit, recipe], order="sorted")
    return hashlib.sha256(content).hexdigest()


def recorded_params(manifest: Manifest, here: Params) -> Params:
    """Return the parameters that a version was made with; sections that make no difference are those of `here`.

    Raises:
        ReleaseError: this release of lobsmith has other parameters.
    """
    names = ("data", *BITS, *VERDICTS)
    kept = {name: manifest.params.get(name) for name in names}
    try:
        return msgspec.convert(as_table(here) | kept, Params)
    except msgspec.ValidationError as error:
        raise ReleaseError(
            f"{manifest.model} {manifest.version}: its parameters are of another release of lobsmith: {error}; "
            f"check out the commit that it was made with, {manifest.git_commit or 'which was not recorded'}"
        ) from error


def sections(table: Mapping[str, Any], *names: str) -> Any:
    """Return sections of a table of parameters as a manifest holds them; None for one that it lacks."""
    return msgspec.json.decode(msgspec.json.encode({name: table.get(name) for name in names}))


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
    # Without optional locks: a look at the checkout must not get in the way of work in it.
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
