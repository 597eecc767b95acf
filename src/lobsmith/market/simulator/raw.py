"""A session as a raw capture of Binance's USD-M feed."""

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from lobsmith.files import write_atomic
from lobsmith.market.events import ASK, BID, CLEAR, DTYPES, END, GAP, LEVEL, TICKER, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.session import Session
from lobsmith.units import NS_PER_MS

_DECIMALS = 8
_BLOCK = 1 << 14  # bounds memory: Python numbers take ten times a column's


def _rows(events: Events) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(events), _BLOCK):
        block = events.slice(start, start + _BLOCK)
        yield from zip(*(getattr(block, name).tolist() for name in DTYPES), strict=True)


def raw_lines(session: Session) -> Iterator[bytes]:
    """Yield a session as lines of a raw capture."""
    return (str(local).encode() + b" " + text for local, text in messages(session.instrument, [session.events]))


def messages(instrument: Instrument, parts: Iterable[Events]) -> Iterator[tuple[int, bytes]]:
    """Yield messages' local time and JSON.

    Exchange times are truncated to milliseconds. A gap becomes the capture's mark of a lost connection.
    """
    symbol, stream = instrument.symbol, instrument.symbol.lower()
    previous = 0
    snapshot = False
    sides: dict[int, list[tuple[str, str]]] = {BID: [], ASK: []}
    for exchange, local, kind, side, flags, price, size, sequence in chain.from_iterable(map(_rows, parts)):
        if kind == CLEAR:
            snapshot = True
        elif kind in (LEVEL, TICKER):
            sides[side].append((f"{price * instrument.tick_size:.{_DECIMALS}f}", f"{size:.{_DECIMALS}f}"))
        if not flags & END:
            continue
        time = exchange // NS_PER_MS
        common = {"E": time, "T": time, "s": symbol}
        bids, asks = sides[BID], sides[ASK]
        sides = {BID: [], ASK: []}
        if kind == GAP:
            message: dict[str, object] = {"gap": "the session has one here"}
        elif kind == TICKER:
            (bid, bid_size), (ask, ask_size) = bids[0], asks[0]
            data = {"e": "bookTicker", "u": sequence, "b": bid, "B": bid_size, "a": ask, "A": ask_size} | common
            message = {"stream": f"{stream}@bookTicker", "data": data}
        elif snapshot:
            message = {"lastUpdateId": sequence, "E": time, "T": time, "bids": bids, "asks": asks}
            previous, snapshot = sequence, False
        elif kind == LEVEL:
            ids = {"U": previous + 1, "u": sequence, "pu": previous}
            data = {"e": "depthUpdate", **common, **ids, "b": bids, "a": asks}
            message = {"stream": f"{stream}@depth@100ms", "data": data}
            previous = sequence
        else:
            amount = {"p": f"{price * instrument.tick_size:.{_DECIMALS}f}", "q": f"{size:.{_DECIMALS}f}"}
            data = {"e": "trade", **common, "t": sequence, **amount, "X": "MARKET", "m": side == ASK}
            message = {"stream": f"{stream}@trade", "data": data}
        yield local, msgspec.json.encode(message)


def write_raw(session: Session, path: Path) -> None:
    """Write a raw capture atomically; gzip if the name ends with `.gz`."""
    content = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=content, mtime=0) if path.suffix == ".gz" else nullcontext(content) as file:
        file.writelines(line + b"\n" for line in raw_lines(session))
    write_atomic(path, content.getvalue())
