"""The event schema of every source.

An event is one change: a level's size, one side of a ticker, a trade, the clearing of the book, a gap. Events of one
message are adjacent and the last carries `END`; only there is the book consistent. Columns, each [N]:

| column          | type    | meaning |
|-----------------|---------|---------|
| `exchange_time` | int64   | the venue's time, ns since 1970 UTC; 0 where it gives none |
| `local_time`    | int64   | receive time, ns since 1970 UTC; never decreases within a segment |
| `kind`          | uint8   | one of the kinds below |
| `side`          | int8    | +1 bid or buyer-initiated trade, -1 ask or seller-initiated trade, 0 neither |
| `flags`         | uint8   | `END`, `RESTATED` |
| `price`         | int64   | ticks |
| `size`          | float64 | base units; a `LEVEL` of size 0 removes the level |
| `sequence`      | int64   | update id, or trade id for trades |
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 1
"""A level's new size."""
TICKER = 2
"""The venue's best price and size of one side; a bid and an ask event make a message."""
TRADE = 3
"""A trade; `side` is the aggressor's."""
CLEAR = 4
"""Empties the book; a snapshot's levels follow in the message."""
GAP = 5
"""Messages were lost; the segment ends. No feature window, label or training sequence crosses it."""

BID = 1
ASK = -1

END = 1
RESTATED = 2
"""Repeats the book at the start of a UTC day; a continuous stream omits it."""


@dataclass(frozen=True)
class Events:
    """Event columns of one instrument, in the order of arrival."""

    exchange_time: npt.NDArray[np.int64]
    local_time: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    side: npt.NDArray[np.int8]
    flags: npt.NDArray[np.uint8]
    price: npt.NDArray[np.int64]
    size: npt.NDArray[np.float64]
    sequence: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.local_time)

    def slice(self, start: int, stop: int) -> "Events":
        """Return events `start` to `stop` as views."""
        return Events(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def message_bounds(self) -> npt.NDArray[np.int64]:
        """Return int64 [M + 1]: message m is events `bounds[m]` to `bounds[m + 1]`."""
        ends = np.flatnonzero(self.flags & END) + 1
        return np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])


DTYPES: dict[str, type[np.generic]] = {
    "exchange_time": np.int64,
    "local_time": np.int64,
    "kind": np.uint8,
    "side": np.int8,
    "flags": np.uint8,
    "price": np.int64,
    "size": np.float64,
    "sequence": np.int64,
}


def concatenate(parts: list[Events]) -> Events:
    """Join events end to end."""
    columns: list[Any] = [
        np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0, dtype)
        for name, dtype in DTYPES.items()
    ]
    return Events(*columns)
