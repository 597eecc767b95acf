"""Routes a feed's lines to the capture and to the streams."""

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from lobsmith.trading.live.capture import Capture
from lobsmith.trading.live.lines import is_readable
from lobsmith.trading.live.stream import LiveStream

_OVERFLOW = msgspec.json.encode({"gap": "the answers are too far behind"})


class Intake:
    """The sink of a feed: takes the lines of all symbols.

    A stream gets what is captured: the capture yields the same rows. Messages that do not decode go to neither.

    Attributes:
        unreadable: messages that do not decode, by symbol.
    """

    def __init__(
        self,
        streams: Mapping[str, LiveStream],
        capture: Capture | None,
        *,
        backpressure: bool,
        report: Callable[[str], None],
        resync: Callable[[str], None] = lambda _symbol: None,
    ) -> None:
        """Put a feed before streams.

        Args:
            streams: by symbol, lower case.
            capture: None captures nothing.
            backpressure: the feed waits for room; a venue cannot.
            report: called with a line for people.
            resync: requests a snapshot of a symbol.
        """
        self.unreadable: Counter[str] = Counter()
        self._streams = streams
        self._capture = capture
        self._backpressure = backpressure
        self._report = report
        self._resync = resync
        self._behind: set[str] = set()

    def put(self, symbol: str, local: int, text: bytes) -> bool:
        """See `lobsmith.market.live.websocket.Sink`."""
        stream = self._streams[symbol]
        if self._backpressure and stream.lines.full:
            return False
        if not is_readable(text):
            self.unreadable[symbol] += 1
            if self.unreadable[symbol] == 1:
                self._report(f"{symbol}: an unreadable message is left out: {text[:60]!r}; more are counted")
            return True
        if self._capture is not None and not self._capture.put(symbol, local, text):
            return False
        if symbol in self._behind:
            if not stream.lines.put(local, _OVERFLOW):
                return True
            self._behind.discard(symbol)
            self._resync(symbol)
        if not stream.lines.put(local, text):
            self._behind.add(symbol)
            self._report(
                f"{stream.instrument}: the predictions are too far behind; rows are left out until they catch up"
            )
        return True
