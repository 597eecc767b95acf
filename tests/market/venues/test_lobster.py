"""Golden cases written from the format's documentation; no sample of LOBSTER's was at hand."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TRADE
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session
from lobsmith.market.venues import lobster
from tests.market.venues import replayed

NAME = "AAPL_2012-06-21_34200000_57600000_{}_2.csv"
EMPTY_ASK, EMPTY_BID = "9999999999,0", "-9999999999,0"
FIRST = "1186600,100,1185000,200,1187000,300,1184000,400"


def write(folder: Path, messages: list[str], books: list[str], name: str = NAME) -> Path:
    for which, lines in (("message", messages), ("orderbook", books)):
        content = "".join(f"{line}\n" for line in lines).encode()
        (folder / name.format(which)).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name.format("message")


def rows(session: Session, *kinds: int) -> list[tuple[int, int, int, float]]:
    e = session.events
    selected = np.isin(e.kind, kinds or (CLEAR, LEVEL, TRADE, GAP))
    columns = (column[selected].tolist() for column in (e.kind, e.side, e.price, e.size))
    return list(zip(*columns, strict=True))


BEGUN = [
    (CLEAR, 0, 0, 0.0),
    (LEVEL, 1, 11850, 200.0),
    (LEVEL, 1, 11840, 400.0),
    (LEVEL, -1, 11866, 100.0),
    (LEVEL, -1, 11870, 300.0),
]


@pytest.mark.parametrize(
    ("message", "book", "expected"),
    [
        # A buy order joins the best bid.
        ("34200.5,1,7,50,1185000,1", "1186600,100,1185000,250,1187000,300,1184000,400", [(LEVEL, 1, 11850, 250.0)]),
        # A partial cancellation of the best ask.
        ("34200.5,2,7,40,1186600,-1", "1186600,60,1185000,200,1187000,300,1184000,400", [(LEVEL, -1, 11866, 60.0)]),
        # The best ask, a sell order, is executed whole: the aggressor is a buyer.
        (
            "34200.5,4,7,100,1186600,-1",
            f"1187000,300,1185000,200,{EMPTY_ASK},1184000,400",
            [(TRADE, 1, 11866, 100.0), (LEVEL, -1, 11866, 0.0)],
        ),
        # A hidden buy order is executed: the book stays, the aggressor is a seller.
        ("34200.5,5,0,30,1186000,1", FIRST, [(TRADE, -1, 11860, 30.0)]),
        # The last bids are gone.
        (
            "34200.5,3,7,200,1185000,1",
            f"1186600,100,{EMPTY_BID},1187000,300,{EMPTY_BID}",
            [(LEVEL, 1, 11850, 0.0), (LEVEL, 1, 11840, 0.0)],
        ),
    ],
)
def test_golden(tmp_path: Path, message: str, book: str, expected: list[object]) -> None:
    path = write(tmp_path, ["34200.017459617,1,6,100,1186600,-1", message], [FIRST, book])
    session = read_captures([path])
    assert rows(session) == BEGUN + expected
    assert str(session.instrument) == "lobster:AAPL"
    assert (session.instrument.tick_size, session.instrument.lot_size) == (0.01, 1.0)
    opened = datetime(2012, 6, 21, 13, 30, tzinfo=UTC).timestamp()  # 9:30 in New York, in summer
    assert session.events.local_time[0] == int(opened) * 10**9 + 17_459_617
    assert (session.events.local_time == session.events.exchange_time).all()
    assert session.accounting.records == 2


def test_either_file_names_both(tmp_path: Path) -> None:
    path = write(tmp_path, ["34200.0,1,6,100,1186600,-1"], [FIRST])
    other = tmp_path / NAME.format("orderbook")
    assert rows(read_captures([other])) == rows(read_captures([path])) == rows(read_captures([path, other])) == BEGUN


def test_a_halt_ends_the_segment(tmp_path: Path) -> None:
    messages = [
        "34200.0,1,6,100,1186600,-1",
        "34201.0,7,0,0,-1,-1",
        "34202.0,3,6,100,1186600,-1",
        "34203.0,7,0,0,0,-1",
        "34204.0,1,9,10,1185000,1",
    ]
    books = [FIRST, FIRST, FIRST, FIRST, FIRST.replace(",200,", ",210,")]
    session = read_captures([write(tmp_path, messages, books)])
    assert rows(session) == [*BEGUN, (GAP, 0, 0, 0.0), *BEGUN, (LEVEL, 1, 11850, 210.0)]
    assert session.accounting.faults == {"trading halt": 1}
    assert session.accounting.quarantined == {"trading halt": 1}


def test_a_line_within_a_halt_is_quarantined_once(tmp_path: Path) -> None:
    messages = [
        "34200.0,1,6,100,1186600,-1",
        "34201.0,7,0,0,-1,-1",
        "34202.0,4,6,10,1186600,-1",
        "34203.0,6,-3,500,1186600,-1",
        "34203.5,7,0,0,-1,-1",
        "34204.0,7,0,0,1,-1",
    ]
    session = read_captures([write(tmp_path, messages, [FIRST] * 6)])
    assert rows(session) == [*BEGUN, (GAP, 0, 0, 0.0), *BEGUN]
    assert session.accounting.quarantined == {"trading halt": 3}
    assert (session.accounting.kept, session.accounting.faults) == (3, {"trading halt": 1})


def test_days_are_apart(tmp_path: Path) -> None:
    first = write(tmp_path, ["34200.0,1,6,100,1186600,-1", "34201.0,7,0,0,-1,-1"], [FIRST] * 2)
    # In winter New York is an hour later; a halt does not outlast its day's files.
    second = write(tmp_path, ["34200.0,1,6,100,1186600,-1"], [FIRST], NAME.replace("2012-06-21", "2012-12-21") + ".gz")
    ledger = Ledger()
    events, lines = replayed.read([first, second], ledger)
    gap = (GAP, 0, 0, 0.0)
    columns = zip(events.kind.tolist(), events.side.tolist(), events.price.tolist(), events.size.tolist(), strict=True)
    assert list(columns) == [*BEGUN, gap, gap, *BEGUN]
    assert lines == [1] * 5 + [2] + [1] * 6
    assert events.local_time[-1] == int(datetime(2012, 12, 21, 14, 30, tzinfo=UTC).timestamp()) * 10**9
    assert np.all(np.diff(events.sequence[events.kind == LEVEL]) >= 0)
    assert ledger.faults == {"trading halt": 1}
    with pytest.raises(CaptureError, match="a day no later than 2012-12-21"):
        replayed.read([second, first])


@pytest.mark.parametrize(
    ("book", "tick", "best"),
    [(FIRST, 0.01, 11866), (FIRST.replace("1186600", "1186650"), 0.005, 23733), ("8917,1,8912,2", 0.0001, 8917)],
)
def test_the_tick_is_what_the_first_lines_quote_in(tmp_path: Path, book: str, tick: float, best: int) -> None:
    name = NAME.replace("_2.csv", f"_{len(book.split(',')) // 4}.csv")
    session = read_captures([write(tmp_path, ["34200.0,1,6,100,8917,-1"], [book], name)])
    assert session.instrument.tick_size == tick
    assert min(row[2] for row in rows(session) if row[1] == -1) == best


def test_a_price_finer_than_the_first_ones_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobster, "_CHUNK", 4)
    finer = FIRST.replace("1186600", "1186650")
    path = write(tmp_path, ["34200.0,1,6,100,1186600,-1"] * 2, [FIRST, finer])
    with pytest.raises(CaptureError, match=r"orderbook_2\.csv:2: a price that is no multiple of 0.01"):
        replayed.read([path])


def test_a_file_may_begin_with_an_auction(tmp_path: Path) -> None:
    messages = ["34200.0,6,-1,5000,1186600,-1", "34200.1,1,6,100,1186600,-1"]
    session = read_captures([write(tmp_path, messages, [FIRST] * 2)])
    assert rows(session) == BEGUN
    assert session.accounting.quarantined == {"trade outside the book": 1}


LADDER = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=3, unique_by=lambda level: level[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LADDER, LADDER, st.sampled_from([1, 4, 5])), min_size=1, max_size=12), st.integers(3, 400))
def test_differences_of_books_make_the_books(
    tmp_path_factory: pytest.TempPathFactory,
    snapshots: list[tuple[list[tuple[int, int]], list[tuple[int, int]], int]],
    chunk: int,
) -> None:
    messages, lines, shown = [], [], {}
    for number, (down, up, kind) in enumerate(snapshots, 1):
        bids, asks = sorted((100 - price, size) for price, size in down)[::-1], sorted((100 + p, s) for p, s in up)
        empty = [(-99_999_999.99, 0), (99_999_999.99, 0)]
        cells = [
            f"{round(price * 100)},{size}"
            for k in range(3)
            for price, size in ((asks[k] if k < len(asks) else empty[1]), (bids[k] if k < len(bids) else empty[0]))
        ]
        lines.append(",".join(cells))
        messages.append(f"{34200 + number},{kind},6,100,10100,-1")
        shown[number] = (bids, asks)
    path = write(tmp_path_factory.mktemp("books"), messages, lines, NAME.replace("_2.csv", "_3.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lobster, "_CHUNK", chunk)
        events, places = replayed.read([path])
    rebuilt = {line: (bids, asks) for line, bids, asks in replayed.books(events, places)}
    last = rebuilt[1]
    for line, expected in shown.items():
        last = rebuilt.get(line, last)
        assert last == expected
    assert [line for line, kind in zip(places, events.kind, strict=True) if kind == TRADE] == [
        number for number, (_, _, kind) in enumerate(snapshots, 1) if kind != 1
    ]


def test_what_is_no_trade_of_the_book_is_quarantined(tmp_path: Path) -> None:
    messages = ["34200.0,1,6,100,1186600,-1", "34201.0,6,0,50,1186000,-1", "34202.0,5,0,50,1186050,-1"]
    session = read_captures([write(tmp_path, messages, [FIRST] * 3)])
    assert rows(session) == BEGUN
    assert session.accounting.quarantined == {"trade outside the book": 2}


@pytest.mark.parametrize(
    ("messages", "books", "message"),
    [
        (["34200.0,1,6,100,1186600,-1"] * 2, [FIRST], r"message_2\.csv:2: .*no line for this message"),
        (["34200.0,1,6,100,1186600,-1"], [FIRST] * 2, "more lines"),
        (["34200.0,1,6,100,1186600,-1", "34200.0,9,6,100,1,-1"], [FIRST] * 2, r"message_2\.csv:2: type"),
        (["34200.0,1,6,100,1186600,-1", "x,1,6,100,1,-1"], [FIRST] * 2, r"message_2\.csv:2: time"),
        (["34200.0,1,6,100,1186600,-1", "99999,1,6,100,1,-1"], [FIRST] * 2, "midnight"),
        (["34200.0,1,6,100,1186600,-1"], ["1,2,3,4"], "4 cells, not 8"),
        (
            ["34200.0,1,6,100,1186600,-1"],
            [FIRST.replace("1186600", "1187600")],
            "orderbook_2.csv:1: prices that do not",
        ),
        (["34200.0,1,6,100,1186600,-1"], [FIRST.replace("100,", "-1,")], "orderbook_2.csv:1: ask size 1: -1"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, messages: list[str], books: list[str], message: str) -> None:
    path = write(tmp_path, messages, books)
    with pytest.raises(CaptureError, match=message):
        read_captures([path])


def test_a_missing_companion_and_a_foreign_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ["34200.0,1,6,100,1186600,-1"], [FIRST])
    (tmp_path / NAME.format("orderbook")).unlink()
    with pytest.raises(CaptureError, match="belong together"):
        read_captures([path])
    other = tmp_path / "x.csv"
    other.write_text("34200.0,1,6,100,1186600,-1\n")
    with pytest.raises(CaptureError, match="name must be"):
        read_captures([other])
    nowhen = write(tmp_path, ["34200.0,1,6,100,1186600,-1"], [FIRST], NAME.replace("06-21", "13-45"))
    with pytest.raises(CaptureError, match="2012-13-45 in the file's name is no day"):
        read_captures([nowhen])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes_end_in_events_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, message: bytes, book: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = write(folder, ["34200.0,1,6,100,1186600,-1"], [FIRST])
    for which, tail in (("message", message), ("orderbook", book)):
        with (folder / NAME.format(which)).open("ab") as file:
            file.write(tail)
    try:
        read_captures([path])
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


ODD = st.sampled_from(
    ["", " ", "-", "-1", "0", "1e5", "1e-300", "1e300", "nan", "inf", "9" * 30, "0.1", "\0", '"', "é", "7"]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_cells_end_in_events_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    messages = [f"3420{k}.0,{k},6,100,1186600,-1".split(",") for k in (1, 4, 5)]
    books = [FIRST.split(",") for _ in messages]
    for _ in range(data.draw(st.integers(1, 3))):
        lines = data.draw(st.sampled_from([messages, books]))
        lines[data.draw(st.integers(0, 2))][data.draw(st.integers(0, 5))] = data.draw(ODD)
    path = write(tmp_path_factory.mktemp("cells"), list(map(",".join, messages)), list(map(",".join, books)))
    try:
        read_captures([path])
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
