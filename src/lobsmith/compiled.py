"""Where compiled functions are cached: in a folder that belongs to exactly these sources.

Numba keeps a function's machine code for as long as the function's own file is unchanged. It does not look at the files
of the functions that were inlined into it, so after a change of the order book the feature kernel would go on with the
old one, silently. A folder named after the hash of all sources cannot hold anything stale.
"""

import hashlib
import os
import shutil
from pathlib import Path

_KEPT = 4
"""Folders of other versions that are left where they are."""


def use_own_cache() -> None:
    """Name the folder to Numba, which must not have been imported yet; a folder that the user has named stays."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        if b"njit" in content or b"np.dtype" in content:
            digest.update(f"{path.relative_to(package)}:{len(content)};".encode())
            digest.update(content)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lobsmith"
        folder = home / f"numba-{digest.hexdigest()[:16]}"
        if not folder.exists():
            folder.mkdir(parents=True)
            others = sorted(home.glob("numba-*"), key=lambda other: other.stat().st_mtime)
            for old in others[: -_KEPT - 1]:
                shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError):
        return  # nowhere to write: Numba finds a place of its own, or compiles anew
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
