"""Feed faults injected into the lines of a raw Binance capture, real or simulated.

Each function takes the lines and where to act, and returns the new lines together with the numbers, counted from 0
among the *new* lines, of those that the fault has made wrong. What a reader and the screen find can be held against
them.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from lobsmith.errors import DataError

_STAMP = 19
_NS_PER_MS = 1_000_000
_EXCHANGE_TIMES = re.compile(rb'"([ET])":(\d+)')

DEPTH, TICKER, TRADE = b"@depth", b"@bookTicker", b"@trade"


class Injected(NamedTuple):
    """Lines with a fault in them."""

    lines: list[bytes]
    wrong: list[int]


def find(lines: Sequence[bytes], stream: bytes, start: int, count: int = 1) -> list[int]:
    """Return the numbers of the next lines of a stream.

    Raises:
        DataError: there are not as many.
    """
    indices = [n for n in range(start, len(lines)) if stream in lines[n][:80]][:count]
    if len(indices) < count:
        raise DataError(f"fewer than {count} lines of {stream.decode()} from line {start + 1} on")
    return indices


def local_time(line: bytes) -> int:
    """Return a line's local receive time, ns."""
    return int(line[:_STAMP])


def _stamped(line: bytes, local: int) -> bytes:
    return str(local).encode() + line[_STAMP:]


def _body(line: bytes) -> dict[str, Any]:
    message: dict[str, Any] = msgspec.json.decode(line[_STAMP + 1 :])
    return message


def _written(local: int, message: dict[str, Any]) -> bytes:
    return str(local).encode() + b" " + msgspec.json.encode(message)


def gap(lines: Sequence[bytes], start: int, count: int = 1) -> Injected:
    """Lose depth messages. `wrong` is empty: what is wrong is not there."""
    lost = set(find(lines, DEPTH, start, count))
    return Injected([line for n, line in enumerate(lines) if n not in lost], [])


def duplicate(lines: Sequence[bytes], start: int, stream: bytes = DEPTH, later: int = 5) -> Injected:
    """Repeat a message some lines after itself."""
    (at,) = find(lines, stream, start)
    place = at + later
    again = _stamped(lines[at], local_time(lines[place - 1]))
    return Injected([*lines[:place], again, *lines[place:]], [place])


def reorder(lines: Sequence[bytes], start: int, stream: bytes = DEPTH) -> Injected:
    """Deliver two messages of a stream that follow each other the wrong way round."""
    first, second = find(lines, stream, start, 2)
    mixed = list(lines)
    mixed[first], mixed[second] = (
        _stamped(lines[b], local_time(lines[a])) for a, b in ((first, second), (second, first))
    )
    return Injected(mixed, [first, second])


def crossed(lines: Sequence[bytes], start: int, *, locked: bool = False, by: float = 1.0) -> Injected:
    """Let a ticker's bid reach its ask, or pass it by an amount, in the quote currency."""
    (at,) = find(lines, TICKER, start)
    message = _body(lines[at])
    data = message["data"]
    decimals = len(data["a"].partition(".")[2])
    data["b"] = data["a"] if locked else f"{float(data['a']) + by:.{decimals}f}"
    return Injected([*lines[:at], _written(local_time(lines[at]), message), *lines[at + 1 :]], [at])


def crossed_depth(lines: Sequence[bytes], start: int, price: str, until: int, *, size: str = "1.000") -> Injected:
    """Put a bid far above the market into a depth message, and take it out of a later one: a level without an order."""
    (at,) = find(lines, DEPTH, start)
    (end,) = find(lines, DEPTH, until)
    mixed = list(lines)
    for place, amount in ((at, size), (end, "0.000")):
        message = _body(lines[place])
        message["data"]["b"].append([price, amount])
        mixed[place] = _written(local_time(lines[place]), message)
    return Injected(mixed, list(range(at, end)))


def stale(lines: Sequence[bytes], start: int, seconds: float) -> Injected:
    """Hold everything back for a while, then deliver it in a burst, at 0.1 ms a message."""
    begin = local_time(lines[start])
    end = begin + int(seconds * 1e9)
    held = [n for n in range(start, len(lines)) if local_time(lines[n]) < end]
    mixed = list(lines)
    for place, n in enumerate(held):
        mixed[n] = _stamped(lines[n], end + place * 100_000)
    last = local_time(mixed[held[-1]])
    for n in range(held[-1] + 1, len(lines)):
        if local_time(lines[n]) >= last:
            break
        last += 1_000
        mixed[n] = _stamped(lines[n], last)
    return Injected(mixed, held)


def silence(lines: Sequence[bytes], start: int, seconds: float) -> Injected:
    """Let nothing happen for a while: both clocks go on, the feed does not."""
    shift = int(seconds * 1e9)
    mixed = list(lines[:start])
    for line in lines[start:]:
        moved = _EXCHANGE_TIMES.sub(lambda match: _moved(match, shift), line[_STAMP:])
        mixed.append(str(local_time(line) + shift).encode() + moved)
    return Injected(mixed, [])


def _moved(match: re.Match[bytes], shift: int) -> bytes:
    return b'"%s":%d' % (match[1], int(match[2]) + shift // _NS_PER_MS)


def clock_step(lines: Sequence[bytes], start: int, seconds: float) -> Injected:
    """Set the local clock forwards, or back, from a line on."""
    shift = int(seconds * 1e9)
    return Injected(
        [*lines[:start], *(_stamped(line, local_time(line) + shift) for line in lines[start:])],
        list(range(start, len(lines))),
    )


def negative_latency(lines: Sequence[bytes], start: int, seconds: float, stream: bytes = TRADE) -> Injected:
    """Let one message claim to be sent later than it was received."""
    (at,) = find(lines, stream, start)
    shift = int(seconds * 1e9)
    moved = _EXCHANGE_TIMES.sub(lambda match: _moved(match, shift), lines[at][_STAMP:])
    return Injected([*lines[:at], lines[at][:_STAMP] + moved, *lines[at + 1 :]], [at])


def snapshot(lines: Sequence[bytes], at: int) -> bytes:
    """Return the REST snapshot that a capture would have as line `at`: all levels that the lines before left.

    It is built with plain dictionaries, and ignores gaps: take the lines as they were before any fault.
    """
    sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    last = -1
    begun = False
    for line in lines[:at]:
        if b'"lastUpdateId"' in line[:80]:
            message = _body(line)
            sides = {"b": dict(message["bids"]), "a": dict(message["asks"])}
            last, begun = message["lastUpdateId"], True
        elif DEPTH in line[:80] and begun:
            data = _body(line)["data"]
            if data["u"] < last:
                continue
            last = data["u"]
            for side, levels in sides.items():
                for price, size in data[side]:
                    levels[price] = size
                    if not float(size):
                        del levels[price]
    message = {
        "lastUpdateId": last,
        "bids": [list(level) for level in sides["b"].items()],
        "asks": [list(level) for level in sides["a"].items()],
    }
    return _written(local_time(lines[at]), message)


def with_snapshot(injected: Injected, clean: Sequence[bytes], at: int) -> Injected:
    """Insert, at line `at` of the clean capture, the snapshot that mends it; `at` must lie behind what was injected."""
    shift = len(injected.lines) - len(clean)
    place = at + shift
    return Injected([*injected.lines[:place], snapshot(clean, at), *injected.lines[place:]], injected.wrong)
