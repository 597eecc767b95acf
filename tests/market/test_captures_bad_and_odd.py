"""Hand-written captures: each venue's rules, and every way a file can be bad."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError
from lobsmith.market.events import CLEAR, GAP, LEVEL, TICKER, TRADE
from lobsmith.market.readers import read_captures

T0 = 1_723_161_255_000_000_000


def line(n: int, message: dict) -> str:
    return f"{T0 + n * 1_000_000} {json.dumps(message, separators=(',', ':'))}\n"


def depth(first: int, last: int, previous: int | None, bids=(), asks=(), symbol: str = "BTCUSDT", **more) -> dict:
    data = {"e": "depthUpdate", "E": 1_723_161_256_299, "s": symbol, "U": first, "u": last, **more}
    if previous is not None:
        data |= {"T": 1_723_161_256_298, "pu": previous}
    return {"stream": f"{symbol.lower()}@depth", "data": data | {"b": list(bids), "a": list(asks)}}


def ticker(update: int, bid: str, ask: str, symbol: str = "BTCUSDT") -> dict:
    data = {"u": update, "s": symbol, "b": bid, "B": "15", "a": ask, "A": "25"}
    return {"stream": f"{symbol.lower()}@bookTicker", "data": data}


def trade(price: str, maker: bool, symbol: str = "BTCUSDT", **more) -> dict:
    data = {"e": "trade", "E": 1_723_161_256_343, "T": 1_723_161_256_342, "s": symbol, "t": 7, "p": price, "q": "0.020"}
    return {"stream": f"{symbol.lower()}@trade", "data": data | {"m": maker} | more}


SNAPSHOT = {"lastUpdateId": 10, "bids": [["100.0", "1.000"], ["99.9", "2.000"]], "asks": [["100.1", "3.000"]]}

FUTURES = [
    depth(1, 5, 0, bids=[["99.0", "9.000"]]),  # older than the snapshot: dropped
    depth(8, 12, 5, bids=[["99.8", "4.000"]]),  # overlaps it: the first to be applied
    SNAPSHOT,
    ticker(13, "100.0", "100.2"),
    trade("100.2", maker=False, X="MARKET"),
    depth(13, 15, 12, asks=[["100.1", "0.000"]]),
    trade("100.0", maker=True, X="MARKET"),
]
SPOT = [
    depth(1, 5, None),
    depth(6, 10, None, bids=[["99.0", "9.000"]]),  # u <= lastUpdateId: dropped
    SNAPSHOT,
    depth(11, 12, None, bids=[["99.8", "4.000"]]),
    ticker(13, "100.0", "100.2"),
    trade("100.2", maker=False),
    depth(13, 15, None, asks=[["100.1", "0.000"]]),
    trade("100.0", maker=True),
]


def write(path: Path, messages: list[dict]) -> Path:
    path.write_bytes(gzip.compress("".join(line(n, message) for n, message in enumerate(messages)).encode()))
    return path


@pytest.mark.parametrize(("messages", "venue"), [(FUTURES, "binance-usdm"), (SPOT, "binance-spot")])
def test_synchronisation_and_events(tmp_path: Path, messages: list[dict], venue: str) -> None:
    session = read_captures([write(tmp_path / "x.gz", messages)])
    events, tick = session.events, session.instrument.tick_size
    assert session.instrument.venue == venue
    kinds = events.kind.tolist()
    assert kinds == [CLEAR, *[LEVEL] * 3, LEVEL, TICKER, TICKER, TRADE, LEVEL, TRADE]
    assert (events.price[1:5] * tick).round(6).tolist() == [100.0, 99.9, 100.1, 99.8]
    assert events.side[[7, 9]].tolist() == [1, -1]
    assert session.accounting.sequence_breaks == 0
    assert 99.0 not in (events.price * tick).round(6)


def test_coin_margined_futures_are_told_by_their_symbol(tmp_path: Path) -> None:
    name = "BTCUSD_PERP"
    messages = [
        depth(8, 12, 5, bids=[["99.8", "4"]], symbol=name, ps="BTCUSD"),
        {**SNAPSHOT, "symbol": name, "pair": "BTCUSD", "bids": [["100.0", "1"]], "asks": [["100.1", "3"]]},
        ticker(13, "100.0", "100.1", symbol=name),
    ]
    session = read_captures([write(tmp_path / "x.gz", messages)])
    assert (session.instrument.venue, session.instrument.symbol) == ("binance-coinm", name)
    assert session.instrument.lot_size == 1.0


def test_an_unknown_instrument_gets_the_tick_that_its_prices_have_in_common(tmp_path: Path) -> None:
    snapshot = {"lastUpdateId": 10, "bids": [["0.5050", "10"]], "asks": [["0.5075", "25"]]}
    messages = [
        depth(9, 12, 8, bids=[["0.5025", "5"]], symbol="ABCUSDT"),
        snapshot,
        ticker(13, "0.5050", "0.5100", symbol="ABCUSDT"),
    ]
    session = read_captures([write(tmp_path / "x.gz", messages)])
    assert session.instrument.tick_size == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("messages", "break_at"),
    [
        ([*FUTURES, depth(20, 22, 18), ticker(23, "1.0", "2.0")], 20),
        ([*SPOT, depth(20, 22, None), ticker(23, "1.0", "2.0")], 20),
    ],
)
def test_a_sequence_break_is_a_gap_and_what_follows_waits_for_a_snapshot(tmp_path, messages, break_at) -> None:
    session = read_captures([write(tmp_path / "x.gz", messages)])
    assert session.accounting.sequence_breaks == 1
    assert session.events.kind[-1] == GAP
    again = [*messages, {**SNAPSHOT, "lastUpdateId": 30}, ticker(31, "100.0", "100.2")]
    session = read_captures([write(tmp_path / "y.gz", again)])
    assert session.accounting.segments == 2
    assert session.events.kind[-2:].tolist() == [TICKER, TICKER]
    assert session.accounting.messages == session.accounting.kept + sum(session.accounting.set_aside.values())


def test_trades_that_are_none_and_other_streams_are_set_aside_by_reason(tmp_path: Path) -> None:
    messages = [
        *FUTURES,
        trade("0", maker=True, X="NA"),
        {"stream": "btcusdt@markPrice", "data": {"e": "markPriceUpdate"}},
    ]
    account = read_captures([write(tmp_path / "x.gz", messages)]).accounting
    assert account.messages == len(messages)
    assert account.messages == account.kept + sum(account.set_aside.values())
    assert sum(account.set_aside.values()) >= 3


GOOD = "".join(line(n, message) for n, message in enumerate(FUTURES)).encode()

BAD = {
    "empty": b"",
    "empty gzip": gzip.compress(b""),
    "truncated gzip": gzip.compress(GOOD * 50)[:-30],
    "corrupt gzip": gzip.compress(GOOD)[:40] + b"\0" * 40 + gzip.compress(GOOD)[80:],
    "no timestamp": GOOD + b'{"e":"trade"}\n',
    "not JSON": GOOD + b"1723161255030314667 {\n",
    "price is no number": GOOD + line(9, depth(16, 17, 15, bids=[["abc", "1"]])).encode(),
    "negative size": GOOD + line(9, depth(16, 17, 15, bids=[["1.0", "-1"]])).encode(),
    "infinite price": GOOD + line(9, depth(16, 17, 15, bids=[["inf", "1"]])).encode(),
    "digits without end": GOOD + line(9, depth(16, 17, 15, bids=[["1" * 60, "1"]])).encode(),
    "unknown format": b"timestamp,side,price,size\n1,buy,2,3\n",
    "no snapshot": "".join(line(n, m) for n, m in enumerate(FUTURES) if m is not SNAPSHOT).encode(),
    "two symbols": GOOD + line(9, depth(16, 17, 15, symbol="ETHUSDT")).encode(),
    "binary": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_file_is_one_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match="bad") as caught:
        read_captures([path])
    assert "\n" not in str(caught.value)


def test_a_garbage_line_is_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(GOOD + b"what is this\n")
    with pytest.raises(CaptureError, match=rf"bad:{len(FUTURES) + 1}: "):
        read_captures([path])


def test_a_folder_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CaptureError, match=path.name):
            read_captures([path])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_end_in_events_or_a_typed_error(tmp_path: Path, data) -> None:
    kind = data.draw(st.sampled_from(["bytes", "mutated", "spliced"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=300))
    else:
        content = bytearray(GOOD)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            if kind == "mutated":
                content[at] = data.draw(st.integers(0, 255))
            else:
                del content[at : at + data.draw(st.integers(1, 60))]
                if not content:
                    content = bytearray(b"x")
    path = tmp_path / "fuzz"
    path.write_bytes(bytes(content))
    try:
        session = read_captures([path])
    except CaptureError:
        return
    assert np.isfinite(session.events.size).all()
    assert (session.events.size >= 0).all()
