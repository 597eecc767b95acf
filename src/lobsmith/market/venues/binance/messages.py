"""JSON messages of Binance's market streams."""

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Raw, Struct

from lobsmith.units import NS_PER_MS

_DIGITS = {19: 1, 16: 1_000}
"""ns a unit by digits of the local receive time: ns or, in older captures, µs; valid from 2001 to 2262."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Message(Struct, gc=False):
    """All messages' fields; numbers in strings stay raw."""

    event: str = msgspec.field(name="e", default="")
    time: Count = msgspec.field(name="E", default=0)
    transaction: Count = msgspec.field(name="T", default=0)
    symbol: str = msgspec.field(name="s", default="")
    pair: str = msgspec.field(name="ps", default="")
    first: Count = msgspec.field(name="U", default=-1)
    last: Count = msgspec.field(name="u", default=-1)
    previous: int = msgspec.field(name="pu", default=-2)  # futures; -1 in the very first message of a contract
    bids: Raw = msgspec.field(name="b", default=Raw())
    asks: Raw = msgspec.field(name="a", default=Raw())
    bid_size: Raw = msgspec.field(name="B", default=Raw())
    ask_size: Raw = msgspec.field(name="A", default=Raw())
    trade: Count = msgspec.field(name="t", default=-1)
    price: Raw = msgspec.field(name="p", default=Raw())
    quantity: Raw = msgspec.field(name="q", default=Raw())
    execution: str = msgspec.field(name="X", default="MARKET")
    maker: bool | None = msgspec.field(name="m", default=None)


class Line(Message, gc=False):
    """A line's JSON: envelope, snapshot or bare message."""

    stream: str = ""
    data: Message | None = None
    snapshot: Count = msgspec.field(name="lastUpdateId", default=-1)
    gap: str | None = None  # the capture's mark
    snapshot_bids: Raw = msgspec.field(name="bids", default=Raw())
    snapshot_asks: Raw = msgspec.field(name="asks", default=Raw())


def stamp_of(line: bytes) -> tuple[int, int] | None:
    """Return a line's local receive time, ns, and its end; None without one."""
    end = line.find(b" ", 0, 20)
    unit = _DIGITS.get(end)
    if unit is None or not line[:end].isdigit():
        return None
    return int(line[:end]) * unit, end


def sniff(line: bytes) -> bool:
    """Return whether a capture's first line has this format."""
    stamp = stamp_of(line)
    if stamp is None or not line[stamp[1] :].lstrip(b" \t").startswith(b"{"):
        return False
    try:
        keys = msgspec.json.decode(line[stamp[1] :], type=dict[str, Raw]).keys()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return bool(keys & {"stream", "lastUpdateId", "e", "u", "result", "error", "gap"})


def to_nanoseconds(times: npt.NDArray[np.int64]) -> int:
    """Scale exchange times to ns in place; return the first index out of range, else -1.

    Milliseconds, or microseconds (spot, optionally), by magnitude.
    """
    milliseconds, microseconds = times < 9 * 10**12, (times >= 10**14) & (times < 9 * 10**15)
    wrong = ~(milliseconds | microseconds | (times >= 10**17))
    times[milliseconds] *= NS_PER_MS
    times[microseconds] *= 1_000
    return int(np.argmax(wrong)) if wrong.any() else -1
