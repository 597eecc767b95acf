"""Screened events as Parquet, by venue, symbol and UTC day.

    <root>/<venue>/<symbol>/2024-08-08.parquet        events of a day; metadata: instrument, fingerprint, ingest
    <root>/<venue>/<symbol>/ingests/<first ns>.json   the account of one ingest and the days it wrote
    <root>/<venue>/<symbol>/ingests/<first ns>.quarantine.csv

A day that begins within a segment restates the book (`RESTATED`), to be readable alone; a continuous read omits that.
An ingest moves complete files in and replaces days of other content only on request.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.files import exclusive_lock, fsync_directory, fsync_file, write_atomic
from lobsmith.market.events import DTYPES, END, GAP, Events, concatenate
from lobsmith.market.instrument import Instrument
from lobsmith.market.readers import ScreenedFeed
from lobsmith.market.session import Accounting, Fingerprint, Session, add_accounts, without_restated
from lobsmith.units import NS_PER_DAY, NS_PER_S

_KEY = b"lobsmith.events"
_QUARANTINE = "quarantine.csv"
_LOCK_S = 60.0
_ROW_GROUP = 1 << 19


class Ingest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ingest of one instrument."""

    instrument: Instrument
    accounting: Accounting
    sources: tuple[str, ...]
    fingerprint: str
    """Of all events (see `session.Fingerprint`)."""
    days: tuple[str, ...]
    checks: dict[str, Any] = {}


class _Day(Struct, frozen=True, forbid_unknown_fields=True):
    instrument: Instrument
    fingerprint: str
    ingest: int


class _DayWriter:
    """Writes a file per UTC day, a row group at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.days: list[str] = []
        self._first_ns = 0
        self._instrument: Instrument | None = None
        self._day = -1
        self._writer: pq.ParquetWriter | None = None
        self._fingerprint: Fingerprint | None = None
        self._pending: list[Events] = []

    def write(self, instrument: Instrument, events: Events) -> None:
        if not len(events):
            return
        if self._instrument is None:
            self._instrument, self._first_ns = instrument, int(events.local_time[0])
        days = events.local_time // NS_PER_DAY
        cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(events)]
        for start, stop in pairwise(cuts):
            day = int(days[start])
            if day != self._day:
                self.close()
                self._open(day)
            self._pending.append(events.slice(start, stop))
            if sum(map(len, self._pending)) >= _ROW_GROUP:
                self._flush()

    def _open(self, day: int) -> None:
        assert self._instrument is not None  # noqa: S101
        self._day = day
        self.days.append(datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d"))
        self._fingerprint = Fingerprint(self._instrument)
        schema = pa.schema([(name, pa.from_numpy_dtype(dtype)) for name, dtype in DTYPES.items()])
        # Delta encoding shrinks slowly rising columns.
        rising = ("exchange_time", "local_time", "price", "sequence")
        self._writer = pq.ParquetWriter(
            self.folder / f"{self.days[-1]}.parquet",
            schema,
            compression="zstd",
            use_dictionary=["kind", "side", "flags"],
            column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        )

    def _flush(self) -> None:
        if self._writer is None or self._fingerprint is None or not self._pending:
            return
        events = concatenate(self._pending)
        self._pending.clear()
        self._fingerprint.update(events)
        self._writer.write_table(pa.table({name: getattr(events, name) for name in DTYPES}))

    def close(self) -> None:
        self._flush()
        if self._writer is None or self._fingerprint is None or self._instrument is None:
            return
        day = _Day(self._instrument, self._fingerprint.hexdigest(), self._first_ns)
        self._writer.add_key_value_metadata({_KEY: msgspec.json.encode(day)})
        self._writer.close()
        self._writer = None


class Store:
    """Events of any number of instruments in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ingest(self, open_feed: Callable[[TextIO], ScreenedFeed], *, replace: bool = False) -> Ingest:
        """Read a feed into the store.

        Args:
            open_feed: opens the feed, given the file for its quarantine list.
            replace: whether stored days of other content are replaced.

        Raises:
            CaptureError: a file cannot be used.
            DataError: a day is stored with other content, the feed has no events, or the disk fails.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".ingest-", dir=self.root))
        except OSError as error:
            raise DataError(f"{self.root}: cannot be written: {error.strerror}") from error
        try:
            with (folder / _QUARANTINE).open("w", encoding="utf-8", newline="") as listing:
                feed = open_feed(listing)
                writer = _DayWriter(folder)
                whole: Fingerprint | None = None
                for events in feed:
                    whole = whole or Fingerprint(feed.instrument)
                    whole.update(without_restated(events))
                    writer.write(feed.instrument, events)
                writer.close()
                accounting = feed.accounting()  # it closes the quarantine's list
            if whole is None or not writer.days:
                raise DataError(f"{', '.join(feed.sources)}: no event passed the screen; see the quarantined records")
            ingest = Ingest(
                instrument=feed.instrument,
                accounting=accounting,
                sources=feed.sources,
                fingerprint=whole.hexdigest(),
                days=tuple(writer.days),
                checks=feed.checks(),
            )
            self._move_in(folder, ingest, replace=replace)
        except OSError as error:
            raise DataError(f"{self.root}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ingest

    def _move_in(self, folder: Path, ingest: Ingest, *, replace: bool) -> None:
        """Move files into place: the days, then the account that names them."""
        home = self._folder(ingest.instrument)
        ingests = home / "ingests"
        ingests.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.root.parent / f".{self.root.name}.lock", _LOCK_S):
            for day in ingest.days:
                stored = home / f"{day}.parquet"
                if (
                    stored.exists()
                    and not replace
                    and _metadata(stored).fingerprint != _metadata(folder / stored.name).fingerprint
                ):
                    raise DataError(
                        f"{stored} holds other data of {ingest.instrument} on that day; ingest all files of the day "
                        "together, or pass --replace"
                    )
            stem = str(ingest.accounting.first_ns)
            moves = [(folder / f"{day}.parquet", home / f"{day}.parquet") for day in ingest.days]
            moves.append((folder / _QUARANTINE, ingests / f"{stem}.{_QUARANTINE}"))
            for source, place in moves:
                fsync_file(source)
                source.replace(place)
            write_atomic(ingests / f"{stem}.json", msgspec.json.format(msgspec.json.encode(ingest), indent=1))
            for old in ingests.glob("*.json"):
                if old.stem != stem and not set(_ingest(old).days) - set(ingest.days):
                    (ingests / f"{old.stem}.{_QUARANTINE}").unlink(missing_ok=True)
                    old.unlink()
            fsync_directory(home)

    def _folder(self, instrument: Instrument) -> Path:
        return self.root / instrument.venue / instrument.symbol

    def instruments(self) -> list[Instrument]:
        """Return the stored instruments, by venue and symbol.

        Raises:
            DataError: there is no store.
        """
        paths = sorted(self.root.glob("*/*/*.parquet"))
        if not paths:
            raise DataError(f"{self.root}: no market data; run lobsmith data ingest or lobsmith stage ingest first")
        return list({path.parent: _metadata(path).instrument for path in paths}.values())

    def choose(self, name: str = "") -> Instrument:
        """Return the instrument `venue:symbol`, or the only one.

        Raises:
            DataError: not exactly one fits.
        """
        instruments = self.instruments()
        matches = [instrument for instrument in instruments if not name or str(instrument) == name]
        if len(matches) == 1:
            return matches[0]
        names = ", ".join(map(str, instruments))
        raise DataError(
            f"{self.root}: no {name}; there are {names}"
            if name
            else f"{self.root}: several instruments, {names}; name one of them"
        )

    def days(self, instrument: Instrument) -> list[str]:
        """Return an instrument's UTC days, `YYYY-MM-DD`, in order."""
        return sorted(path.stem for path in self._folder(instrument).glob("*.parquet"))

    def ingests(self, instrument: Instrument) -> list[Ingest]:
        """Return an instrument's ingests in order."""
        paths = (self._folder(instrument) / "ingests").glob("*.json")
        return [_ingest(path) for path in sorted(paths, key=lambda path: int(path.stem))]

    def events(self, instrument: Instrument, since_ns: int | None = None) -> Iterator[Events]:
        """Stream an instrument's events, about half a million at a time.

        Args:
            instrument: a stored one.
            since_ns: skip earlier days, ns since 1970 UTC.

        Raises:
            DataError: a day does not match its fingerprint.
        """
        before: _Day | None = None
        last = 0
        for day in self.days(instrument):
            path = self._folder(instrument) / f"{day}.parquet"
            ends = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * NS_PER_S + NS_PER_DAY
            if since_ns is not None and ends <= since_ns:
                continue
            metadata = _metadata(path)
            follows = before is not None and before.ingest == metadata.ingest
            if before is not None and not follows:
                yield _gap(last)
            for block in _read_day(path, metadata):
                part = without_restated(block) if follows else block
                if len(part):
                    last = int(part.local_time[-1])
                    yield part
            before = metadata

    def account(self, instrument: Instrument) -> Accounting:
        """Return the total of an instrument's accounts."""
        return add_accounts([ingest.accounting for ingest in self.ingests(instrument)])

    def session(self, instrument: Instrument) -> Session:
        """Return an instrument's events in memory, with their account."""
        sources = tuple(source for ingest in self.ingests(instrument) for source in ingest.sources)
        events = concatenate(list(self.events(instrument)))
        return Session(instrument, events, self.account(instrument), sources)


def _gap(local_time: int) -> Events:
    values = {"local_time": local_time, "kind": GAP, "flags": END}
    columns: dict[str, Any] = {name: np.full(1, values.get(name, 0), dtype) for name, dtype in DTYPES.items()}
    return Events(**columns)


def _metadata(path: Path) -> _Day:
    try:
        return msgspec.json.decode((pq.read_metadata(path).metadata or {})[_KEY], type=_Day)
    except (OSError, KeyError, pa.ArrowException, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not a day of events that lobsmith wrote; ingest it again") from error


def _ingest(path: Path) -> Ingest:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ingest)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not an account of an ingest; ingest the day again") from error


def _read_day(path: Path, metadata: _Day) -> Iterator[Events]:
    fingerprint = Fingerprint(metadata.instrument)
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=list(DTYPES))
                columns = {name: table.column(name).to_numpy() for name in DTYPES}
                if any(columns[name].dtype != dtype for name, dtype in DTYPES.items()):
                    raise DataError(f"{path}: columns of the wrong type; ingest the day again")
                events = Events(**columns)
                fingerprint.update(events)
                yield events
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged; ingest the day again") from error
    if fingerprint.hexdigest() != metadata.fingerprint:
        raise DataError(f"{path}: its content does not match its fingerprint; ingest the day again")
