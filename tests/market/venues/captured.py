"""Lines of small captures, written the way Binance writes them, and the errors of bad ones."""

import gzip
import json
from pathlib import Path

import pytest

from lobsmith.errors import CaptureError
from lobsmith.market.readers import read_captures

T0 = 1_723_161_255_000_000_000


def line(local: int, message: object) -> bytes:
    """One line, received `local` ms after `T0`."""
    return f"{T0 + local * 1_000_000} {json.dumps(message, separators=(',', ':'))}\n".encode()


def stream(local: int, name: str, data: object) -> bytes:
    return line(local, {"stream": name, "data": data})


def levels(*pairs: tuple[str, str]) -> list[list[str]]:
    return [list(pair) for pair in pairs]


def snapshot(local: int, last: int, bids: list[list[str]], asks: list[list[str]], **more: object) -> bytes:
    return line(local, {"lastUpdateId": last, **more, "bids": bids, "asks": asks})


def spot_depth(local: int, first: int, last: int, bids=(), asks=(), symbol: str = "BTCUSDT") -> bytes:
    data = {"e": "depthUpdate", "E": 1_723_161_256_000 + local, "s": symbol, "U": first, "u": last}
    return stream(local, "btcusdt@depth@100ms", data | {"b": list(bids), "a": list(asks)})


def spot_ticker(local: int, update: int, bid=("100.00", "1.0"), ask=("100.01", "2.0"), symbol="BTCUSDT") -> bytes:
    data = {"u": update, "s": symbol, "b": bid[0], "B": bid[1], "a": ask[0], "A": ask[1]}
    return stream(local, "btcusdt@bookTicker", data)


def trade(local: int, number: int, price: str, size: str, maker: bool, symbol="BTCUSDT", **more: object) -> bytes:
    time = 1_723_161_256_000 + local
    data = {"e": "trade", "E": time, "s": symbol, "t": number, "p": price, "q": size, "T": time, "m": maker}
    return stream(local, "btcusdt@trade", data | more)


def futures_depth(
    local: int, previous: int, first: int, last: int, bids=(), asks=(), symbol="BTCUSDT", **more
) -> bytes:
    time = 1_723_161_256_000 + local
    data = {"e": "depthUpdate", "E": time + 1, "T": time, "s": symbol, "U": first, "u": last, "pu": previous}
    return stream(local, "btcusdt@depth@0ms", data | {"b": list(bids), "a": list(asks)} | more)


def futures_ticker(local: int, update: int, bid, ask, symbol="BTCUSDT", **more: object) -> bytes:
    time = 1_723_161_256_000 + local
    data = {"e": "bookTicker", "u": update, "s": symbol, "b": bid[0], "B": bid[1], "a": ask[0], "A": ask[1]}
    return stream(local, "btcusdt@bookTicker", data | {"T": time, "E": time} | more)


SPOT = [
    spot_depth(0, 90, 95, [("99.00", "9.00000000")]),
    spot_depth(1, 96, 103, [("99.99", "3.00000000")], [("100.02", "0.00000000")]),
    spot_ticker(2, 103),
    snapshot(3, 100, levels(("99.98", "1.5"), ("99.00", "2")), levels(("100.01", "0.3"), ("100.02", "4"))),
    spot_ticker(4, 105, ("100.00000000", "0.12345678"), ("100.01000000", "2.00000000")),
    trade(5, 7, "100.01000000", "0.00017000", False),
    trade(5, 8, "100.00000000", "0.50000000", True),
    spot_depth(6, 104, 110),
    spot_depth(7, 111, 111, [], [("100.03", "0.00000000")]),
]
"""A whole spot capture: one old difference, one that brackets the snapshot, an empty one."""


def write(path: Path, *lines: bytes) -> Path:
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def refused(*paths: Path) -> str:
    with pytest.raises(CaptureError) as raised:
        read_captures(paths)
    message = str(raised.value)
    assert "\n" not in message
    assert str(raised.value.path) in [str(path) for path in paths]
    return message


STEP_MS = 20


def regular(count: int, begin: int = 0) -> list[bytes]:
    """A futures capture without line ends: a snapshot at `begin` ms after `T0`, then a message each `STEP_MS`.

    Difference, ticker, trade, ticker, in turn; each is received 1 s before it was sent, for the clock is behind.
    """
    lines = [snapshot(begin, 50, levels(("61800.0", "1"), ("61799.5", "4")), levels(("61800.1", "2")))]
    for k in range(count):
        local, update = begin + STEP_MS * (k + 1), 60 + 10 * k
        if k % 4 == 0:
            changed = [(f"6179{k // 4 % 9}.0", f"{k + 1}")]
            lines.append(futures_depth(local, max(50, update - 40), update - 9, update, changed))
        elif k % 4 == 2:
            lines.append(trade(local, k, "61800.1", "0.004", False))
        else:
            lines.append(futures_ticker(local, update, ("61800.0", f"{k}"), ("61800.1", "2")))
    return [text.rstrip(b"\n") for text in lines]
