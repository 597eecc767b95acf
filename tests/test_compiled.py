import os
import subprocess
import sys
from pathlib import Path

SHOW = "import lobsmith, os; print(os.environ.get('NUMBA_CACHE_DIR', ''))"


def cache_of(home: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    completed = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**clean, "XDG_CACHE_HOME": str(home), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return completed.stdout.strip()


def test_the_cache_belongs_to_the_sources(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    assert Path(cache).parent == tmp_path / "lobsmith"
    assert cache_of(tmp_path) == cache
    assert cache_of(tmp_path, NUMBA_CACHE_DIR="/elsewhere") == "/elsewhere"


def test_caches_of_many_older_sources_are_removed(tmp_path: Path) -> None:
    for number in range(9):
        folder = tmp_path / "lobsmith" / f"numba-{number}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    cache = cache_of(tmp_path)
    assert sorted(path.name for path in (tmp_path / "lobsmith").iterdir()) == sorted(
        [Path(cache).name, *(f"numba-{number}" for number in (5, 6, 7, 8))]
    )


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cache_of(tmp_path / "file") == ""
