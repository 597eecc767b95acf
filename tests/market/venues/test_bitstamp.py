import bz2
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE
from lobsmith.market.instrument import Instrument
from lobsmith.market.readers import open_captures, read_captures
from lobsmith.market.session import Accounting, Session
from lobsmith.market.venues.bitstamp import INSTRUMENT, PATIENCE

T0 = 1_430_438_404_000
LATE_CREATED = [12096, 25076, 31066, 35188, 52961, 63714, 116433, 124883, 167485, 171228, 198402, 217696, 221057]
"""Lines of the recorded log whose order was deleted on an earlier line."""
LATE_CHANGED = [34759, 54374, 74227, 157429]


def order(at: int, event: str, number: int, side: int, price: str, amount: str) -> str:
    body = {"price": price, "amount": amount, "datetime": "1430438404", "id": number, "order_type": side}
    return f"{T0 + at} order_{event} {json.dumps(body)}"


def book(at: int, bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> str:
    return f"{T0 + at} order_book {json.dumps({'bids': bids, 'asks': asks})}"


def trade(at: int, number: int, price: float, amount: float) -> str:
    return f"{T0 + at} trade {json.dumps({'price': price, 'amount': amount, 'id': number})}"


OPENING = [
    order(0, "created", 1, 0, "100.00", "2.00000000"),
    order(1, "created", 2, 1, "100.10", "1.50000000"),
    book(2, [("100.00", "2.00000000")], [("100.10", "1.50000000")]),
]


def read(path: Path, *lines: str) -> Session:
    path.write_text("\n".join(lines) + "\n")
    return read_captures([path])


def rows(session: Session, *kinds: int) -> list[tuple[int, int, int, float]]:
    e = session.events
    selected = np.isin(e.kind, kinds or (CLEAR, LEVEL, TRADE, GAP))
    return [
        (int(k), int(s), int(p), float(z))
        for k, s, p, z in zip(e.kind[selected], e.side[selected], e.price[selected], e.size[selected], strict=True)
    ]


BEGUN = [(CLEAR, 0, 0, 0.0), (LEVEL, 1, 10000, 2.0), (LEVEL, -1, 10010, 1.5)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([order(3, "created", 3, 0, "100.00", "0.50000000")], [(LEVEL, 1, 10000, 2.5)]),
        ([order(3, "changed", 1, 0, "100.00", "0.25000000")], [(LEVEL, 1, 10000, 0.25)]),
        ([order(3, "changed", 1, 0, "99.00", "2.00000000")], [(LEVEL, 1, 9900, 2.0), (LEVEL, 1, 10000, 0.0)]),
        ([order(3, "deleted", 2, 1, "100.10", "0.00000000")], [(LEVEL, -1, 10010, 0.0)]),
        ([order(3, "changed", 9, 0, "99.50", "1.00000000")], [(LEVEL, 1, 9950, 1.0)]),  # known from now on
        ([order(3, "deleted", 9, 0, "99.50", "1.00000000")], []),  # never known
    ],
)
def test_orders_become_levels(tmp_path: Path, lines: list[str], expected: list[tuple[int, int, int, float]]) -> None:
    assert rows(read(tmp_path / "log", *OPENING, *lines)) == BEGUN + expected


@pytest.mark.parametrize("event", ["created", "changed"])
def test_an_event_after_its_own_deletion_is_quarantined(tmp_path: Path, event: str) -> None:
    lines = [order(3, "deleted", 7, 0, "120.00", "1.0"), order(4, event, 7, 0, "120.00", "1.0")]
    session = read(tmp_path / "log", *OPENING, *lines)
    assert rows(session) == BEGUN
    assert session.accounting.quarantined["out of order"] == session.accounting.faults["out of order"] == 1


def test_the_book_begins_where_it_agrees_with_the_venue(tmp_path: Path) -> None:
    lines = [OPENING[0], book(1, [("99.00", "1")], [("100.10", "1")]), *OPENING[1:]]
    session = read(tmp_path / "log", *lines)
    assert rows(session) == BEGUN
    assert session.accounting.quarantined == {"before the snapshot": 2, "snapshot used as a check": 2}


def test_a_book_that_keeps_disagreeing_ends_its_segment(tmp_path: Path) -> None:
    wrong = [book(10 + n, [("99.99", "1")], [("100.10", "1")]) for n in range(PATIENCE)]
    right = [book(50, [("100.00", "2")], [("100.10", "1.5")])]
    session = read(tmp_path / "log", *OPENING, *wrong, order(40, "created", 8, 0, "98.00", "1.0"), *right)
    expected = [*BEGUN, (GAP, 0, 0, 0.0), (CLEAR, 0, 0, 0.0), (LEVEL, 1, 9800, 1.0), *BEGUN[1:]]
    assert rows(session) == expected
    assert session.accounting.faults == {"disagrees with the venue": 1}


@pytest.mark.parametrize(("maker", "taker", "side"), [(0, 1, -1), (1, 0, 1)])
def test_the_younger_order_is_the_aggressor(tmp_path: Path, maker: int, taker: int, side: int) -> None:
    price = "100.00" if maker == 0 else "100.10"
    rest = 1 if maker == 0 else 2
    left = "1.75000000" if maker == 0 else "1.25000000"
    lines = [
        order(10, "created", 5, taker, price, "0.25000000"),
        order(11, "deleted", 5, taker, price, "0.00000000"),
        order(12, "changed", rest, maker, price, left),
        trade(13, 77, float(price), 0.25),
        trade(14, 78, float(price), 0.125),  # of no known order
    ]
    session = read(tmp_path / "log", *OPENING, *lines)
    assert [(s, z) for _, s, _, z in rows(session, TRADE)] == [(side, 0.25), (0, 0.125)]


def test_the_screen_writes_a_ticker_for_each_change_of_the_touch(tmp_path: Path) -> None:
    deeper, better = order(3, "created", 3, 0, "99.00", "1.0"), order(4, "created", 4, 0, "100.05", "1.0")
    session = read(tmp_path / "log", *OPENING, deeper, better)
    assert rows(session, TICKER) == [
        (TICKER, 1, 10000, 2.0),
        (TICKER, -1, 10010, 1.5),
        (TICKER, 1, 10005, 1.0),
        (TICKER, -1, 10010, 1.5),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        "123 order_created {}",
        f"{T0} order_created {{}}",
        f"{T0} order_moved {{}}",
        order(9, "created", 3, 2, "1.00", "1.0"),
        order(9, "created", 3, 0, "-1.00", "1.0"),
        order(9, "created", 3, 0, "1.001", "1.0"),
        order(9, "created", 3, 0, "nan", "1.0"),
        order(9, "created", -3, 0, "1.00", "1.0"),
        trade(9, 1, 1e30, 1.0),
        f"{T0} order_book {{}}",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CaptureError, match=r"log:4: "):
        read(tmp_path / "log", *OPENING, line)


def test_a_log_that_never_agrees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="never agreed"):
        read(tmp_path / "log", *OPENING[:2])


def test_the_orders_file(tmp_path: Path) -> None:
    header = "id,timestamp,exchange.timestamp,price,volume,action,direction"
    lines = [
        f"1,{T0},{T0},100,200000000,created,bid",
        f"2,{T0 + 1},{T0},100.1,150000000,created,ask",
        f"2,{T0 + 2},{T0},100.1,0,deleted,ask",
        f"2,{T0 + 3},{T0},100.1,150000000,created,ask",
    ]
    session = read(tmp_path / "orders.csv", header, *lines)
    assert rows(session) == [(CLEAR, 0, 0, 0.0), *BEGUN[1:], (LEVEL, -1, 10010, 0.0)]
    assert session.accounting.records == 4
    assert session.accounting.quarantined == {"out of order": 1}
    with pytest.raises(CaptureError, match=r"orders\.csv:3: "):
        read(tmp_path / "orders.csv", header, lines[0], lines[1].replace("ask", "left"))


@given(st.binary(max_size=300), st.sampled_from(["log", "orders"]))
def test_any_bytes_end_in_events_or_an_error(tmp_path_factory: pytest.TempPathFactory, tail: bytes, which: str) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    head = OPENING if which == "log" else ["id,timestamp,exchange.timestamp,price,volume,action,direction"]
    path.write_bytes("\n".join(head).encode() + b"\n" + tail)
    try:
        read_captures([path])
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.bz2"
    path.write_bytes(bz2.compress("\n".join(OPENING * 400).encode())[:-20])
    with pytest.raises(CaptureError, match="truncated bzip2"):
        read_captures([path])


class Day(NamedTuple):
    """The recorded log, read once."""

    instrument: Instrument
    account: Accounting
    checks: dict[str, float]
    quarantine: Path
    aggressors: np.ndarray
    """Sides of the trades."""


@pytest.fixture(scope="module")
def day(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Day:
    quarantine = tmp_path_factory.mktemp("day") / "q.csv"
    with quarantine.open("w") as listing:
        feed = open_captures([recorded / "bitstamp" / "btcusd-20150501-events.log.bz2"], None, listing)
        aggressors = np.concatenate([events.side[events.kind == TRADE] for events in feed])
        account = feed.accounting()
    return Day(feed.instrument, account, feed.checks(), quarantine, aggressors)


@pytest.mark.recorded
def test_the_recorded_day_agrees_with_the_venues_snapshots(day: Day, recorded: Path) -> None:
    path = recorded / "bitstamp" / "btcusd-20150501-events.log.bz2"
    account, checks = day.account, day.checks
    assert day.instrument == INSTRUMENT
    assert checks["snapshots"] == 29_991  # all but the first, when one side is still unknown
    assert checks["bid"] > 0.99
    assert checks["ask"] > 0.99
    assert checks["both"] > 0.99
    assert (account.records, account.depth_messages, account.trades, account.snapshots) == (
        276_767,
        242_524,
        4_251,
        29_992,
    )
    assert account.records == account.kept + sum(account.quarantined.values())
    assert "disagrees with the venue" not in account.faults
    quarantined = pl.read_csv(day.quarantine)
    late = set(quarantined.filter(pl.col("reason") == "out of order")["line"])
    assert set(LATE_CREATED + LATE_CHANGED) <= late
    lines = bz2.decompress(path.read_bytes()).splitlines()
    kinds = [lines[number - 1].split(b" ")[1] for number in late]
    assert kinds.count(b"order_created") == 13
    assert kinds.count(b"order_changed") == 4
    assert set(kinds) == {b"order_created", b"order_changed", b"trade"}


@pytest.mark.recorded
def test_both_recorded_files_hold_the_same_orders(day: Day, recorded: Path) -> None:
    orders = read_captures([recorded / "bitstamp" / "btcusd-20150501-orders.csv.bz2"])
    assert orders.accounting.depth_messages == day.account.depth_messages
    assert orders.accounting.quarantined == {"out of order": len(LATE_CREATED + LATE_CHANGED)}
    assert (day.aggressors != 0).mean() > 0.9
