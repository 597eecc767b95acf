"""F26: another process holds DVC's lock. Stages and flow do not need it; DVC names it, and works once it is free."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_dvc import BIN, project

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

HOLD = """
import sys, time
from zc.lockfile import LockFile
lock = LockFile(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_a_held_lock_is_named_and_costs_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    (folder / ".dvc" / "tmp").mkdir()
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder / ".dvc" / "tmp" / "lock"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        refused = run(folder, BIN / "dvc", "repro", "ingest")
        assert refused.returncode != 0
        assert "lock" in refused.stderr.lower()
        # The same stage, as the flow runs it: it ends while the lock is held.
        assert run(folder, BIN / "lobsmith", "stage", "ingest").returncode == 0
        assert held.poll() is None
    finally:
        held.kill()
        held.wait()
    done = run(folder, BIN / "dvc", "repro", "ingest")
    assert done.returncode == 0, done.stderr
    assert (folder / "dvc.lock").exists()
