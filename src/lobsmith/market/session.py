"""A session: events of one instrument, sources, and the account of every record."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field

from lobsmith.market.capture_reader import Batch
from lobsmith.market.events import CLEAR, DTYPES, END, GAP, LEVEL, RESTATED, TICKER, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.quality.ledger import Ledger, QuarantineReason
from lobsmith.market.quality.screen import Screen
from lobsmith.params import ScreenParams
from lobsmith.units import NS_PER_S


class Accounting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of every record: `records == kept + sum(quarantined.values())`.

    `depth_messages`, `tickers`, `trades` and `snapshots` include quarantined messages.
    """

    records: int
    """Lines of the files; messages of a simulation."""
    kept: int
    quarantined: dict[str, int] = field(name="set_aside")
    """By `QuarantineReason`."""
    faults: dict[str, int]
    """Incidents by name, each counted once."""
    depth_messages: int
    tickers: int
    trades: int
    snapshots: int
    level_updates: int
    """`LEVEL` events read, snapshots included."""
    sequence_breaks: int
    missing_trades: int
    """Skipped trade ids, where they are consecutive."""
    crossed: int
    """Depth messages that left the book crossed or locked, and such tickers."""
    mid_changes: int
    segments: int
    seconds: float
    clock_offset_ns: int
    """Local minus exchange time without latency (see `screen`); 0 where the venue gives no time."""
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class Session:
    """Events of one instrument, in order of arrival, with account and sources."""

    instrument: Instrument
    events: Events
    accounting: Accounting
    sources: tuple[str, ...]


class Fingerprint:
    """SHA-256 of an instrument and its events, however they are cut: the digest of a digest per column."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._columns = {name: hashlib.sha256() for name in DTYPES}

    def update(self, events: Events) -> None:
        """Add the next events."""
        for name, digest in self._columns.items():
            digest.update(np.ascontiguousarray(getattr(events, name)).data)

    def hexdigest(self) -> str:
        """Return the fingerprint so far."""
        whole = hashlib.sha256(msgspec.json.encode(self._instrument, order="sorted"))
        for name, digest in self._columns.items():
            whole.update(f"{name}:{digest.hexdigest()};".encode())
        return whole.hexdigest()


def fingerprint(session: Session) -> str:
    """Return a session's fingerprint."""
    digest = Fingerprint(session.instrument)
    digest.update(session.events)
    return digest.hexdigest()


def without_restated(events: Events) -> Events:
    """Drop events restated at a day's start."""
    kept = events.flags & RESTATED == 0
    return events if kept.all() else Events(*(getattr(events, name)[kept] for name in DTYPES))


def close_account(ledger: Ledger, screen: Screen, level_updates: int) -> Accounting:
    """Finish the screen and return its account."""
    screen.finish()
    quarantined = {str(reason): count for reason, count in sorted(ledger.quarantined.items())}
    return Accounting(
        records=ledger.records,
        kept=ledger.records - sum(quarantined.values()),
        quarantined=quarantined,
        faults={str(name): count for name, count in sorted(ledger.faults.items())},
        depth_messages=ledger.depth_messages,
        tickers=ledger.tickers,
        trades=ledger.trades,
        snapshots=ledger.snapshots,
        level_updates=level_updates,
        sequence_breaks=ledger.faults[QuarantineReason.GAP],
        missing_trades=ledger.missing_trades,
        crossed=screen.crossed,
        mid_changes=screen.mid_changes,
        segments=screen.segments,
        seconds=(screen.last_ns - screen.first_ns) / NS_PER_S,
        clock_offset_ns=screen.clock_offset_ns,
        first_ns=screen.first_ns,
        last_ns=screen.last_ns,
    )


def add_accounts(accounts: Sequence[Accounting]) -> Accounting:
    """Return the total of accounts in time order; the clock offset is the last one's."""
    if len(accounts) == 1:
        return accounts[0]
    sums: dict[str, Any] = {}
    for part in accounts:
        for name, value in msgspec.structs.asdict(part).items():
            if isinstance(value, dict):
                total = Counter(sums.get(name, {}))
                total.update(value)
                sums[name] = dict(total)
            else:
                sums[name] = sums.get(name, 0) + value
    ends = {"clock_offset_ns": accounts[-1].clock_offset_ns, "first_ns": accounts[0].first_ns}
    return Accounting(**(sums | ends | {"last_ns": accounts[-1].last_ns}))


def account(events: Events, limits: ScreenParams | None = None) -> Accounting:
    """Return the account of unscreened events; a message is a record."""
    ledger = Ledger()
    first = np.concatenate([np.ones(min(1, len(events)), np.bool_), (events.flags[:-1] & END) > 0])
    kinds = events.kind[first]
    ledger.snapshots, ledger.depth_messages, ledger.tickers, ledger.trades = (
        int(np.count_nonzero(kinds == kind)) for kind in (CLEAR, LEVEL, TICKER, TRADE)
    )
    ledger.records = len(kinds) - int(np.count_nonzero(kinds == GAP))
    gaps = int(np.count_nonzero(kinds == GAP))
    if gaps:
        ledger.faults[QuarantineReason.GAP] = gaps
    screen = Screen(limits or ScreenParams(), ledger, ticker_feed=True)
    screen.push(Batch(events, np.zeros(len(events), np.int64)))
    return close_account(ledger, screen, int(np.count_nonzero(events.kind == LEVEL)))
