"""What a reader of a venue's format offers: batches of events, each with the place it came from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lobsmith.market.events import Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger


class Batch(NamedTuple):
    """Some whole messages: their events, and for each event the place (see `ledger`) of its record."""

    events: Events
    places: npt.NDArray[np.int64]


class CaptureReader(Protocol):
    """One instrument's recorded files while they are read.

    The reader knows the format: it decodes, keeps the venue's own rules of continuity (update ids, snapshots), counts
    records and kinds of messages in the ledger, sets aside what its ids show to be lost, repeated or late, and writes
    `GAP` where messages are missing and `CLEAR` where a book begins. What can be judged without knowing the format
    (clocks, staleness, crossed books) is left to the screen.
    """

    @property
    def instrument(self) -> Instrument:
        """What is traded; known once the first batch has come."""

    @property
    def ticker_feed(self) -> bool:
        """Whether the venue sends its best bid and ask by itself; else the screen writes them from the book.

        Known once the first batch has come. Without a ticker feed, sequences must rise from message to message.
        """

    def batches(self) -> Iterator[Batch]:
        """Read everything, in the order of arrival, in batches of bounded size.

        Raises:
            CaptureError: a file is missing, empty, damaged or not what it should be.
        """


class Format(NamedTuple):
    """A venue's format: how a first line is recognised, and how files of one instrument are opened."""

    name: str
    sniff: Callable[[bytes], bool]
    open: Callable[[Sequence[Path], Ledger], CaptureReader]
    key: Callable[[Path], str] | None = None
    """Tells which instrument a file belongs to where its first batch, read alone, cannot."""

    def identify(self, path: Path) -> str:
        """Return a name that files of one instrument share.

        Raises:
            CaptureError: the file cannot be read.
        """
        if self.key is not None:
            return self.key(path)
        reader = self.open([path], Ledger())
        next(reader.batches())
        return str(reader.instrument)
