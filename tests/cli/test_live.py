"""`lobsmith live` as its users see it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lobsmith.workspace import Workspace
from tests.small import params_file


@pytest.mark.slow
def test_a_full_disk_under_its_output_ends_no_session(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shutil.copy(params_file(), workspace.params)
    command = [sys.executable, "-m", "lobsmith", "--root", str(tmp_path), "live", "--simulate", "7"]
    # As a service of `lobsmith up`, whose log is on the workspace's disk.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    errors = tmp_path / "errors"
    with Path("/dev/full").open("wb") as full, errors.open("wb") as said:
        live = subprocess.Popen([*command, "--transport", "inprocess"], stdout=full, stderr=said, env=environment)
        try:
            end = time.monotonic() + 60
            while not any(path.stat().st_size for path in workspace.captures.glob("*.gz")) and time.monotonic() < end:
                assert live.poll() is None, errors.read_text()
                time.sleep(0.1)
            time.sleep(3)  # some lines of a second each, none of which can be written
            assert live.poll() is None, errors.read_text()
            live.terminate()
            assert live.wait(60) == 0
        finally:
            live.kill()
            live.wait()
    assert "Traceback" not in errors.read_text()
