import json
from pathlib import Path

import pytest

from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import write_raw
from tests.cli.test_commands import lobsmith, refused, root

__all__ = ["root"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "session.gz"
    write_raw(simulate(3, 150), path)
    return path


def test_a_calm_session_has_windows_and_no_alert(root: Path, capture: Path) -> None:
    [report] = json.loads(lobsmith(root, "data", "watch", str(capture), "--json").stdout)["instruments"]
    assert report["instrument"] == "simulator:SIM"
    assert report["crashes"] == []
    windows = report["accumulation"]
    assert len(windows) in (3, 4)  # 150 s, cut at whole minutes
    assert all(0 <= window["risk"] <= 1 and window["trades"] > 0 for window in windows)


def test_thresholds_come_from_the_parameters(root: Path, capture: Path) -> None:
    """With thresholds that anything meets there is an alert."""
    settings = {"drop": 1e-6, "volume": 1e-6, "impact": 1e-6, "minimum_average_s": 20}
    options = [f"--set=surveillance.crash.{name}={value}" for name, value in settings.items()]
    [report] = json.loads(lobsmith(root, "data", "watch", str(capture), "--json", *options).stdout)["instruments"]
    assert report["crashes"]


def test_a_bad_file_is_one_line(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gz"
    bad.write_bytes(b"nothing")
    refused(lobsmith(root, "data", "watch", str(bad)), "bad.gz")
