"""The recipe of a version: data, parameters and environment that its bits and verdicts depend on."""

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
"""Sections of `params.yaml` that a version's bits depend on."""
VERDICTS = ("contract", "evaluation", "walk_forward", "gates", "drift")
"""Sections that its verdicts depend on; the reference's rows depend on `drift`, too."""
_PACKAGES = ("lobsmith", "numba", "numpy", "onnx", "onnxruntime", "torch")
_CPUINFO = Path("/proc/cpuinfo")
# ONNX Runtime, oneDNN and LLVM choose kernels by these; widest first.
_INSTRUCTION_SETS = ("avx512_vnni", "avx512f", "avx2", "avx")
_GIT_DEADLINE_S = 10


def window_id(params: Params, fingerprints: Iterable[str], commit: str | None) -> str:
    """Return the SHA-256 of a training's recipe: fingerprints of its datasets, commit, and the parameters it depends
    on.

    Left out are parameters of later stages (serving, client, engines, retention), and `data`, as the fingerprints cover
    it.
    """
    recipe = sections(as_table(params), *BITS, *VERDICTS)
    content = msgspec.json.encode([sorted(fingerprints), commit, recipe], order="sorted")
    return hashlib.sha256(content).hexdigest()


def manifest_params(manifest: Manifest, here: Params) -> Params:
    """Return the parameters that a version was made with; irrelevant sections are those of `here`.

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
            f"check out the commit that it was made with, {manifest.git_commit or 'which is unknown'}"
        ) from error


def sections(table: Mapping[str, Any], *names: str) -> Any:
    """Return sections of a table of parameters as in a manifest; None for a missing one."""
    return msgspec.json.decode(msgspec.json.encode({name: table.get(name) for name in names}))


def environment(threads: int) -> Environment:
    """Return interpreter and package versions, training threads, instruction set and GPU."""
    gpu = this_gpu()
    return Environment(
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in _PACKAGES},
        threads=threads,
        instruction_set=_instruction_set(),
        gpu=None if gpu is None else gpu.name,
    )


def git_commit(root: Path) -> str | None:
    """Return the commit checked out at `root`, `-dirty` where files differ; None outside a git checkout."""
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
    # No optional locks: they would block work in the checkout.
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        completed = subprocess.run(
            [git, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_DEADLINE_S,
            check=True,
            env=variables,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()
