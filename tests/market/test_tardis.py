"""Golden cases written from the format's documentation; no sample of the venue's was at hand."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE
from lobsmith.market.formats import group_by_instrument
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session

T0 = 1_585_699_200_000_000  # µs
L2 = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
CELLS = ",".join(f"{s}[{k}].{w}" for k in range(25) for s in ("asks", "bids") for w in ("price", "amount"))
BOOKS = f"exchange,symbol,timestamp,local_timestamp,{CELLS}"


def level(at: int, snapshot: bool, side: str, price: str, amount: str, symbol: str = "BTC-PERPETUAL") -> str:
    return f"deribit,{symbol},{T0 + at * 1000},{T0 + at * 1000 + 500},{str(snapshot).lower()},{side},{price},{amount}"


def trade(at: int, number: str, side: str, price: str, amount: str) -> str:
    return f"deribit,BTC-PERPETUAL,{T0 + at * 1000},{T0 + at * 1000 + 500},{number},{side},{price},{amount}"


def book(at: int, asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> str:
    empty = ("", "")
    cells = [c for k in range(25) for side in (asks, bids) for c in (side[k] if k < len(side) else empty)]
    return f"deribit,BTC-PERPETUAL,{T0 + at * 1000},{T0 + at * 1000 + 500},{','.join(cells)}"


OPENING = [
    level(0, False, "bid", "6424.0", "5"),  # before the first snapshot
    level(1, True, "bid", "6424.5", "10"),
    level(1, True, "bid", "6424.0", "20"),
    level(1, True, "ask", "6425.0", "30"),
]
BEGUN = [(CLEAR, 0, 0, 0.0), (LEVEL, 1, 12849, 10.0), (LEVEL, 1, 12848, 20.0), (LEVEL, -1, 12850, 30.0)]


def write(path: Path, header: str, *lines: str) -> Path:
    content = "\n".join([header, *lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rows(session: Session, *kinds: int) -> list[tuple[int, int, int, float]]:
    e = session.events
    wanted = np.isin(e.kind, kinds or (CLEAR, LEVEL, TRADE, GAP))
    columns = (column[wanted].tolist() for column in (e.kind, e.side, e.price, e.size))
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([level(2, False, "bid", "6424.5", "0")], [(LEVEL, 1, 12849, 0.0)]),
        (
            [level(2, False, "ask", "6425.0", "7"), level(2, False, "ask", "6425.5", "8")],
            [(LEVEL, -1, 12850, 7.0), (LEVEL, -1, 12851, 8.0)],
        ),
        # A snapshot later on: the connection was lost, and what was known is void.
        (
            [
                level(8, False, "bid", "6424.0", "9"),
                level(9, True, "bid", "6420.0", "1"),
                level(9, True, "ask", "6421.0", "2"),
            ],
            [
                (LEVEL, 1, 12848, 9.0),
                (GAP, 0, 0, 0.0),
                (CLEAR, 0, 0, 0.0),
                (LEVEL, 1, 12840, 1.0),
                (LEVEL, -1, 12842, 2.0),
            ],
        ),
    ],
)
def test_incremental_book(tmp_path: Path, name: str, lines: list[str], expected: list[object]) -> None:
    session = read_captures([write(tmp_path / name, L2, *OPENING, *lines)])
    assert str(session.instrument) == "tardis-deribit:BTC-PERPETUAL"
    assert session.instrument.tick_size == 0.5
    assert rows(session) == BEGUN + expected
    account = session.accounting
    assert account.set_aside == {"before the snapshot": 1}
    assert account.records == len(OPENING) + len(lines)
    assert account.faults == ({"reconnect": 1} if (GAP, 0, 0, 0.0) in expected else {})
    assert session.events.local_time[0] == (T0 + 1500) * 1000
    assert session.events.exchange_time[0] == (T0 + 1000) * 1000


def test_lines_of_one_message_are_one_message(tmp_path: Path) -> None:
    lines = [level(2, False, "bid", "6424.5", "0"), level(2, False, "bid", "6423.5", "1")]
    session = read_captures([write(tmp_path / "x", L2, *OPENING, *lines)])
    assert session.accounting.depth_messages == 2  # one of them before the snapshot
    # The touch changed once with it.
    assert rows(session, TICKER)[2:] == [(TICKER, 1, 12848, 20.0), (TICKER, -1, 12850, 30.0)]


def test_trades_are_merged_by_local_time(tmp_path: Path) -> None:
    l2 = write(
        tmp_path / "l2", L2, *OPENING, level(4, False, "bid", "6424.5", "1"), level(8, False, "bid", "6424", "2")
    )
    trades = write(
        tmp_path / "trades",
        TRADES,
        trade(3, "a7", "buy", "6425", "5"),
        trade(5, "", "unknown", "6424.5", "6"),
        trade(6, "a9", "sell", "0", "6"),
    )
    session = read_captures([trades, l2])
    assert rows(session)[4:] == [
        (TRADE, 1, 12850, 5.0),
        (LEVEL, 1, 12849, 1.0),
        (TRADE, 0, 12849, 6.0),
        (LEVEL, 1, 12848, 2.0),
    ]
    assert session.accounting.set_aside == {"before the snapshot": 1, "trade of price or size 0": 1}


def test_days_in_order_are_one_stream(tmp_path: Path) -> None:
    one = write(tmp_path / "1", L2, *OPENING)
    again = [level(500, True, "bid", "6424.5", "10"), level(500, True, "ask", "6425.0", "30")]
    two = write(tmp_path / "2", L2, *again)
    assert rows(read_captures([one, two]))[4:] == [
        (CLEAR, 0, 0, 0.0),
        (LEVEL, 1, 12849, 10.0),
        (LEVEL, -1, 12850, 30.0),
    ]
    groups, failed = group_by_instrument([one, two])
    assert (list(groups), failed) == (["tardis-deribit:BTC-PERPETUAL"], {})


def test_book_snapshots_become_differences(tmp_path: Path) -> None:
    lines = [
        book(0, [("6425.0", "1"), ("6425.5", "2")], [("6424.5", "3")]),
        book(1, [("6425.0", "1"), ("6425.5", "5")], [("6424.5", "3")]),
        book(2, [("6425.5", "5")], [("6424.5", "3"), ("6424", "4")]),
    ]
    session = read_captures([write(tmp_path / "x", BOOKS, *lines)])
    assert rows(session) == [
        (CLEAR, 0, 0, 0.0),
        (LEVEL, 1, 12849, 3.0),
        (LEVEL, -1, 12850, 1.0),
        (LEVEL, -1, 12851, 2.0),
        (LEVEL, -1, 12851, 5.0),
        (LEVEL, 1, 12848, 4.0),
        (LEVEL, -1, 12850, 0.0),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (level(5, False, "bid", "abc", "1"), "price: 'abc' is no number"),
        (level(5, False, "bid", "-1", "1"), "price"),
        (level(5, False, "buy", "6424", "1"), "side: 'buy'"),
        (level(5, False, "bid", "6424", "nan"), "amount"),
        (level(5, False, "bid", "6424", "1", symbol="ETH"), "one instrument"),
        (level(0, False, "bid", "6424", "1"), "earlier than"),
        ("deribit,BTC-PERPETUAL,1,2,false,bid,1", "7 cells, not 8"),
        ("deribit,BTC-PERPETUAL,x,2,false,bid,1,1", "timestamp"),
        ("", "cells"),
        (level(5, True, "bid", "6424", "1").replace("true", "maybe"), "is_snapshot: 'maybe'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = write(tmp_path / "x", L2, *OPENING, level(4, False, "bid", "6424", "1"), line)
    with pytest.raises(CaptureError, match=words) as raised:
        read_captures([path])
    assert f"{path}:7: " in str(raised.value)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    l2, books = write(tmp_path / "l2", L2, *OPENING), write(tmp_path / "b", BOOKS, book(0, [("2", "1")], [("1", "1")]))
    trades = write(tmp_path / "t", TRADES, trade(3, "1", "buy", "6425", "5"))
    for paths, words in (([l2, books], "same book"), ([trades], "no book"), ([l2, tmp_path / "no"], "no such file")):
        with pytest.raises(CaptureError, match=words):
            read_captures(paths)
    with pytest.raises(CaptureError, match="never begins"):
        read_captures([write(tmp_path / "u", L2, OPENING[0])])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([L2, TRADES, BOOKS]))
def test_any_bytes_end_in_events_or_an_error(tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: str) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(head.encode() + b"\n" + ("\n".join(OPENING).encode() + b"\n" if head == L2 else b"") + tail)
    try:
        read_captures([path])
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
