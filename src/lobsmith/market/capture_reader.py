"""The interface of a venue's reader: batches of events with the places of their records."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lobsmith.market.events import Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger


class Batch(NamedTuple):
    """Events of whole messages, and the place (see `ledger`) of each event's record."""

    events: Events
    places: npt.NDArray[np.int64]


class CaptureReader(Protocol):
    """Reads one instrument's capture.

    It decodes, checks the venue's continuity rules (update ids, snapshots), counts records and messages in the ledger,
    quarantines what the ids show as lost, repeated or late, and writes `GAP` for missing messages and `CLEAR` where a
    book begins. Checks that need no knowledge of the format (clocks, staleness, crossed books) are the screen's.
    """

    @property
    def instrument(self) -> Instrument:
        """What is traded; known from the first batch on."""

    @property
    def ticker_feed(self) -> bool:
        """Whether the venue sends its best bid and ask; else the screen derives them from the book.

        Known from the first batch on. Without a ticker feed, sequences must rise from message to message.
        """

    def batches(self) -> Iterator[Batch]:
        """Read everything, in the order of arrival, in batches of bounded size.

        Raises:
            CaptureError: a file is missing, empty, damaged or of the wrong format.
        """


class Format(NamedTuple):
    """A venue's format: how to recognise its first line and open files of one instrument."""

    name: str
    sniff: Callable[[bytes], bool]
    open: Callable[[Sequence[Path], Ledger], CaptureReader]
    key: Callable[[Path], str] | None = None
    """Names a file's instrument where the file's own first batch cannot."""

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
