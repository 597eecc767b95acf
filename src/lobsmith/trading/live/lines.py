"""Queue of lines between a feed, which never waits, and a stream."""

from collections import deque
from threading import Event

import msgspec

from lobsmith.market.venues.binance.messages import Line

_decode = msgspec.json.Decoder(Line).decode


class Lines:
    """A bounded queue of one symbol's lines, for one producer and one consumer.

    Attributes:
        refused: lines that found it full.
    """

    def __init__(self, longest: int) -> None:
        self.refused = 0
        self._longest = longest
        self._lines: deque[bytes] = deque()
        self._more = Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return len(self._lines) >= self._longest

    def put(self, local: int, text: bytes) -> bool:
        """Queue a line without waiting; return False where full."""
        if self.full:
            self.refused += 1
            return False
        self._lines.append(b"%d %b\n" % (local, text))
        self._more.set()
        return True

    def close(self) -> None:
        """Announce the end of the lines."""
        self._closed = True
        self._more.set()

    def take(self, longest_s: float) -> bytes | None:
        """Return all queued lines, joined, after at most `longest_s` without any; None after the last."""
        if not self._lines:
            if self._closed:
                return None
            self._more.wait(longest_s)
        self._more.clear()
        # The feed puts more meanwhile.
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._closed:
            self._more.set()
        return b"".join(lines)


def is_readable(text: bytes) -> bool:
    """Whether a message decodes; another makes the whole capture unreadable."""
    try:
        message = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    data = message.data or message
    return b"\n" not in text and (data.event != "depthUpdate" or min(data.first, data.last) >= 0)
