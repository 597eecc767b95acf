"""`lobsmith live` as a user runs it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lobsmith.cli.live import market_seed
from lobsmith.monitoring.log.writer import LogWriter, Source
from lobsmith.process import HEARTBEAT, Heartbeat, heartbeat_memory
from lobsmith.workspace import Workspace
from tests.small import params_file, small_params


@pytest.mark.parametrize("kept", ["capture", "log"])
def test_a_simulated_market_is_the_same_the_first_time_and_never_again(tmp_path: Path, kept: str) -> None:
    workspace = Workspace(tmp_path)

    def keep(number: int) -> None:
        """Leave the files of a session; with retention, as many as before."""
        if kept == "log":
            with LogWriter.of(workspace, "lob", small_params()) as log:
                log.begin("live", Source.LIVE, "simulator:SIM", 1)
                log.flush()
            return
        workspace.captures.mkdir(parents=True, exist_ok=True)
        for path in workspace.captures.iterdir():
            path.unlink()
        (workspace.captures / f"simulator-sim-20260310T12000{number}.gz").touch()

    with LogWriter.of(workspace, "lob", small_params()) as log:
        log.begin("replayed", Source.REPLAY, "simulator:SIM", 0)
        log.begin("other", Source.LIVE, "binance-usdm:BTCUSDT", 0)
        log.flush()
    seeds = [market_seed(workspace, "lob", 7), market_seed(workspace, "lob", 7)]
    assert seeds == [7, 7]
    for number in range(3):
        keep(number)
        time.sleep(0.002)
        seeds.append(market_seed(workspace, "lob", 7))
    assert len({*seeds}) == 4


@pytest.mark.slow
def test_a_full_disk_under_its_output_ends_no_session_and_hides_no_sign_of_life(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shutil.copy(params_file(), workspace.params)
    command = [sys.executable, "-m", "lobsmith", "--root", str(tmp_path), "live", "--simulate", "7"]
    # As a service of `lobsmith up`, whose log is on the workspace's disk.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    errors = tmp_path / "errors"
    with Path("/dev/full").open("wb") as full, errors.open("wb") as error_file, heartbeat_memory() as descriptor:
        heartbeat = Heartbeat(descriptor)
        environment[HEARTBEAT] = str(descriptor)
        command += ["--transport", "inprocess"]
        live = subprocess.Popen(command, stdout=full, stderr=error_file, env=environment, pass_fds=[descriptor])
        try:
            end = time.monotonic() + 200
            while not any(path.stat().st_size for path in workspace.captures.glob("*.gz")) and time.monotonic() < end:
                assert live.poll() is None, errors.read_text()
                time.sleep(0.1)
            time.sleep(3)  # some lines of a second each, none of which can be written
            assert live.poll() is None, errors.read_text()
            end = time.monotonic() + 60
            while (heartbeat.age_s() or 60) >= 2.5:
                assert time.monotonic() < end, errors.read_text()
                time.sleep(0.1)
            live.send_signal(signal.SIGSTOP)
            time.sleep(3)
            assert (heartbeat.age_s() or 0) > 2.5
            live.send_signal(signal.SIGCONT)
            live.terminate()
            assert live.wait(60) == 0
        finally:
            live.kill()
            live.wait()
    assert "Traceback" not in errors.read_text()
