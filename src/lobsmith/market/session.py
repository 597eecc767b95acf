"""A recorded or simulated session: its events, where they came from, and the account of every message."""

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.files import write_atomic
from lobsmith.market.book import new_book, replay
from lobsmith.market.events import CLEAR, DTYPES, END, GAP, LEVEL, TICKER, TRADE, Events
from lobsmith.market.instrument import Instrument

_KEY = b"lobsmith.session"


class Accounting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of every message: `messages == kept + sum(set_aside.values())`.

    `depth_messages`, `tickers`, `trades` and `snapshots` count all messages of their kind, those set aside too.
    """

    messages: int
    depth_messages: int
    tickers: int
    trades: int
    snapshots: int
    level_updates: int
    """`LEVEL` events, a snapshot's too."""
    kept: int
    set_aside: dict[str, int]
    """Messages that are not among the events, by reason."""
    sequence_breaks: int
    crossed: int
    """Message ends at which the replayed book is crossed or locked."""
    clock_steps: int
    """Messages whose local time was before their predecessor's; they were given the predecessor's."""
    segments: int
    """Stretches without a gap."""
    seconds: float
    """Last minus first local time."""
    clock_offset_ns: int
    """Median of local minus exchange time over depth and trade messages; 0 where the venue gives no time."""
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class Session:
    """Events of one instrument, in order of arrival, with their account and their sources."""

    instrument: Instrument
    events: Events
    accounting: Accounting
    sources: tuple[str, ...]


class _Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    instrument: Instrument
    accounting: Accounting
    sources: tuple[str, ...]
    fingerprint: str


def account(events: Events) -> Accounting:
    """Return the account of events that are the whole of what arrived; the crossed states come from a replay."""
    ends = events.flags & END > 0
    snapshots, depth, tickers, trades, breaks = (
        int(np.count_nonzero(among & (events.kind == kind)))
        for among, kind in ((True, CLEAR), (ends, LEVEL), (ends, TICKER), (ends, TRADE), (ends, GAP))
    )
    # A snapshot with levels ends in one of them.
    depth -= int(np.count_nonzero(~ends & (events.kind == CLEAR)))
    timed = ends & ((events.kind == LEVEL) | (events.kind == TRADE)) & (events.exchange_time > 0)
    offsets = events.local_time[timed] - events.exchange_time[timed]
    first, last = (int(events.local_time[0]), int(events.local_time[-1])) if len(events) else (0, 0)
    columns = (events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    return Accounting(
        messages=snapshots + depth + tickers + trades,
        depth_messages=depth,
        tickers=tickers,
        trades=trades,
        snapshots=snapshots,
        level_updates=int(np.count_nonzero(events.kind == LEVEL)),
        kept=snapshots + depth + tickers + trades,
        set_aside={},
        sequence_breaks=breaks,
        crossed=int(replay(new_book(), *columns)[1]),
        clock_steps=0,
        segments=breaks + 1,
        seconds=(last - first) / 1e9,
        clock_offset_ns=int(np.median(offsets)) if len(offsets) else 0,
        first_ns=first,
        last_ns=last,
    )


def fingerprint(session: Session) -> str:
    """Return the SHA-256 of the instrument and of every column's name and bytes, as hexadecimal digits."""
    digest = hashlib.sha256(msgspec.json.encode(session.instrument, order="sorted"))
    for field in fields(session.events):
        column = np.ascontiguousarray(getattr(session.events, field.name))
        digest.update(f"{field.name}:{column.dtype.str}:{len(column)};".encode())
        digest.update(column.data)
    return digest.hexdigest()


def save_session(session: Session, path: Path) -> None:
    """Write a session as Parquet, whole or not at all; everything but the columns is in the file's metadata.

    Raises:
        DataError: the file cannot be written.
    """
    metadata = _Metadata(session.instrument, session.accounting, session.sources, fingerprint(session))
    columns = {name: getattr(session.events, name) for name in DTYPES}
    table = pa.table(columns).replace_schema_metadata({_KEY: msgspec.json.encode(metadata)})
    # Times and ids rise in small steps: delta encoding makes them a fraction of their plain size.
    rising = ("exchange_time", "local_time", "price", "sequence")
    content = io.BytesIO()
    pq.write_table(
        table,
        content,
        compression="zstd",
        use_dictionary=["kind", "side", "flags"],
        column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
    )
    try:
        write_atomic(path, content.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def load_session(path: Path) -> Session:
    """Read a session that `save_session` wrote.

    Raises:
        DataError: the file is missing, is no such file, or its content is not what its fingerprint says.
    """
    try:
        table = pq.read_table(path)
        metadata = msgspec.json.decode((table.schema.metadata or {})[_KEY], type=_Metadata)
        columns = {name: table.column(name).combine_chunks().to_numpy(zero_copy_only=False) for name in DTYPES}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run lobsmith stage ingest first") from None
    except (OSError, KeyError, ValueError, pa.ArrowException, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not a session that lobsmith saved; ingest it again") from error
    if any(columns[name].dtype != dtype for name, dtype in DTYPES.items()):
        raise DataError(f"{path}: columns of the wrong type; ingest the session again")
    session = Session(metadata.instrument, Events(**columns), metadata.accounting, metadata.sources)
    if fingerprint(session) != metadata.fingerprint:
        raise DataError(f"{path}: its content does not match its fingerprint; ingest the session again")
    return session
