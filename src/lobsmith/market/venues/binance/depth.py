"""Continuity of Binance's depth messages: which change the book, in which order.

A difference has the update id before its first change (`start`: spot `U - 1`, futures `pu`) and its last one (`u`).
Consecutive differences have `start` equal to the previous `u`; the first after a snapshot has `start <= lastUpdateId
<= u`, older ones are dropped. Futures ids have holes between differences; a snapshot there is valid, since `pu`
excludes a loss.

An early difference may be swapped with its predecessor: it and all messages after it are held for a moment, so that no
row is made from an incomplete book.
"""

from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.units import NS_PER_S

_BUFFERED = 10_000
"""Differences buffered before a snapshot."""
_REMEMBERED = 4_096
"""Differences kept to distinguish repeated from late ones."""
_HELD = 8
_HELD_NS = NS_PER_S


Value = tuple[int, int] | bytes
"""Raw JSON, or its start and stop in the text."""


def _copied(value: Value, text: bytes) -> bytes:
    return value if isinstance(value, bytes) else text[slice(*value)]


class DepthUpdate(NamedTuple):
    """A depth message; `start` and `last` are update ids."""

    local: int
    exchange: int
    start: int
    last: int
    bids: Value
    asks: Value
    place: int

    def kept(self, text: bytes) -> "DepthUpdate":
        """Return a copy independent of the text."""
        return self._replace(bids=_copied(self.bids, text), asks=_copied(self.asks, text))


class Outcome(Enum):
    """A difference's effect."""

    APPLIED = auto()
    """`Continuity.ready` holds the updates to apply."""
    NOTHING = auto()
    """Quarantined or buffered."""
    HELD = auto()
    """Early; later messages wait."""
    LOST = auto()
    """Messages are missing: the book is void from the hold, or from here."""


class Continuity:
    """A stream's update ids, and differences that wait for a snapshot or a predecessor."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.synchronised = False
        self.waiting_for = QuarantineReason.BEFORE_SNAPSHOT
        """Reason to quarantine records while not synchronised."""
        self.ready: list[DepthUpdate] = []
        self.last = -1
        self.inclusive = False
        """Futures: a difference with the snapshot's own update id is still applied."""
        self._fresh = False  # no difference since the snapshot
        self._early: list[DepthUpdate] = []
        self._buffer: deque[DepthUpdate] = deque()
        self._seen: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)

    @property
    def holding(self) -> bool:
        """Whether an early difference waits."""
        return bool(self._early)

    def _older(self, difference: DepthUpdate, snapshot: int) -> bool:
        return difference.last < snapshot if self.inclusive else difference.last <= snapshot

    def process(self, update: DepthUpdate) -> Outcome:
        """Process the next difference."""
        if not self.synchronised:
            self._wait(update)
            return Outcome.NOTHING
        if update.start == self.last or (
            self._fresh and update.start < self.last and not self._older(update, self.last)
        ):
            self._apply(update)
            return Outcome.APPLIED
        if self._fresh and self._older(update, self.last):
            self.ledger.quarantine(QuarantineReason.OLD_DIFFERENCE, update.place, update.local)
            return Outcome.NOTHING
        if update.last <= self.last:
            reason = (
                QuarantineReason.DUPLICATE
                if (update.start, update.last) in self._seen
                else QuarantineReason.OUT_OF_ORDER
            )
            self.ledger.fault(reason)
            self.ledger.quarantine(reason, update.place, update.local)
            return Outcome.NOTHING
        if update.start > self.last and not self._fresh:
            if any(update.last == early.last for early in self._early):
                self.ledger.fault(QuarantineReason.DUPLICATE)
                self.ledger.quarantine(QuarantineReason.DUPLICATE, update.place, update.local)
                return Outcome.NOTHING
            self._early.append(update)
            return Outcome.LOST if self.overdue(update.local) else Outcome.HELD
        self._early.append(update)
        return Outcome.LOST

    def overdue(self, local: int) -> bool:
        """Return whether a held difference waits too long."""
        return len(self._early) > _HELD or bool(self._early and local - self._early[0].local > _HELD_NS)

    def _apply(self, update: DepthUpdate) -> None:
        """Make a difference and its held successors ready."""
        self.ready = [update]
        self._fresh = False
        self.last = update.last
        self._seen.append((update.start, update.last))
        if not self._early:
            return
        self.ledger.fault(QuarantineReason.OUT_OF_ORDER)
        self._early.sort(key=lambda early: early.last)
        while self._early and self._early[0].start == self.last:
            early = self._early.pop(0)
            self.ready.append(early._replace(local=update.local))
            self.last = early.last
            self._seen.append((early.start, early.last))

    def void(self, reason: QuarantineReason) -> None:
        """Void the book until the next snapshot."""
        if self.synchronised:
            self.ledger.fault(reason)
            self.synchronised = False
            self.waiting_for = reason
        waiting, self._early = self._early, []
        for update in waiting:
            self._wait(update)

    def _wait(self, update: DepthUpdate) -> None:
        self._buffer.append(update)
        if len(self._buffer) > _BUFFERED:
            left = self._buffer.popleft()
            self.ledger.quarantine(self.waiting_for, left.place, left.local)

    def begin(self, snapshot: int, place: int, local: int) -> bool:
        """Process a snapshot; `ready` then holds the buffered differences after it.

        Returns:
            Whether the book begins anew.
        """
        if self.synchronised and snapshot < self.last:
            self.ledger.quarantine(QuarantineReason.OLD_SNAPSHOT, place, local)
            return False
        # Sorting repairs swapped neighbours.
        buffered = sorted(self._buffer, key=lambda update: update.last)
        newer = [update for update in buffered if not self._older(update, snapshot)]
        if newer and newer[0].start > snapshot:
            self.ledger.quarantine(QuarantineReason.OLD_SNAPSHOT, place, local)
            return False
        if buffered != list(self._buffer):
            self.ledger.fault(QuarantineReason.OUT_OF_ORDER)
        self._buffer = deque()
        self.synchronised = self._fresh = True
        self.last = snapshot
        ready: list[DepthUpdate] = []
        broken = False
        for update in buffered:
            if broken:
                self._wait(update)
                continue
            outcome = self.process(update)
            if outcome is Outcome.APPLIED:
                ready += [applied._replace(local=local) for applied in self.ready]
            elif outcome in (Outcome.HELD, Outcome.LOST):
                # No late predecessor can close a hole here.
                broken = True
                self.void(QuarantineReason.GAP)
        self.ready = ready
        return True

    def keep(self, text: bytes) -> None:
        """Copy waiting values out of a text before it is dropped."""
        self._early = [update.kept(text) for update in self._early]
        self._buffer = deque(update.kept(text) for update in self._buffer)

    def finish(self) -> None:
        """Quarantine what still waits."""
        for update in self._buffer:
            self.ledger.quarantine(self.waiting_for, update.place, update.local)
        self._buffer.clear()
