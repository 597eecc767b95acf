"""Binance's endpoints, and the update ids of their messages."""

from typing import NamedTuple

import msgspec
from msgspec import Struct


class VenueEndpoint(NamedTuple):
    """One market's public addresses."""

    prefix: str
    venue: str
    websocket: str
    rest: str
    depth_path: str
    depth_limit: int
    depth_stream: str
    listing_path: str


MARKETS = {
    "spot": VenueEndpoint(
        prefix="spot",
        venue="binance-spot",
        websocket="wss://stream.binance.com:9443",
        rest="https://api.binance.com",
        depth_path="/api/v3/depth",
        depth_limit=5000,
        depth_stream="depth@100ms",
        listing_path="/api/v3/exchangeInfo",
    ),
    "usdm": VenueEndpoint(
        prefix="usdm",
        venue="binance-usdm",
        websocket="wss://fstream.binance.com",
        rest="https://fapi.binance.com",
        depth_path="/fapi/v1/depth",
        depth_limit=1000,
        depth_stream="depth@100ms",
        listing_path="/fapi/v1/exchangeInfo",
    ),
    "coinm": VenueEndpoint(
        prefix="coinm",
        venue="binance-coinm",
        websocket="wss://dstream.binance.com",
        rest="https://dapi.binance.com",
        depth_path="/dapi/v1/depth",
        depth_limit=1000,
        depth_stream="depth@100ms",
        listing_path="/dapi/v1/exchangeInfo",
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


class UpdateIds(NamedTuple):
    """The update id before a message's first change, and its last."""

    start: int
    last: int


def stream_of(text: bytes) -> tuple[str, str]:
    """Return a message's symbol, in lower case, and stream kind; else empty strings."""
    if not text.startswith(b'{"stream":"'):
        return "", ""
    symbol, _, kind = text[11 : text.find(b'"', 11)].decode("latin-1").partition("@")
    return symbol.lower(), kind


def difference(text: bytes) -> UpdateIds | None:
    """Return a depth message's update ids; None if unreadable."""
    try:
        ids = _decode(text).data
    except (msgspec.MsgspecError, ValueError):
        return None
    return UpdateIds(ids.first - 1 if ids.previous is None else ids.previous, ids.last)


def snapshot_id(text: bytes) -> int | None:
    """Return a REST snapshot's update id; None if there is none."""
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("lastUpdateId")
        return None if raw is None else msgspec.json.decode(raw, type=int)
    except (msgspec.MsgspecError, ValueError):
        return None
