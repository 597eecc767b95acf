"""The interface of a venue's reader."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lobsmith.market.events import Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger


class Batch(NamedTuple):
    """Whole messages' events, with their records' places (see `ledger`)."""

    events: Events
    places: npt.NDArray[np.int64]


class CaptureReader(Protocol):
    """Reads one instrument's capture.

    It decodes, checks the venue's continuity rules, counts records in the ledger, quarantines lost, repeated and late
    ones, and writes `GAP` for missing messages and `CLEAR` where a book begins. The screen does all other checks.
    """

    @property
    def instrument(self) -> Instrument:
        """What is traded; known from the first batch on."""

    @property
    def ticker_feed(self) -> bool:
        """Whether the venue sends tickers; known from the first batch on.

        Else the screen derives them, and sequences must rise from message to message.
        """

    def batches(self) -> Iterator[Batch]:
        """Read everything in the order of arrival, in bounded batches.

        Raises:
            CaptureError: a file is missing, empty, damaged or of the wrong format.
        """


class Format(NamedTuple):
    """Recognises a venue's format and opens its files."""

    name: str
    sniff: Callable[[bytes], bool]
    open: Callable[[Sequence[Path], Ledger], CaptureReader]
    key: Callable[[Path], str] | None = None
    """Names a file's instrument where its first batch cannot."""

    def identify(self, path: Path) -> str:
        """Return a name common to an instrument's files.

        Raises:
            CaptureError: the file cannot be read.
        """
        if self.key is not None:
            return self.key(path)
        reader = self.open([path], Ledger())
        next(reader.batches())
        return str(reader.instrument)
