"""What a reader makes of files by itself, before the screen, and the books that come of it."""

from pathlib import Path

import numpy as np

from lobsmith.market.book import apply, levels, new_book
from lobsmith.market.events import ASK, BID, END, TRADE, Events, concatenate
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.venues.formats import open_reader

Side = list[tuple[int, float]]


def read(paths: list[Path], ledger: Ledger | None = None) -> tuple[Events, list[int]]:
    """Return all events, and for each the line of its file."""
    ledger = ledger or Ledger()
    batches = list(open_reader(paths, ledger).batches())
    return concatenate([b.events for b in batches]), [ledger.where(int(p))[1] for b in batches for p in b.places]


def books(events: Events, lines: list[int]) -> list[tuple[int, Side, Side]]:
    """Return (line, bids, asks) after each message of the book, in ticks, best first."""
    book = new_book()
    shown = []
    columns = (events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    for line, *event in zip(lines, *columns, strict=True):
        apply(book, *event)
        if event[5] & END and event[0] != TRADE:
            shown.append((line, side_of(book, BID), side_of(book, ASK)))
    return shown


def side_of(book: np.ndarray, side: int) -> Side:  # type: ignore[type-arg]
    prices, sizes = np.zeros(64, np.int64), np.zeros(64)
    count = levels(book, side, prices, sizes)
    return list(zip(prices[:count].tolist(), sizes[:count].tolist(), strict=True))
