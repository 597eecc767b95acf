import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from tests.cli.test_commands import lobsmith, refused
from tests.small import params_file


def bench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lobsmith", "--root", str(root), "bench", "features", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def bench_tick(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lobsmith", "--root", str(root), "bench", "tick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return tmp_path


@pytest.mark.recorded
def test_without_hftbacktest_the_error_names_the_setup(root: Path, recorded: Path) -> None:
    refused(lobsmith(root, "bench", "features", str(recorded / "binance" / "usdm-btcusdt-20240808.gz")), "--setup")


@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.timeout(900)
def test_both_sides_are_measured_in_one_run(root: Path, recorded: Path) -> None:
    capture = recorded / "binance" / "usdm-btcusdt-20240808.gz"
    completed = bench(root, "--setup", "--rounds", "3", "--json", str(capture))
    assert completed.returncode == 0, completed.stderr
    report = json.loads(completed.stdout)
    # 65,000 rows of 93,954 messages; how fast is for a quiet machine to say.
    assert report["events"] > 500_000
    assert report["sessions"][0]["rows"] > 60_000
    assert report["ratio"] == pytest.approx(report["events_per_s"] / report["hftbacktest_events_per_s"])
    rates = report["ingest_messages_per_s"], report["hftbacktest_convert_messages_per_s"]
    assert report["ingest_ratio"] == pytest.approx(rates[0] / rates[1])
    # Ten times the input may not take even twice the memory.
    assert report["memory_mib"]["tenfold"] < 2 * report["memory_mib"]["once"]


@pytest.mark.slow
def test_a_tick_by_step_and_by_window(root: Path) -> None:
    completed = bench_tick(root, "--calls", "200", "--json")
    assert completed.returncode == 0, completed.stderr
    report = json.loads(completed.stdout)
    assert (report["rows"], report["calls"]) == ("random", 240)
    for side in ("window", "step", "compiled"):
        assert 0 < report[f"{side}_p50_us"] <= report[f"{side}_p99_us"]
    assert 0 < report["low"] < report["ratio"] < report["high"]
    assert report["compiled_ratio"] > 0


@pytest.mark.slow
def test_a_tick_is_shown_as_a_table(root: Path) -> None:
    result = CliRunner().invoke(cli, ["--root", str(root), "bench", "tick", "--calls", "100"])
    assert result.exit_code == 0, result.output
    assert "times faster" in result.output


def test_a_folder_without_a_network_is_one_clear_error(root: Path) -> None:
    refused(lobsmith(root, "bench", "tick", "--directory", str(root)), "dataset.safetensors")


@pytest.mark.slow
def test_a_tick_with_and_without_mirroring(root: Path) -> None:
    command = [sys.executable, "-m", "lobsmith", "--root", str(root), "bench", "mirror", "--rows", "500", "--json"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert completed.returncode == 0, completed.stderr
    report = json.loads(completed.stdout)
    for side in ("plain", "mirrored", "put"):
        assert report[side]["count"] == 500
        assert 0 < report[side]["p50_us"] <= report[side]["p99_us"]
    assert report["ratio_p50"] == pytest.approx(report["mirrored"]["p50_us"] / report["plain"]["p50_us"])
    recorded = report["recorded"]
    assert recorded["rows"] == recorded["logged"] == recorded["candidate"] == recorded["fallback"] == 1500
