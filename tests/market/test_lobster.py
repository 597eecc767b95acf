"""Golden cases written from the format's documentation; no sample of LOBSTER's was at hand."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TRADE
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session

NAME = "AAPL_2012-06-21_34200000_57600000_{}_2.csv"
EMPTY_ASK, EMPTY_BID = "9999999999,0", "-9999999999,0"
FIRST = "1186600,100,1185000,200,1187000,300,1184000,400"


def write(folder: Path, messages: list[str], books: list[str]) -> Path:
    for which, lines in (("message", messages), ("orderbook", books)):
        (folder / NAME.format(which)).write_text("".join(f"{line}\n" for line in lines))
    return folder / NAME.format("message")


def rows(session: Session, *kinds: int) -> list[tuple[int, int, int, float]]:
    e = session.events
    wanted = np.isin(e.kind, kinds or (CLEAR, LEVEL, TRADE, GAP))
    columns = (column[wanted].tolist() for column in (e.kind, e.side, e.price, e.size))
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
    assert session.accounting.set_aside == {"trading halt": 1}


def test_what_is_no_trade_of_the_book_is_set_aside(tmp_path: Path) -> None:
    messages = ["34200.0,1,6,100,1186600,-1", "34201.0,6,0,50,1186000,-1", "34202.0,5,0,50,1186050,-1"]
    session = read_captures([write(tmp_path, messages, [FIRST] * 3)])
    assert rows(session) == BEGUN
    assert session.accounting.set_aside == {"trade outside the book": 2}


@pytest.mark.parametrize(
    ("messages", "books", "words"),
    [
        (["34200.0,1,6,100,1186600,-1"] * 2, [FIRST], r"message_2\.csv:2: .*no line for this message"),
        (["34200.0,1,6,100,1186600,-1"], [FIRST] * 2, "more lines"),
        (["34200.0,1,6,100,1186600,-1", "34200.0,9,6,100,1,-1"], [FIRST] * 2, r"message_2\.csv:2: type"),
        (["34200.0,1,6,100,1186600,-1", "x,1,6,100,1,-1"], [FIRST] * 2, r"message_2\.csv:2: time"),
        (["34200.0,1,6,100,1186600,-1", "99999,1,6,100,1,-1"], [FIRST] * 2, "midnight"),
        (["34200.0,1,6,100,1186600,-1"], ["1,2,3,4"], "4 cells, not 8"),
        (["34200.0,1,6,100,1186600,-1"], [FIRST.replace("1186600", "1186650")], "no whole cent"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, messages: list[str], books: list[str], words: str) -> None:
    path = write(tmp_path, messages, books)
    with pytest.raises(CaptureError, match=words):
        read_captures([path])


def test_a_missing_companion_and_a_foreign_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ["34200.0,1,6,100,1186600,-1"], [FIRST])
    (tmp_path / NAME.format("orderbook")).unlink()
    with pytest.raises(CaptureError, match="belong together"):
        read_captures([path])
    other = tmp_path / "x.csv"
    other.write_text("34200.0,1,6,100,1186600,-1\n")
    with pytest.raises(CaptureError, match="name must say"):
        read_captures([other])


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
