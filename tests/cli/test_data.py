import gzip
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lobsmith.cli.main import cli
from tests.cli.test_commands import lobsmith, refused
from tests.market.venues.captured import SPOT, write
from tests.small import params_file


def data(root: Path, *arguments: object) -> Result:
    return lobsmith(root, "data", *map(str, arguments))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "params.yaml").write_text(params_file().read_text())
    return folder


def test_describe_prints_one_object(root: Path, tmp_path: Path) -> None:
    result = data(root, "describe", "--json", "--quarantine", tmp_path / "q.csv", write(tmp_path / "a.gz", *SPOT))
    assert result.exit_code == 0, result.stderr
    session = json.loads(result.stdout)
    assert (session["venue"], session["symbol"]) == ("binance-spot", "BTCUSDT")
    counts = ("depth_messages", "tickers", "trades", "snapshots", "level_updates", "segments", "sequence_breaks")
    assert [session[name] for name in counts] == [4, 2, 2, 1, 7, 1, 0]
    assert {"seconds", "crossed", "mid_changes", "clock_offset_ns", "faults", "set_aside"} <= set(session)
    assert (tmp_path / "q.csv").read_text().count("\n") == 1 + sum(session["set_aside"].values())


def test_describe_shows_durations_and_dates(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    assert data(root, "simulate", path, "--seconds", 130).exit_code == 0
    shown = data(root, "describe", path).stdout
    cells = (line.split("│") for line in shown.splitlines() if line.startswith("│"))
    rows = {cell[1].strip(): cell[2].strip() for cell in cells}
    assert (rows["duration"], rows["first"], rows["last"]) == (
        "2.2 min",
        "2024-01-01T00:00:00+00:00",
        "2024-01-01T00:02:10+00:00",
    )
    assert re.fullmatch(r"-?\d+\.\d ms", rows["clock offset"])
    assert not [name for name in rows if name.endswith(" ns")]
    account = json.loads(data(root, "describe", path, "--json").stdout)
    assert {"seconds", "clock_offset_ns", "first_ns", "last_ns"} <= set(account)


def test_describe_takes_several_instruments(root: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.gz", *(line.replace(b"BTCUSDT", b"ETHUSDT") for line in SPOT))
    result = data(root, "describe", "--json", write(tmp_path / "a.gz", *SPOT), other, tmp_path / "absent")
    assert result.exit_code == 1
    described = json.loads(result.stdout)
    assert [session["symbol"] for session in described["sessions"]] == ["BTCUSDT", "ETHUSDT"]
    assert "no such file" in described["failed"][str(tmp_path / "absent")]


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("files", "symbol", "seconds", "depth", "trades"),
    [
        (["usdm-btcusdt-20240808.gz"], "BTCUSDT", 345, 6_551, 21_313),
        (["usdm-ethusdt-20240808.gz"], "ETHUSDT", 345, 6_586, 14_076),
        (["usdm-btcusdt-20240718.gz", "usdm-btcusdt-20240719.gz"], "BTCUSDT", 480, 9_022, 10_701),
        (["spot-btcusdt-20240808.gz", "spot-btcusdt-20240809.gz"], "BTCUSDT", 651, 6_495, 19_904),
    ],
)
def test_describe_recorded_sessions(
    root: Path, recorded: Path, files: list[str], symbol: str, seconds: int, depth: int, trades: int
) -> None:
    session = json.loads(data(root, "describe", "--json", *(recorded / "binance" / name for name in files)).stdout)
    assert (session["symbol"], session["depth_messages"], session["trades"]) == (symbol, depth, trades)
    assert (session["sequence_breaks"], session["crossed"], session["segments"]) == (0, 0, 1)
    assert session["seconds"] == pytest.approx(seconds, abs=1)


def test_ingest_fills_the_store_and_refuses_other_data(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", *SPOT)
    first = data(root, "ingest", "--json", path)
    assert first.exit_code == 0, first.stderr
    ingested = json.loads(first.stdout)["done"]["binance-spot:BTCUSDT"]
    assert ingested["days"] == ["2024-08-08"]
    assert (root / ".lobsmith" / "market" / "binance-spot" / "BTCUSDT" / "2024-08-08.parquet").exists()
    again = data(root, "ingest", "--json", path)
    assert json.loads(again.stdout)["done"]["binance-spot:BTCUSDT"]["fingerprint"] == ingested["fingerprint"]
    other = write(tmp_path / "b.gz", *SPOT, SPOT[-1].replace(b'"u":111', b'"u":112').replace(b'"U":111', b'"U":112'))
    refused(data(root, "ingest", other), "--replace")
    assert data(root, "ingest", "--replace", other).exit_code == 0


def test_bad_input_is_one_line(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gz"
    bad.write_bytes(gzip.compress(b"".join(SPOT))[:-9])
    for command in ("describe", "ingest"):
        refused(data(root, command, bad), "truncated")


def test_validate_shows_verdicts_and_fails_with_the_reason(root: Path, tmp_path: Path) -> None:
    assert data(root, "simulate", tmp_path / "s.gz", "--seconds", 60).exit_code == 0
    # The simulated base is worth what bitcoin is: its symbol alone does not say so.
    price = "contract.liquidity.btc_price=60000"
    result = data(root, "validate", tmp_path / "s.gz", "--json", "--set", price)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["tradable"] == ["simulator:SIM"]
    assert (root / ".lobsmith" / "validation" / "data_docs" / "events" / "index.html").exists()
    result = data(root, "validate", tmp_path / "s.gz", "--set", price, "--set", "contract.minimum_seconds=1000")
    refused(result, "seconds: 1 of 1 rows")
    assert "events contract refused" in result.stdout


def simulated(output: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", "simulate", str(output), "--seconds", "8", *arguments])


def test_a_simulated_market_changes_on_request(tmp_path: Path) -> None:
    plain, changed = tmp_path / "a.txt", tmp_path / "b.txt"
    assert simulated(plain).exit_code == 0
    assert simulated(changed, "--change-at", "4", "--change", "order=3", "--change", "queue=3").exit_code == 0
    a, b = (path.read_bytes().splitlines() for path in (plain, changed))
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert same > len(a) / 4


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--change-at", "4"], "belong together"),
        (["--change", "order=3"], "belong together"),
        (["--change-at", "4", "--change", "order"], "NAME=FACTOR"),
        (["--change-at", "4", "--change", "orders=3"], "no constant orders"),
        (["--change-at", "9", "--change", "order=3"], "within it"),
    ],
)
def test_a_change_that_cannot_be_is_refused(tmp_path: Path, arguments: list[str], what: str) -> None:
    result = simulated(tmp_path / "a.gz", *arguments)
    assert result.exit_code != 0
    assert what in result.output
