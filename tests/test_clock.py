"""The time of a workspace: the machine's, or faster and then ahead of it, and never one that goes back."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from lobsmith import clock
from lobsmith.errors import ClockError
from lobsmith.units import NS_PER_DAY, NS_PER_S
from lobsmith.workspace import Workspace

NOW = "from lobsmith import clock; print(clock.now_ns(), clock.speed())"


@pytest.fixture
def workspace(tmp_path: Path):
    yield Workspace.open(tmp_path)
    clock.use(tmp_path / "no clock")


def test_without_a_file_it_is_the_time_of_the_machine(workspace: Workspace) -> None:
    before = time.time_ns()
    assert before <= clock.now_ns() <= time.time_ns()
    assert (clock.speed(), clock.from_wall(before)) == (1.0, before)


def test_a_faster_workspace_stays_ahead_and_never_goes_back(workspace: Workspace) -> None:
    began = time.time_ns()
    clock.run(workspace.clock, 3600.0)
    times = []
    clock.sleep_until(clock.now_ns() + 1800 * NS_PER_S)
    times.append(clock.now_ns())
    clock.run(workspace.clock, 60.0)
    times.append(clock.now_ns())
    clock.run(workspace.clock, 1.0)
    times.append(clock.now_ns())
    assert times == sorted(times)
    assert times[0] - began >= 1800 * NS_PER_S > 100 * (time.time_ns() - began)
    assert clock.ahead_ns() > 1790 * NS_PER_S


def test_another_process_has_the_same_time(workspace: Workspace) -> None:
    clock.run(workspace.clock, 60.0)
    before = clock.now_ns()
    child = subprocess.run([sys.executable, "-c", NOW], capture_output=True, text=True, check=True).stdout.split()
    assert before <= int(child[0]) <= clock.now_ns()
    assert float(child[1]) == 60.0
    clock.use(workspace.home / "no clock")
    assert clock.now_ns() < time.time_ns() + NS_PER_S
    assert Workspace.open(workspace.root) == workspace
    assert clock.now_ns() >= int(child[0])


@pytest.mark.parametrize("content", [b"", b"{", b'{"speed": 0}', b'{"speed": 1e9}', b'{"days": 1}'])
def test_a_corrupt_clock_is_an_error_that_names_it(workspace: Workspace, content: bytes) -> None:
    workspace.home.mkdir()
    workspace.clock.write_bytes(content)
    with pytest.raises(ClockError, match=r"clock\.json: not a clock"):
        clock.use(workspace.clock)


def test_a_corrupt_clock_that_is_inherited_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "LOBSMITH_CLOCK": "{"}
    for command in (["--help"], ["status"]):
        lobsmith = [sys.executable, "-m", "lobsmith", "--root", str(tmp_path), *command]
        completed = subprocess.run(lobsmith, capture_output=True, text=True, env=environment, check=False)
        if command == ["--help"]:
            assert (completed.returncode, completed.stderr) == (0, "")
        else:
            assert completed.returncode == 1
            [line] = completed.stderr.splitlines()
            assert "LOBSMITH_CLOCK={: not a clock" in line
            assert line.endswith("; unset it")


@pytest.mark.parametrize("speed", [0.0, 0.5, -1.0, 4000.0, float("nan"), float("inf")])
def test_time_can_neither_stand_still_nor_fly(workspace: Workspace, speed: float) -> None:
    with pytest.raises(ClockError, match="1 to 3600 times"):
        clock.run(workspace.clock, speed)
    assert not workspace.clock.exists()


def test_a_week_passes_in_minutes(workspace: Workspace) -> None:
    began = clock.now_ns()
    clock.run(workspace.clock, clock.FASTEST)
    wall = time.time_ns()
    assert clock.from_wall(wall + 168 * NS_PER_S) - clock.from_wall(wall) == pytest.approx(7 * NS_PER_DAY, abs=NS_PER_S)
    assert clock.from_wall(wall) >= began


def test_a_clock_that_nothing_runs_any_more_slows_down_and_does_not_go_back(workspace: Workspace) -> None:
    clock.run(workspace.clock, 60.0)
    # As after a power cut twelve hours ago: the machine's time has gone on, the file's modification time has not.
    written = msgspec.json.decode(workspace.clock.read_bytes())
    hours_ns = 12 * 3600 * NS_PER_S
    moved = {**written, "wall_ns": written["wall_ns"] - hours_ns, "time_ns": written["time_ns"] - hours_ns}
    workspace.clock.write_bytes(msgspec.json.encode(moved))
    cut_ns = time.time_ns() - hours_ns
    os.utime(workspace.clock, ns=(cut_ns, cut_ns))
    clock.use(workspace.clock)
    assert clock.speed() == 1.0
    ahead_s = clock.ahead_ns() / NS_PER_S
    # Past the last time that the clock may have shown before the cut, and not by much.
    assert 0 < ahead_s < 3600
    # It stays slow when the file is touched.
    clock.run(workspace.clock, 1.0)
    os.utime(workspace.clock)
    clock.use(workspace.clock)
    assert clock.ahead_ns() / NS_PER_S == pytest.approx(ahead_s, abs=1)


def test_a_clock_that_runs_is_touched(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched_again(within_s: float) -> bool:
        os.utime(workspace.clock, ns=(0, 0))
        end = time.monotonic() + within_s
        while not (touched := workspace.clock.stat().st_mtime_ns) and time.monotonic() < end:
            time.sleep(0.01)
        return bool(touched)

    monkeypatch.setattr(clock, "_TOUCH_S", 0.05)
    before = set(threading.enumerate())
    clock.run(workspace.clock, 60.0)
    assert touched_again(within_s=60)
    clock.run(workspace.clock, 1.0)
    for touching in set(threading.enumerate()) - before:
        touching.join()
    assert not touched_again(within_s=0.5)
