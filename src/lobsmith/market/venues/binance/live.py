"""Where Binance's markets are, and what their messages say about continuity."""

from typing import NamedTuple

import msgspec
from msgspec import Struct


class Endpoint(NamedTuple):
    """One market's public addresses."""

    prefix: str
    websocket: str
    rest: str
    depth_path: str
    depth_limit: int
    depth_stream: str


MARKETS = {
    "spot": Endpoint(
        "spot", "wss://stream.binance.com:9443", "https://api.binance.com", "/api/v3/depth", 5000, "depth@100ms"
    ),
    "usdm": Endpoint(
        "usdm", "wss://fstream.binance.com", "https://fapi.binance.com", "/fapi/v1/depth", 1000, "depth@100ms"
    ),
    "coinm": Endpoint(
        "coinm", "wss://dstream.binance.com", "https://dapi.binance.com", "/dapi/v1/depth", 1000, "depth@100ms"
    ),
}


class _Ids(Struct):
    first: int = msgspec.field(name="U", default=-1)
    last: int = msgspec.field(name="u", default=-1)
    previous: int | None = msgspec.field(name="pu", default=None)


class _Envelope(Struct):
    stream: str = ""
    data: _Ids = msgspec.field(default_factory=_Ids)


_decode = msgspec.json.Decoder(_Envelope).decode


class Difference(NamedTuple):
    """The update id before a depth message's first change, and that of its last."""

    start: int
    last: int


def stream_of(text: bytes) -> tuple[str, str]:
    """Return symbol, in lower case, and kind of a combined stream's message; two empty strings for anything else."""
    if not text.startswith(b'{"stream":"'):
        return "", ""
    symbol, _, kind = text[11 : text.find(b'"', 11)].decode("latin-1").partition("@")
    return symbol.lower(), kind


def difference(text: bytes) -> Difference | None:
    """Return what a depth message says about continuity; None where it cannot be read."""
    try:
        ids = _decode(text).data
    except (msgspec.MsgspecError, ValueError):
        return None
    return Difference(ids.first - 1 if ids.previous is None else ids.previous, ids.last)


def snapshot_id(text: bytes) -> int | None:
    """Return a REST snapshot's update id; None where it is none."""
    try:
        found = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("lastUpdateId")
        return None if found is None else msgspec.json.decode(found, type=int)
    except (msgspec.MsgspecError, ValueError):
        return None
