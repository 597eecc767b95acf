from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from lobsmith.errors import DataContractError
from lobsmith.gates.liquidity import Liquidity, daily_volume_btc, liquidity_verdicts, measure
from lobsmith.market.instrument import Instrument
from lobsmith.market.readers import read_captures
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.validate import CONTRACT, EVENTS_DOCS, Validated, load_validated, validate
from tests.market.venues.captured import futures_depth, futures_ticker, levels, snapshot, trade, write
from tests.small import small_params

LIMITS = small_params().contract.liquidity


def liquidity_of(venue: str = "binance-usdm", symbol: str = "BTCUSDT", **more: float) -> Liquidity:
    instrument = Instrument(venue=venue, symbol=symbol, tick_size=0.1, lot_size=0.001)
    values = {"seconds": 8640.0, "volume": 50.0, "mid": 60_000.0, "spread": 1e-5}
    return Liquidity(instrument=instrument, **(values | more))


def lines(symbol: str = "BTCUSDT", bid: str = "60000.0", ask: str = "60006.0") -> list[bytes]:
    more = {"symbol": symbol}
    return [
        snapshot(0, 50, levels((bid, "1")), levels((ask, "2"))),
        futures_depth(1, 49, 50, 51, **more),
        futures_ticker(1000, 52, (bid, "1"), (ask, "2"), **more),
        trade(2000, 1, ask, "0.5", False, **more),
        futures_ticker(11_000 - 2000, 53, (bid, "3"), (ask, "2"), **more),
    ]


def test_measures_time_weighted(tmp_path: Path) -> None:
    session = read_captures([write(tmp_path / "a", *lines())])
    measured = measure(session.instrument, [session.events])
    assert measured.seconds == pytest.approx(8.0)
    assert measured.volume == 0.5
    assert measured.mid == pytest.approx(60_003.0)
    assert measured.spread == pytest.approx(6 / 60_003)
    bounds = session.events.message_bounds()
    parts = [session.events.slice(a, b) for a, b in pairwise(bounds)]
    again = measure(session.instrument, parts)
    assert (again.seconds, again.mid, again.spread) == pytest.approx((measured.seconds, measured.mid, measured.spread))


@pytest.mark.parametrize(
    ("liquidity", "btc_price", "volume"),
    [
        (liquidity_of(), 0.0, 500.0),
        (liquidity_of(symbol="ETHUSDT", mid=3000.0), 60_000.0, 25.0),
        (liquidity_of(symbol="ETHUSDT", mid=3000.0), 0.0, None),
        (liquidity_of("binance-coinm", "BTCUSD_PERP", volume=60_000.0), 0.0, 1000.0),
        (liquidity_of("binance-coinm", "ETHUSD_PERP", volume=60_000.0, mid=3000.0), 60_000.0, 100.0),
        (liquidity_of("simulator", "SIM"), 0.0, 500.0),
        (liquidity_of(seconds=0.0), 0.0, 0.0),
    ],
)
def test_daily_volume_in_bitcoin(liquidity: Liquidity, btc_price: float, volume: float | None) -> None:
    assert daily_volume_btc(liquidity, btc_price) == (None if volume is None else pytest.approx(volume))


@pytest.mark.parametrize(
    ("liquidity", "volume", "spread"),
    [
        (liquidity_of(), True, True),
        (liquidity_of(volume=9.99), False, True),
        (liquidity_of(volume=10.0), True, True),
        (liquidity_of(spread=0.001), True, False),
        (liquidity_of(seconds=0.0), False, False),
    ],
)
def test_thresholds(liquidity: Liquidity, volume: bool, spread: bool) -> None:
    verdicts = liquidity_verdicts([liquidity], LIMITS)["binance-usdm:BTCUSDT"]
    assert [verdict.passed for verdict in verdicts] == [volume, spread]


def test_another_base_takes_the_price_of_bitcoin_from_the_same_run_or_fails_with_the_reason() -> None:
    other = liquidity_of(symbol="ETHUSDT", mid=3000.0, volume=5000.0)
    alone, together = (
        liquidity_verdicts(run, LIMITS)[str(other.instrument)][0] for run in ([other], [other, liquidity_of()])
    )
    assert not alone.passed
    assert "btc_price" in alone.evidence["problem"]
    assert together.passed
    limits = msgspec.structs.replace(LIMITS, btc_price=60_000.0)
    assert liquidity_verdicts([other], limits)[str(other.instrument)][0].passed


def test_a_symbol_that_is_not_liquid_is_left_out(tmp_path: Path) -> None:
    params = small_params(**{"contract.minimum_seconds": 1, "contract.maximum_set_aside": 1.0})
    wide = lines("XRPUSDT", "60000.0", "61000.0")
    files = [write(tmp_path / "btc", *lines()), write(tmp_path / "xrp", *wide)]
    ingest(params.data, files, tmp_path / MARKET)
    validated = validate(params, tmp_path / MARKET, tmp_path)
    assert validated.tradable == ("binance-usdm:BTCUSDT",)
    assert "spread" in validated.left_out["binance-usdm:XRPUSDT"]
    written = msgspec.json.decode((tmp_path / CONTRACT).read_bytes(), type=Validated)
    assert load_validated(tmp_path) == validated == written
    assert (tmp_path / EVENTS_DOCS / "index.html").exists()


def test_without_a_price_of_bitcoin_the_volume_is_refused_or_not_judged(tmp_path: Path) -> None:
    params = small_params(**{"contract.minimum_seconds": 1, "contract.maximum_set_aside": 1.0})
    ingest(params.data, [write(tmp_path / "eth", *lines("ETHUSDT"))], tmp_path / MARKET)
    name = "binance-usdm:ETHUSDT"
    with pytest.raises(DataContractError, match=r"daily volume refused.*btc_price"):
        validate(params, tmp_path / MARKET, tmp_path)
    allowed = validate(params, tmp_path / MARKET, tmp_path, allow_unpriced=True)
    assert (allowed.tradable, allowed.unpriced) == ((name,), (name,))
    assert "daily volume" not in {verdict.gate for verdict in allowed.verdicts[name]}
    assert load_validated(tmp_path) == allowed
    limits = msgspec.structs.replace(LIMITS, btc_price=60_000.0, minimum_daily_volume_btc=1e9)
    contract = msgspec.structs.replace(params.contract, liquidity=limits)
    with pytest.raises(DataContractError, match="daily volume refused"):
        validate(msgspec.structs.replace(params, contract=contract), tmp_path / MARKET, tmp_path, allow_unpriced=True)


def test_when_nothing_is_tradable_the_flow_stops_with_the_reason(tmp_path: Path) -> None:
    params = small_params(**{"contract.minimum_seconds": 1, "contract.liquidity.minimum_daily_volume_btc": 1e9})
    ingest(params.data, None, tmp_path / MARKET)
    with pytest.raises(DataContractError, match="daily volume refused"):
        validate(params, tmp_path / MARKET, tmp_path)
    assert (tmp_path / CONTRACT).exists()


@pytest.mark.recorded
def test_the_recorded_symbols_are_tradable(tmp_path: Path, recorded: Path) -> None:
    params = small_params()
    files = [recorded / "binance" / f"usdm-{symbol}-20240808.gz" for symbol in ("btcusdt", "ethusdt")]
    ingest(params.data, files, tmp_path / MARKET)
    validated = validate(params, tmp_path / MARKET, tmp_path)
    assert validated.tradable == ("binance-usdm:BTCUSDT", "binance-usdm:ETHUSDT")
