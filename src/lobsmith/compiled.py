"""Numba's cache folder, named after the hash of all compiled sources.

Numba invalidates by the function's own file alone: a change of an inlined function would leave stale machine code.
"""

import hashlib
import os
import shutil
from pathlib import Path

_KEPT = 4
"""Folders of other sources that are kept."""


def use_own_cache() -> None:
    """Set NUMBA_CACHE_DIR before Numba is imported, unless the user has set it."""
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
