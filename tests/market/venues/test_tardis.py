"""Golden cases written from the format's documentation; no sample of the venue's was at hand."""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session
from lobsmith.market.venues import tardis
from lobsmith.market.venues.formats import group_by_instrument
from tests.market.venues import replayed

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
    selected = np.isin(e.kind, kinds or (CLEAR, LEVEL, TRADE, GAP))
    columns = (column[selected].tolist() for column in (e.kind, e.side, e.price, e.size))
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
    assert account.quarantined == {"before the snapshot": 1}
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
    assert session.accounting.quarantined == {"before the snapshot": 1, "trade of price or size 0": 1}


def test_days_in_order_are_one_stream(tmp_path: Path) -> None:
    first = write(tmp_path / "1", L2, *OPENING)
    again = [level(500, True, "bid", "6424.5", "10"), level(500, True, "ask", "6425.0", "30")]
    second = write(tmp_path / "2", L2, *again)
    assert rows(read_captures([first, second]))[4:] == [
        (CLEAR, 0, 0, 0.0),
        (LEVEL, 1, 12849, 10.0),
        (LEVEL, -1, 12850, 30.0),
    ]
    groups, failed = group_by_instrument([first, second])
    assert (list(groups), failed) == (["tardis-deribit:BTC-PERPETUAL"], {})


def test_a_day_that_opens_without_a_snapshot_does_not_go_on(tmp_path: Path) -> None:
    first = write(tmp_path / "1", L2, *OPENING)
    lost = [level(300, False, "bid", "6424.5", "7"), level(301, False, "ask", "6425.0", "8")]
    again = [level(302, True, "bid", "6420.0", "1"), level(302, True, "ask", "6421.0", "2")]
    ledger = Ledger()
    events, lines = replayed.read([first, write(tmp_path / "2", L2, *lost, *again)], ledger)
    assert list(zip(events.kind[4:].tolist(), lines[4:], strict=True)) == [(GAP, 2), (CLEAR, 4), (LEVEL, 4), (LEVEL, 5)]
    assert (ledger.quarantined, ledger.faults) == ({"before the snapshot": 3}, {"reconnect": 1})


@pytest.mark.parametrize(("pause_ms", "gaps"), [(500, 0), (5_000, 1)])
def test_a_day_goes_on_if_it_follows_at_once(tmp_path: Path, pause_ms: int, gaps: int) -> None:
    first = write(tmp_path / "1", L2, *OPENING)
    second = write(
        tmp_path / "2",
        L2,
        level(pause_ms, True, "bid", "6424.5", "10"),
        level(pause_ms, True, "ask", "6425.0", "30"),
    )
    events, _ = replayed.read([first, second])
    assert np.count_nonzero(events.kind == GAP) == gaps
    assert np.count_nonzero(events.kind == CLEAR) == 2


def test_a_quick_reconnection_within_a_later_day_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tardis, "_CHUNK", 1 << 7)
    first = write(tmp_path / "1", L2, *OPENING)
    again = [level(at, True, side, price, "1") for at in (10,) for side, price in (("bid", "6424"), ("ask", "6425"))]
    updates = [level(20 + i, False, "bid", "6424", str(i + 2)) for i in range(8)]
    lost = [level(40, True, "bid", "6420.0", "1"), level(40, True, "ask", "6421.0", "2")]
    events, lines = replayed.read([first, write(tmp_path / "2", L2, *again, *updates, *lost)])
    assert [line for kind, line in zip(events.kind, lines, strict=True) if kind == GAP] == [12]


def test_a_clock_that_went_back_keeps_the_order_of_lines(tmp_path: Path) -> None:
    back = [level(900, False, "bid", "6424", "1"), level(400, False, "bid", "6424", "2")]
    l2 = write(tmp_path / "l2", L2, *OPENING, *back)
    trades = write(
        tmp_path / "trades", TRADES, trade(600, "1", "buy", "6425", "5"), trade(950, "2", "buy", "6425", "5")
    )
    events, _ = replayed.read([l2, trades])
    assert events.size[4:].tolist() == [5.0, 1.0, 2.0, 5.0]
    assert events.local_time[4:].tolist() == [(T0 + at * 1000 + 500) * 1000 for at in (600, 900, 400, 950)]
    assert read_captures([l2, trades]).accounting.faults == {"clock step": 1}


def test_days_out_of_order_or_twice_are_refused(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "1", L2, *OPENING),
        write(tmp_path / "2", L2, level(500, True, "bid", "6424.5", "10")),
    )
    for paths in ([second, first], [first, first]):
        with pytest.raises(CaptureError, match=r"/1:2: .*each day once, in order"):
            replayed.read(paths)


def test_a_message_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tardis, "_LONGEST_MESSAGE", 100)
    with pytest.raises(CaptureError, match=r":2: more than 100 lines of one local_timestamp"):
        replayed.read([write(tmp_path / "x", L2, *[level(1, True, "bid", "6424.5", "10")] * 101)])


@pytest.mark.parametrize(
    ("prices", "tick", "ticks"),
    [
        (["6424.50", "6425.00", "6426"], 0.5, [12849, 12850, 12852]),
        (["7.12e-6", "0.00000713", "7.2E-06"], 1e-8, [712, 713, 720]),
        (["60000.123456", "60000.123457"], 1e-6, [60000123456, 60000123457]),
        (["1200000", "1250000"], 50000.0, [24, 25]),
    ],
)
def test_the_tick_is_the_common_divisor(tmp_path: Path, prices: list[str], tick: float, ticks: list[int]) -> None:
    path = write(tmp_path / "x", L2, *(level(1, True, "ask", price, "1e-7") for price in prices))
    session = read_captures([path])
    assert session.instrument.tick_size == tick
    assert rows(session) == [(CLEAR, 0, 0, 0.0), *((LEVEL, -1, price, 1e-7) for price in ticks)]


def test_the_beginnings_of_all_files_tell_the_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tardis, "_CHUNK", 1 << 8)
    l2 = write(tmp_path / "l2", L2, *(level(1, True, "bid", "6424", "1") for _ in range(9)))
    trades = write(tmp_path / "t", TRADES, *(trade(9, "", "buy", "6424.5", "1") for _ in range(9)))
    finer = write(
        tmp_path / "f", TRADES, *(trade(9, "", "buy", "6424", "1") for _ in range(9)), trade(10, "", "buy", "0.1", "1")
    )
    assert read_captures([l2, trades]).instrument.tick_size == 0.5
    with pytest.raises(CaptureError, match=r"f:11: price: 0.1 is no multiple of 6424.0"):
        replayed.read([l2, finer])


def test_lines_may_end_the_way_windows_does(tmp_path: Path) -> None:
    path = write(tmp_path / "x", L2, *OPENING)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert rows(read_captures([path])) == BEGUN


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
    ("asks", "bids"),
    [
        ([("6425", "1"), ("6424.5", "1")], [("6424", "1")]),
        ([("6425", "1"), ("6425", "2")], [("6424", "1")]),
        ([("6425", "1")], [("6424", "1"), ("6424.5", "1")]),
        ([("", "1")], [("6424", "1")]),
    ],
)
def test_a_book_out_of_order_is_named(tmp_path: Path, asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> None:
    path = write(tmp_path / "x", BOOKS, book(0, [("6425", "1")], [("6424.5", "1")]), book(1, asks, bids))
    with pytest.raises(CaptureError, match=r"x:3: prices that do not go away from the touch"):
        read_captures([path])


SIDES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), max_size=6, unique_by=lambda level: level[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=8), st.sampled_from([1 << 8, 1 << 20]))
def test_differences_of_books_make_the_books(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[list[tuple[int, int]], ...]], chunk: int
) -> None:
    shown, lines = [], []
    for at, (down, up) in enumerate(pairs):
        bids, asks = sorted((100 - price, size) for price, size in down)[::-1], sorted((100 + p, s) for p, s in up)
        cells = ([(str(price), str(size)) for price, size in side] for side in (asks, bids))
        lines.append(book(at, *cells))
        shown.append(([level for level in bids if level[1]], [level for level in asks if level[1]]))
    # A tick of 1, whatever the books hold.
    lines.insert(0, book(-1, [("201", "1")], [("1", "1")]))
    path = write(tmp_path_factory.mktemp("books") / "x", BOOKS, *lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tardis, "_CHUNK", chunk)
        rebuilt = {line: (bids, asks) for line, bids, asks in replayed.books(*replayed.read([path]))}
    last = rebuilt[2]
    for line, expected in enumerate(shown, 3):
        last = rebuilt.get(line, last)
        assert last == expected


CHANGES = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from(["bid", "ask"]), st.integers(0, 9), st.integers(0, 3)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(CHANGES, st.integers(0, 40))
def test_neither_batches_nor_the_cut_between_days_change_the_book(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bool, str, int, int]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("changes")
    at, lines, before = 1, [level(1, True, "bid", "1", "1"), level(1, True, "ask", "111", "1")], True
    naive: dict[str, dict[int, float]] = {"bid": {1: 1.0}, "ask": {111: 1.0}}
    for later, snapshot, side, price, size in changes:
        at += later
        price += 91 if side == "bid" else 101
        if snapshot and not before:
            naive = {"bid": {}, "ask": {}}
        before = snapshot
        naive[side].pop(price, None)
        if size:
            naive[side][price] = float(size)
        lines.append(level(at, snapshot, side, str(price), str(size)))
    trades = write(folder / "t", TRADES, *(trade(at, "", "buy", "100", "1") for at in range(0, 60, 7)))
    path = write(folder / "x", L2, *lines)
    whole, places = replayed.read([path, trades])
    _, bids, asks = replayed.books(whole, places)[-1]
    assert bids == sorted(naive["bid"].items())[::-1]
    assert asks == sorted(naive["ask"].items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tardis, "_CHUNK", 100 + cut * 20)
        again, places_again = replayed.read([path, trades])
    for column, other in zip(dataclasses.astuple(whole), dataclasses.astuple(again), strict=True):
        assert (column == other).all()
    assert places == places_again


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (level(5, False, "bid", "abc", "1"), "price: 'abc' is no number"),
        (level(5, False, "bid", "-1", "1"), "price"),
        (level(5, False, "buy", "6424", "1"), "side: 'buy'"),
        (level(5, False, "bid", "6424", "nan"), "amount"),
        (level(5, False, "bid", "6424", "1", symbol="ETH"), "one instrument"),
        (level(5, False, "bid", "", "1"), "price: the cell is empty"),
        (level(5, False, "bid", "0", "1"), "price: 0 is no level's"),
        (level(5, False, "bid", "1e300", "1"), "price: 1e\\+300 is too large for ticks of 0.5"),
        (level(5, False, "bid", "6424", "inf"), "amount: inf is out of range"),
        ("deribit,BTC-PERPETUAL,1,2,false,bid,1", "7 cells, not 8"),
        ("deribit,BTC-PERPETUAL,x,2,false,bid,1,1", "timestamp"),
        ("", "cells"),
        (level(5, True, "bid", "6424", "1").replace("true", "maybe"), "is_snapshot: 'maybe'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "x", L2, *OPENING, level(4, False, "bid", "6424", "1"), line)
    with pytest.raises(CaptureError, match=message) as raised:
        read_captures([path])
    assert f"{path}:7: " in str(raised.value)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    l2, books = write(tmp_path / "l2", L2, *OPENING), write(tmp_path / "b", BOOKS, book(0, [("2", "1")], [("1", "1")]))
    trades = write(tmp_path / "t", TRADES, trade(3, "1", "buy", "6425", "5"))
    for paths, message in (([l2, books], "same book"), ([trades], "no book"), ([l2, tmp_path / "no"], "no such file")):
        with pytest.raises(CaptureError, match=message):
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


ODD = st.sampled_from(
    ["", " ", "-", "-1", "0", "1e5", "1e-300", "1e300", "nan", "inf", "9" * 30, "0.1", "\0", '"', "é", "#"]
)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([L2, TRADES, BOOKS]))
def test_any_cells_end_in_events_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, head: str
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    good = {
        L2: [*OPENING, level(4, False, "bid", "6424", "1")],
        TRADES: [trade(at, "1", "buy", "6425", "5") for at in range(5)],
        BOOKS: [book(at, [("6425", "1")], [("6424.5", "1")]) for at in range(5)],
    }
    lines = [line.split(",") for line in good[head]]
    for _ in range(data.draw(st.integers(1, 3))):
        lines[data.draw(st.integers(0, 4))][data.draw(st.integers(0, 8 - 1))] = data.draw(ODD)
    path = write(folder / "x", head, *map(",".join, lines))
    try:
        read_captures([path, write(folder / "l2", L2, *OPENING)] if head == TRADES else [path])
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
