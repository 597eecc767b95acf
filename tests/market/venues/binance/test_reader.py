import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError
from lobsmith.market.events import ASK, BID, CLEAR, END, GAP, LEVEL, TICKER, TRADE
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session
from tests.market.venues.captured import (
    SPOT,
    T0,
    futures_depth,
    futures_ticker,
    levels,
    line,
    refused,
    snapshot,
    spot_depth,
    spot_ticker,
    stream,
    trade,
    write,
)

MS = 1_000_000


def rows(session: Session) -> list[tuple[object, ...]]:
    """Kind, side, price, size, sequence, END, and local time in ms after T0."""
    e = session.events
    local = (e.local_time - T0) // MS
    columns = (e.kind, e.side, e.price, e.size, e.sequence, e.flags, local)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("name", ["capture.gz", "capture.txt"])
def test_spot(tmp_path: Path, name: str) -> None:
    session = read_captures([write(tmp_path / name, *SPOT)])
    assert str(session.instrument) == "binance-spot:BTCUSDT"
    assert rows(session) == [
        (CLEAR, 0, 0, 0.0, 100, 0, 3),
        (LEVEL, BID, 9998, 1.5, 100, 0, 3),
        (LEVEL, BID, 9900, 2.0, 100, 0, 3),
        (LEVEL, ASK, 10001, 0.3, 100, 0, 3),
        (LEVEL, ASK, 10002, 4.0, 100, END, 3),
        (LEVEL, BID, 9999, 3.0, 103, 0, 3),
        (LEVEL, ASK, 10002, 0.0, 103, END, 3),
        (TICKER, BID, 10000, 0.12345678, 105, 0, 4),
        (TICKER, ASK, 10001, 2.0, 105, END, 4),
        (TRADE, BID, 10001, 0.00017, 7, END, 5),
        (TRADE, ASK, 10000, 0.5, 8, END, 5),
        (LEVEL, ASK, 10003, 0.0, 111, END, 7),
    ]
    account = session.accounting
    assert account.records == 9 == account.kept + sum(account.quarantined.values())
    assert account.quarantined == {"older than the snapshot": 1, "before the snapshot": 1}
    assert (account.depth_messages, account.tickers, account.trades, account.snapshots) == (4, 2, 2, 1)
    assert (account.level_updates, account.sequence_breaks, account.segments) == (7, 0, 1)
    assert (account.first_ns, account.last_ns, account.seconds) == (T0 + 3 * MS, T0 + 7 * MS, 0.004)
    assert session.sources == (name,)


def test_exchange_times(tmp_path: Path) -> None:
    session = read_captures([write(tmp_path / "a", *SPOT)])
    event = 1_723_161_256_000
    # The snapshot and spot tickers have none; a buffered difference keeps its own.
    assert session.events.exchange_time.tolist() == [
        stamp * MS for stamp in [0] * 5 + [event + 1] * 2 + [0, 0] + [event + 5] * 2 + [event + 7]
    ]
    assert session.accounting.clock_offset_ns == -1000 * MS


def test_spot_microseconds(tmp_path: Path) -> None:
    lines = [text.replace(b'"E":1723161256007', b'"E":1723161256007123') for text in SPOT]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert session.events.exchange_time[-1] == 1_723_161_256_007_123_000


FIRST_ROWS = [
    (CLEAR, 0, 0, 0.0, 50, 0, 0),
    (LEVEL, BID, 618000, 1.0, 50, 0, 0),
    (LEVEL, ASK, 618001, 2.0, 50, END, 0),
]
FUTURES = [
    snapshot(0, 50, levels(("61800.0", "1")), levels(("61800.1", "2")), E=1723161256001, T=1723161256000),
    # The snapshot lies in the hole between two differences' ids.
    futures_depth(1, 48, 52, 55, [("61799.9", "3.5")]),
    futures_ticker(2, 57, ("61800.0", "1.5"), ("61800.1", "2.5")),
]


def test_usdm(tmp_path: Path) -> None:
    more = [
        futures_depth(3, 55, 58, 60, [], [("61800.1", "0")]),
        trade(3, 9, "61800.1", "0.004", False, X="MARKET"),
        trade(3, 10, "61800.1", "0.004", False, X="INSURANCE_FUND"),
        trade(3, 11, "0", "0", False, X="MARKET"),
    ]
    session = read_captures([write(tmp_path / "a.gz", *FUTURES, *more)])
    assert str(session.instrument) == "binance-usdm:BTCUSDT"
    assert (session.instrument.tick_size, session.instrument.lot_size) == (0.1, 0.001)
    assert rows(session) == [
        *FIRST_ROWS,
        (LEVEL, BID, 617999, 3.5, 55, END, 1),
        (TICKER, BID, 618000, 1.5, 57, 0, 2),
        (TICKER, ASK, 618001, 2.5, 57, END, 2),
        (LEVEL, ASK, 618001, 0.0, 60, END, 3),
        (TRADE, BID, 618001, 0.004, 9, END, 3),
    ]
    assert session.events.exchange_time[0] == 1723161256000 * MS
    assert session.accounting.trades == 3
    assert session.accounting.quarantined == {"trade of price or size 0": 1, "trade outside the book": 1}


@pytest.mark.parametrize(("symbol", "more"), [("BTCUSD_PERP", {}), ("BTCUSD_240927", {}), ("ODD", {"ps": "BTCUSD"})])
def test_coinm(tmp_path: Path, symbol: str, more: dict[str, str]) -> None:
    lines = [
        FUTURES[0],
        futures_depth(1, 48, 52, 55, [("61799.9", "120")], symbol=symbol, **more),
        futures_ticker(2, 57, ("61800.0", "15"), ("61800.1", "25"), symbol=symbol, **more),
    ]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert str(session.instrument) == f"binance-coinm:{symbol}"
    assert (session.instrument.tick_size, session.instrument.lot_size) == (0.1, 1.0)


def test_usdm_delivery_contract_is_not_coinm(tmp_path: Path) -> None:
    lines = [text.replace(b'"BTCUSDT"', b'"BTCUSDT_240927"') for text in FUTURES]
    assert read_captures([write(tmp_path / "a", *lines)]).instrument.venue == "binance-usdm"


def test_a_break_opens_a_gap_until_the_next_snapshot(tmp_path: Path) -> None:
    lines = [
        *FUTURES,
        futures_depth(3, 56, 58, 60, [("61799.0", "1")]),
        futures_ticker(4, 61, ("61800.0", "1.5"), ("61800.1", "2.5")),
        futures_depth(5, 60, 61, 66, [("61799.5", "1")]),
        futures_depth(6, 66, 67, 70, [("61799.6", "1")]),
        snapshot(7, 65, levels(("61800.0", "7")), levels(("61800.1", "8"))),
        futures_ticker(8, 71, ("61800.0", "1.5"), ("61800.1", "2.5")),
    ]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert rows(session)[6:] == [
        (GAP, 0, 0, 0.0, 0, END, 2),
        (CLEAR, 0, 0, 0.0, 65, 0, 7),
        (LEVEL, BID, 618000, 7.0, 65, 0, 7),
        (LEVEL, ASK, 618001, 8.0, 65, END, 7),
        (LEVEL, BID, 617995, 1.0, 66, END, 7),
        (LEVEL, BID, 617996, 1.0, 70, END, 7),
        (TICKER, BID, 618000, 1.5, 71, 0, 8),
        (TICKER, ASK, 618001, 2.5, 71, END, 8),
    ]
    account = session.accounting
    assert (account.sequence_breaks, account.segments) == (1, 2)
    assert account.quarantined == {"older than the snapshot": 1, "gap": 1}


def test_a_snapshot_too_old_for_the_differences_waits_for_the_next(tmp_path: Path) -> None:
    lines = [
        spot_depth(0, 96, 103, [("99.99", "3")]),
        snapshot(1, 90, levels(("99.98", "1")), levels(("100.01", "1"))),
        snapshot(2, 101, levels(("99.98", "1")), levels(("100.01", "1"))),
        snapshot(3, 102, levels(("99.98", "1")), levels(("100.01", "1"))),
        spot_ticker(4, 105),
    ]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert session.accounting.quarantined == {"snapshot older than the book": 2}
    assert np.count_nonzero(session.events.kind == CLEAR) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"result": None, "id": 1},
        {
            "stream": "btcusdt@aggTrade",
            "data": {"e": "aggTrade", "s": "ETHUSDT", "a": 5, "p": "1", "q": "1", "m": True},
        },
        {"stream": "btcusdt@markPrice", "data": {"e": "markPriceUpdate", "s": "BTCUSDT", "p": "1", "r": "0.1", "T": 5}},
        {"stream": "x@kline_1m", "data": {"e": "kline", "s": "BTCUSDT", "k": {"t": 1}}},
        {"stream": "!ticker@arr", "data": [{"e": "24hrTicker"}]},
        {"stream": "x@odd", "data": {"e": "odd", "E": "text", "s": 5}},
        {"stream": "btcusdt@depth5", "data": {"lastUpdateId": 99, "bids": [], "asks": []}},
        {"stream": "btcusdt@depth20@100ms", "data": {"e": "depthUpdate", "s": "BTCUSDT", "U": 1, "u": 2, "pu": 0}},
    ],
)
def test_other_streams_are_quarantined(tmp_path: Path, other: object) -> None:
    session = read_captures([write(tmp_path / "a", *SPOT, line(8, other))])
    assert session.accounting.quarantined["other stream"] == 1


def test_bare_messages_of_a_single_stream(tmp_path: Path) -> None:
    bare = [text if b'"stream"' not in text else unwrap(text) for text in SPOT]
    assert b'"stream"' not in b"".join(bare)
    session = read_captures([write(tmp_path / "a", *bare)])
    assert rows(session) == rows(read_captures([write(tmp_path / "b", *SPOT)]))


def unwrap(text: bytes) -> bytes:
    stamp, _, body = text.partition(b" ")
    return stamp + b" " + body.partition(b'"data":')[2].rstrip()[:-1] + b"\n"


def test_local_time_never_decreases(tmp_path: Path) -> None:
    lines = [*SPOT, spot_ticker(3, 113), spot_ticker(4, 114), spot_ticker(8, 115)]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert session.accounting.faults == {}
    assert ((session.events.local_time[-6:] - T0) // MS).tolist() == [7, 7, 7, 7, 8, 8]


def test_files_in_order_are_one_stream(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.gz", *SPOT[:6]), write(tmp_path / "b.gz", *SPOT[6:])]
    assert rows(read_captures(parts)) == rows(read_captures([write(tmp_path / "c", *SPOT)]))


@pytest.mark.parametrize(
    ("prices", "sizes", "tick", "lot"),
    [
        (("0.00125", "0.00130"), ("100", "250"), 0.00005, 50.0),
        (("1000", "1500"), ("0.5", "1.25"), 500.0, 0.25),
        (("3", "3.5"), ("900000000000", "0.00000001"), 0.5, 1e-8),
    ],
)
def test_tick_and_lot_of_an_unknown_instrument(tmp_path: Path, prices, sizes, tick: float, lot: float) -> None:
    bid, ask = zip(prices, sizes, strict=True)
    lines = [snapshot(0, 5, [bid], [ask]), spot_ticker(1, 6, bid, ask, symbol="DOGEUSDT")]
    session = read_captures([write(tmp_path / "a", *lines)])
    assert session.instrument.tick_size == tick
    assert session.instrument.lot_size == lot
    assert session.events.price[1] * tick == pytest.approx(float(bid[0]))
    assert session.events.size[1] == float(bid[1])


def test_a_known_tick_that_prices_contradict_gives_way(tmp_path: Path) -> None:
    bid, ask = ("61800.05", "1"), ("61800.10", "1")
    lines = [snapshot(0, 50, [bid], [ask]), futures_depth(1, 49, 50, 51), futures_ticker(2, 57, bid, ask)]
    assert read_captures([write(tmp_path / "a", *lines)]).instrument.tick_size == 0.05


@pytest.mark.parametrize("size", ["0.1", "0.30000000", "123456.78901234", "4.35", "0.00000001", "70368744177.663"])
def test_sizes_are_correctly_rounded(tmp_path: Path, size: str) -> None:
    lines = [snapshot(0, 5, [("1", size)], [("2", "1")]), spot_ticker(1, 6)]
    assert read_captures([write(tmp_path / "a", *lines)]).events.size[1] == float(size)


def test_a_ticker_of_an_empty_side_is_quarantined(tmp_path: Path) -> None:
    lines = [*SPOT, spot_ticker(8, 120, ask=("0.00", "0.00")), stream(9, "x", {"e": "news"})]
    account = read_captures([write(tmp_path / "a", *lines)]).accounting
    assert account.quarantined["ticker of an empty side"] == 1
    assert account.records == account.kept + sum(account.quarantined.values())


STAMP = str(T0 + 9_000_000).encode()
GOOD = b"".join(SPOT)


def depth(pairs: str) -> bytes:
    text = ' {"e":"depthUpdate","E":1,"s":"BTCUSDT","U":112,"u":113,"a":[],"b":' + pairs + "}\n"
    return STAMP + text.encode()


BAD_LINES = {
    "no timestamp": b'{"stream":"x","data":{}}\n',
    "timestamp in ms": b'1723161255000 {"stream":"x","data":{}}\n',
    "timestamp too late": b'9999999999999999999 {"stream":"x","data":{}}\n',
    "blank line": b"\n\n",
    "not JSON": STAMP + b" {oops}\n",
    "cut short": STAMP + b' {"stream":"btcusdt@trade","data":{"e":"tra',
    "no object": STAMP + b" 12\n",
    "deep nesting": STAMP + b" " + b"[" * 100_000 + b"\n",
    "not UTF-8": STAMP + b' {"stream":"\xff"}\n',
    "price as a number": depth("[[100.0,1.0]]"),
    "price as text": depth('[["ten","1"]]'),
    "empty price": depth('[["","1"]]'),
    "not a number": depth('[["NaN","1"]]'),
    "infinite": depth('[["1","Infinity"]]'),
    "exponent": depth('[["1e5","1"]]'),
    "negative size": depth('[["1","-1"]]'),
    "price of zero": depth('[["0.0","1"]]'),
    "long digits": depth('[["1","%s"]]' % ("9" * 400)),
    "long decimals": depth('[["1","0.%s1"]]' % ("0" * 400)),
    "price beyond range": depth('[["900000000000","1"]]'),
    "price of nine decimals": depth('[["1.000000001","1"]]'),
    "a lone price": depth('[["1"]]'),
    "three values": depth('[["1","2","3"]]'),
    "levels as an object": depth('{"1":"2"}'),
    "trailing comma in shape": depth('[["1","2"],5]'),
    "update id as text": STAMP + b' {"e":"depthUpdate","s":"BTCUSDT","U":"1","u":2,"b":[],"a":[]}\n',
    "update id too large": STAMP + b' {"e":"depthUpdate","s":"BTCUSDT","U":1,"u":9223372036854775808,"b":[],"a":[]}\n',
    "no update id": STAMP + b' {"e":"depthUpdate","s":"BTCUSDT","b":[],"a":[]}\n',
    "ticker without update id": line(9, {"s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"}),
    "ticker without ask": STAMP + b' {"e":"bookTicker","u":200,"s":"BTCUSDT","b":"1","B":"1"}\n',
    "no symbol": line(9, {"e": "trade", "t": 1, "p": "1", "q": "1", "m": True}),
    "trade without side": line(9, {"e": "trade", "s": "BTCUSDT", "t": 1, "p": "1", "q": "1"}),
    "trade without price": line(9, {"e": "trade", "s": "BTCUSDT", "t": 1, "q": "1", "m": True}),
    "exchange time out of range": line(9, {"e": "trade", "E": 10**13, "s": "BTCUSDT", "t": 1, "m": True}),
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path / "a", *SPOT, bad)
    assert f"{path}:{len(SPOT) + 1}: " in refused(path)


def test_a_bad_line_of_the_second_file_is_named_there(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", *SPOT), write(tmp_path / "b", spot_ticker(8, 115), depth('[["x","1"]]'))
    assert refused(first, second).startswith(f"{second}:2: ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([text for text in SPOT if b"lastUpdateId" not in text], "lastUpdateId"),
        ([spot_depth(0, 96, 103), snapshot(1, 90, levels(), levels()), spot_ticker(2, 104)], "no depth snapshot fits"),
        ([*SPOT, trade(9, 1, "1", "1", True, symbol="ETHUSDT")], "BTCUSDT and of ETHUSDT"),
        ([*SPOT, futures_depth(9, 111, 112, 113)], "spot and of futures"),
    ],
)
def test_a_capture_that_is_no_session_is_refused(tmp_path: Path, lines: list[bytes], message: str) -> None:
    assert message in refused(write(tmp_path / "a", *lines))


PIECES = st.sampled_from(
    [*SPOT, *BAD_LINES.values(), STAMP, b" ", b'"', b"[", b"]", b"{", b"}", b"\n", b",", b"-", b"9"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_end_in_events_or_a_capture_error(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["bytes", "pieces", "edited", "gzip"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=300))
    elif kind == "pieces":
        content = b"".join(data.draw(st.lists(PIECES, max_size=12)))
    else:
        whole = GOOD if kind == "edited" else gzip.compress(GOOD, mtime=0)
        at = data.draw(st.integers(0, len(whole) - 1))
        content = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + data.draw(st.integers(0, 4)) :]
    path = tmp_path / "capture"
    path.write_bytes(content)
    try:
        session = read_captures([path])
    except CaptureError:
        return
    account = session.accounting
    assert account.records == account.kept + sum(account.quarantined.values())
    assert (session.events.local_time[1:] >= session.events.local_time[:-1]).all()
