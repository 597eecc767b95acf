"""The recorded sessions, against the counts that their recorder published."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.market.events import TICKER, TRADE
from lobsmith.market.readers import read_captures

pytestmark = pytest.mark.recorded

# files, venue, symbol, tick, lot, seconds, depth messages, trades
SESSIONS = [
    (["usdm-btcusdt-20240808.gz"], "binance-usdm", "BTCUSDT", 0.1, 0.001, 345, 6_551, 21_313),
    (["usdm-ethusdt-20240808.gz"], "binance-usdm", "ETHUSDT", 0.01, 0.001, 345, 6_586, 14_076),
    (
        ["usdm-btcusdt-20240718.gz", "usdm-btcusdt-20240719.gz"],
        *("binance-usdm", "BTCUSDT", 0.1, 0.001, 480, 9_022, 10_701),
    ),
    (
        ["spot-btcusdt-20240808.gz", "spot-btcusdt-20240809.gz"],
        *("binance-spot", "BTCUSDT", 0.01, 0.00001, 651, 6_495, 19_904),
    ),
]


@pytest.mark.parametrize(
    ("files", "venue", "symbol", "tick", "lot", "seconds", "depth", "trades"),
    SESSIONS,
    ids=lambda value: str(value)[:30],
)
def test_counts(
    recorded: Path,
    files: list[str],
    venue: str,
    symbol: str,
    tick: float,
    lot: float,
    seconds: int,
    depth: int,
    trades: int,
) -> None:
    session = read_captures([recorded / "binance" / name for name in files])
    account = session.accounting
    instrument = session.instrument
    assert (instrument.venue, instrument.symbol, instrument.tick_size, instrument.lot_size) == (
        venue,
        symbol,
        tick,
        lot,
    )
    assert (account.depth_messages, account.trades) == (depth, trades)
    assert (account.sequence_breaks, account.crossed, account.segments) == (0, 0, 1)
    assert account.messages == account.kept + sum(account.set_aside.values())
    assert account.messages == account.depth_messages + account.trades + account.tickers + account.snapshots
    assert account.seconds == pytest.approx(seconds, abs=2)
    assert account.clock_offset_ns == pytest.approx(-1.27e9 if "202408" in files[0] else -1.52e9, abs=2e7)
    events = session.events
    assert int((events.kind == TRADE).sum()) == trades
    assert (np.diff(events.local_time) >= 0).all()
    assert (events.size >= 0).all()
    tickers = events.kind == TICKER
    assert int(tickers.sum()) % 2 == 0
    if venue == "binance-spot":
        assert not events.exchange_time[tickers].any()


def test_the_second_half_alone_has_no_snapshot(recorded: Path) -> None:
    from lobsmith.errors import CaptureError

    with pytest.raises(CaptureError, match="snapshot"):
        read_captures([recorded / "binance" / "usdm-btcusdt-20240719.gz"])


def test_files_in_the_wrong_order_are_refused(recorded: Path) -> None:
    from lobsmith.errors import CaptureError

    files = [recorded / "binance" / f"usdm-btcusdt-202407{day}.gz" for day in (19, 18)]
    with pytest.raises(CaptureError, match="order"):
        read_captures(files)
