import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.readers import read_captures
from tests.market.venues.captured import (
    SPOT,
    T0,
    futures_depth,
    levels,
    line,
    snapshot,
    spot_depth,
    spot_ticker,
    trade,
    write,
)

STAMP = str(T0 + 9_000_000).encode()
GOOD = b"".join(SPOT)


def refused(*paths: Path) -> str:
    with pytest.raises(CaptureError) as raised:
        read_captures(paths)
    message = str(raised.value)
    assert "\n" not in message
    assert str(raised.value.path) in [str(path) for path in paths]
    return message


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
    ("content", "words"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (gzip.compress(GOOD, mtime=0)[:-20], "truncated"),
        (gzip.compress(GOOD, mtime=0)[:30] + b"\x00" * 40 + gzip.compress(GOOD, mtime=0)[70:], "corrupt"),
        (gzip.compress(GOOD, mtime=0) + b"rest", "corrupt"),
        (b"\x1f\x8bnot gzip", "corrupt"),
        (b"id,timestamp,price\n1,2,3\n", "Binance raw capture"),
        (b"\x89PNG\r\n\x00\xff", "Binance raw capture"),
        (GOOD[20:], "Binance raw capture"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "capture.gz"
    path.write_bytes(content)
    assert words in refused(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.gz")
    assert "directory" in refused(tmp_path)
    assert "no such file" in refused(write(tmp_path / "a", *SPOT), tmp_path / "absent.gz")
    with pytest.raises(DataError):
        read_captures([])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([text for text in SPOT if b"lastUpdateId" not in text], "lastUpdateId"),
        ([spot_depth(0, 96, 103), snapshot(1, 90, levels(), levels()), spot_ticker(2, 104)], "no depth snapshot fits"),
        ([*SPOT, trade(9, 1, "1", "1", True, symbol="ETHUSDT")], "BTCUSDT and of ETHUSDT"),
        ([*SPOT, futures_depth(9, 111, 112, 113)], "spot and of futures"),
    ],
)
def test_a_capture_that_is_no_session_is_refused(tmp_path: Path, lines: list[bytes], words: str) -> None:
    assert words in refused(write(tmp_path / "a", *lines))


def test_files_out_of_order_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", *SPOT), write(tmp_path / "b", spot_ticker(5000, 115))
    assert read_captures([first, second]).accounting.tickers == 3
    assert "order" in refused(second, first)


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
    assert account.records == account.kept + sum(account.set_aside.values())
    assert (session.events.local_time[1:] >= session.events.local_time[:-1]).all()
