"""The recorded sessions: every message accounted for, in agreement with the table of the data's own README."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import CaptureError
from lobsmith.market.book import new_book, replay
from lobsmith.market.events import LEVEL, TICKER, TRADE
from lobsmith.market.readers import read_captures

pytestmark = pytest.mark.recorded

SESSIONS = [
    (("usdm-btcusdt-20240808",), "binance-usdm:BTCUSDT", 0.1, 345, 6_551, 21_313, -1.27),
    (("usdm-ethusdt-20240808",), "binance-usdm:ETHUSDT", 0.01, 345, 6_586, 14_076, -1.27),
    (("usdm-btcusdt-20240718", "usdm-btcusdt-20240719"), "binance-usdm:BTCUSDT", 0.1, 480, 9_022, 10_701, -1.52),
    (("spot-btcusdt-20240808", "spot-btcusdt-20240809"), "binance-spot:BTCUSDT", 0.01, 651, 6_495, 19_904, -1.27),
]


@pytest.mark.parametrize(("names", "instrument", "tick", "seconds", "depth", "trades", "offset"), SESSIONS)
def test_every_message_is_accounted_for(
    recorded: Path, names, instrument: str, tick: float, seconds: int, depth: int, trades: int, offset: float
) -> None:
    session = read_captures([recorded / "binance" / f"{name}.gz" for name in names])
    account, events = session.accounting, session.events
    assert str(session.instrument) == instrument
    assert session.instrument.tick_size == tick
    assert (account.depth_messages, account.trades) == (depth, trades)
    assert (account.sequence_breaks, account.crossed, account.segments, account.snapshots) == (0, 0, 1, 1)
    assert account.records == account.kept + sum(account.quarantined.values())
    assert account.records == depth + trades + account.tickers + account.snapshots
    assert sum(account.quarantined.values()) < 100
    assert (account.faults, account.missing_trades) == ({}, 0)
    assert (np.diff(events.local_time) >= 0).all()
    assert account.seconds == pytest.approx(seconds, abs=1)
    assert account.clock_offset_ns / 1e9 == pytest.approx(offset, abs=0.01)
    assert 300_000 <= account.level_updates <= 450_000
    assert account.level_updates == np.count_nonzero(events.kind == LEVEL)
    assert np.count_nonzero(events.kind == TRADE) == trades
    columns = (events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    rows, _ = replay(new_book(), *columns)
    assert 0.95 * account.tickers < rows <= np.count_nonzero(events.kind == TICKER) // 2


def test_files_in_the_wrong_order_are_refused(recorded: Path) -> None:
    files = [recorded / "binance" / f"usdm-btcusdt-202407{day}.gz" for day in (19, 18)]
    with pytest.raises(CaptureError, match="order"):
        read_captures(files)


def test_the_second_file_alone_lacks_its_snapshot(recorded: Path) -> None:
    with pytest.raises(CaptureError, match="give its files together"):
        read_captures([recorded / "binance" / "usdm-btcusdt-20240719.gz"])
