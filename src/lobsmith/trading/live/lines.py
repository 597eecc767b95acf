"""Lines between a feed and the thread that answers them: the feed never waits."""

from collections import deque
from threading import Event

import msgspec

from lobsmith.market.venues.binance.messages import Line

_decode = msgspec.json.Decoder(Line).decode


class Lines:
    """A bounded queue of one symbol's lines; one thread puts, another takes.

    Attributes:
        refused: lines that found it full.
    """

    def __init__(self, longest: int) -> None:
        """Hold at most `longest` lines."""
        self.refused = 0
        self._longest = longest
        self._lines: deque[bytes] = deque()
        self._more = Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def full(self) -> bool:
        """Whether no line is taken any more."""
        return len(self._lines) >= self._longest

    def put(self, local: int, text: bytes) -> bool:
        """Take a line without waiting; return False where there are too many."""
        if self.full:
            self.refused += 1
            return False
        self._lines.append(b"%d %b\n" % (local, text))
        self._more.set()
        return True

    def close(self) -> None:
        """Say that no line will follow."""
        self._closed = True
        self._more.set()

    def take(self, longest_s: float) -> bytes | None:
        """Return the lines that wait, together; wait for the first at most so long. None after the last one."""
        if not self._lines:
            if self._closed:
                return None
            self._more.wait(longest_s)
        self._more.clear()
        # The feed puts more meanwhile.
        taken = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._closed:
            self._more.set()
        return b"".join(taken)


def is_readable(text: bytes) -> bool:
    """Say whether a message decodes: one that does not would make the whole capture unreadable."""
    try:
        message = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    data = message.data or message
    return b"\n" not in text and (data.event != "depthUpdate" or min(data.first, data.last) >= 0)
