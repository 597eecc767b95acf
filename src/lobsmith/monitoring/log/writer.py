"""Writer of the prediction log: predictions of a production model and their outcomes.

One SQLite file a model, `Workspace.predictions / f"{model}.db"`, also for its candidate and fallback version; any
number of processes may write and read it.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from adbc_driver_sqlite import dbapi

from lobsmith import clock
from lobsmith.errors import PredictionLogError
from lobsmith.monitoring.log.schema import (
    faults_named,
    label_columns,
    number,
    open_log,
    probability_columns,
    transaction,
)
from lobsmith.params import Params, PredictionLogParams
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import may_produce
from lobsmith.workspace import Workspace

_MOST_WAITING = 1_000_000


class Role(StrEnum):
    """Why a version was asked."""

    PRIMARY = "primary"
    """Its answer went to the caller."""
    CANDIDATE = "candidate"
    """It is evaluated on shadow rows."""
    FALLBACK = "fallback"
    """The rollback target, on shadow rows."""


class Ending(StrEnum):
    """How a session ended."""

    CLOSED = "closed"
    """In order by its client, or by an operator."""
    CRASHED = "crashed"
    """The client's process ended without closing it, or closed it on an error."""


class Source(StrEnum):
    """Source of a session's rows."""

    LIVE = "live"
    REPLAY = "replay"
    DEMO = "demo"


def log_path(workspace: Workspace, model: str) -> Path:
    """Return the log of a production model (`lob`, not the candidate's name), its candidate and its fallback.

    Raises:
        PredictionLogError: not the name of a production model.
    """
    if not (Repository.is_name(model) and may_produce(model)):
        raise PredictionLogError(
            f"{model!r} is not a production model's name; use letters, digits and underscores, a letter first, "
            "without the ending of a candidate, of plans or of a score"
        )
    return workspace.predictions / f"{model}.db"


class LogWriter:
    """Writes a prediction log; for one thread.

    `add_*` methods copy into memory; `flush` writes all of it durably in one transaction.

        with LogWriter.of(workspace, "lob", params) as log:
            log.begin("2026-03-01T12:00:00-4711", Source.LIVE, "binance:BTCUSDT", time.time_ns())
            log.add_predictions(session, "lob", 20260301115900, Role.PRIMARY, row=row, …)
            log.flush()

    Args:
        path: created if missing, never overwritten.
        horizons_ms: the H horizons of the probabilities.
        most_waiting: rows buffered at most, when the disk refuses; further ones are dropped and counted.

    Raises:
        PredictionLogError: no prediction log, another schema or other horizons, a lock, or a failing disk.
    """

    def __init__(
        self,
        path: Path,
        horizons_ms: tuple[int, ...],
        params: PredictionLogParams,
        *,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self.path = path
        self.horizons_ms = horizons_ms
        self._most_waiting = most_waiting
        self._connection, _ = open_log(path, horizons_ms=horizons_ms, write=True, busy_s=params.busy_s)
        self._waiting = _Waiting()
        self._announced: set[str] = set()
        self._lost: dict[str, int] = {}

    @classmethod
    def of(cls, workspace: Workspace, model: str, params: Params) -> "LogWriter":
        """Open the log of a production model."""
        return cls(log_path(workspace, model), params.labels.horizons_ms, params.prediction_log)

    def begin(self, session: str, source: Source, instrument: str, started_ns: int) -> None:
        """Announce a session, a client's run on one instrument, before its first row.

        Args:
            session: unique; a recorder that continues a session announces it again.
            started_ns: wall clock, UTC.
        """
        self._announced.add(session)
        self._waiting.sessions[session] = (str(source), instrument, started_ns)

    def end(self, session: str, how: Ending, process: str, ended_ns: int) -> None:
        """Mark a session as ended at `ended_ns`, UTC; `process` names the client for people. The last call counts."""
        self._waiting.endings[session] = (ended_ns, how.value, process)

    def add_predictions(
        self,
        session: str,
        model: str,
        version: int,
        role: Role,
        *,
        row: npt.ArrayLike,
        time_ns: npt.ArrayLike,
        asked_ns: npt.ArrayLike,
        segment: npt.ArrayLike,
        mid: npt.ArrayLike,
        latency_ns: npt.ArrayLike,
        rows: npt.ArrayLike,
        probabilities: npt.NDArray[np.float32] | None,
        reasons: str | Sequence[str | None] | None = None,
    ) -> None:
        """Add a version's answers to N rows; arguments other than `row` may be scalars.

        Args:
            model: the Triton model, `<model>` or `<model>_candidate`.
            version: 0 where none could be asked.
            role: of the version.
            row: int [N], number within the session, rising; the same for all versions.
            time_ns: int [N], local receive time, UTC.
            asked_ns: int [N], wall clock at hand-over, UTC.
            segment: int [N], number of the gap-free run within the session.
            mid: int [N], twice the mid, ticks.
            latency_ns: int [N], from hand-over to answer or timeout.
            rows: int [N], rows in the request.
            probabilities: float32 [N, H, 3]: down, unchanged, up; NaN where not answered, None for no answer at all.
            reasons: why a row was not answered, else None.
        """
        numbers = np.array(row, np.int64, ndmin=1)
        count = len(numbers)
        if not self._room(session, "predictions", count):
            return
        values = {"time_ns": time_ns, "segment": segment, "mid": mid, "latency_ns": latency_ns, "rows": rows}
        columns = {"asked_ns": _column(asked_ns, count), "row": pa.array(numbers)}
        columns |= {name: _column(column, count) for name, column in values.items()}
        texts = [reasons] * count if reasons is None or isinstance(reasons, str) else list(reasons)
        columns["reason"] = pa.array(texts, pa.string())
        names = probability_columns(self.horizons_ms)
        if probabilities is None:
            flat = np.full((len(names), count), np.nan, np.float32)
        else:
            flat = np.array(probabilities, np.float32).reshape(count, len(names)).T.copy()
        columns |= {name: pa.array(values) for name, values in zip(names, flat, strict=True)}
        key = (session, model, int(version), str(role))
        self._waiting.predictions.setdefault(key, []).append(pa.record_batch(columns))
        self._waiting.rows += count

    def add_outcomes(
        self, session: str, row: npt.ArrayLike, labels: npt.NDArray[np.int8], known_ns: npt.ArrayLike
    ) -> None:
        """Add the outcomes of N rows; a second outcome of a row is ignored.

        Args:
            session, row: as `add_predictions`.
            labels: int8 [N, H]: 0 down, 1 unchanged, 2 up, -1 unknown for good.
            known_ns: int [N] or scalar, when the outcome was known, UTC.
        """
        numbers = np.array(row, np.int64, ndmin=1)
        count = len(numbers)
        if not self._room(session, "outcomes", count):
            return
        columns = {"row": pa.array(numbers), "known_ns": _column(known_ns, count)}
        for name, values in zip(label_columns(self.horizons_ms), np.reshape(labels, (count, -1)).T, strict=True):
            columns[name] = pa.array(values.astype(np.int64), mask=values < 0)
        self._waiting.outcomes.setdefault(session, []).append(pa.record_batch(columns))
        self._waiting.rows += count

    def add_raw(
        self,
        session: str,
        *,
        row: npt.ArrayLike,
        time_ns: npt.ArrayLike,
        asked_ns: npt.ArrayLike,
        segment: npt.ArrayLike,
        raw: npt.NDArray[np.float32],
    ) -> None:
        """Add N rows before any z-score, float32 [N, F], thinned by the caller; duplicates are ignored.

        `row`, `time_ns`, `asked_ns` (UTC, ns) and `segment` are int [N], as for `add_predictions`; rows expire by
        `asked_ns`.
        """
        numbers = np.array(row, np.int64, ndmin=1)
        count = len(numbers)
        if not self._room(session, "raw_rows", count):
            return
        values = {"time_ns": time_ns, "asked_ns": asked_ns, "segment": segment}
        columns = {"row": pa.array(numbers)} | {name: _column(column, count) for name, column in values.items()}
        columns["raw"] = _blobs(np.array(raw, "<f4").reshape(count, -1))
        self._waiting.raw_rows.setdefault(session, []).append(pa.record_batch(columns))
        self._waiting.rows += count

    def add_probe(
        self,
        session: str,
        asked_ns: int,
        first: tuple[str, int],
        first_ns: int,
        second: tuple[str, int],
        second_ns: int,
    ) -> None:
        """Add the latencies of one row put to two versions, model and version, in turn, each in a request of its own.

        `asked_ns` is of the first, UTC; `first_ns` and `second_ns` are latencies, ns.
        """
        if self._room(session, "probes", 1):
            self._waiting.probes.append((session, asked_ns, *first, first_ns, *second, second_ns))
            self._waiting.rows += 1

    def add_drops(self, session: str, noted_ns: int, place: str, count: int) -> None:
        """Add `count` rows lost at a `place`, as `ring` or `candidate`, since its last note; `noted_ns` is UTC."""
        if count and self._room(session, "drops", 1):
            self._waiting.drops.append((session, noted_ns, place, count))
            self._waiting.rows += 1

    @property
    def waiting(self) -> int:
        """Rows not on disk yet."""
        return self._waiting.rows

    @property
    def lost(self) -> dict[str, int]:
        """Rows dropped from the full buffer, by table; the next flush notes them as drops of `log`."""
        return dict(self._lost)

    def flush(self) -> None:
        """Write all buffered rows in one transaction.

        Raises:
            PredictionLogError: a lock or a failing disk; rows stay buffered, and nothing is written twice.
        """
        if not (self._waiting.rows or self._waiting.sessions or self._waiting.endings):
            return
        with faults_named(self.path), transaction(self._connection) as cursor:
            _write(cursor, self._waiting)
            for table, count in self._lost.items():
                cursor.execute("INSERT INTO drops VALUES (0, ?, ?, ?)", (clock.now_ns(), f"log {table}", count))
        self._waiting, self._lost = _Waiting(), {}

    def close(self) -> None:
        """Flush and close.

        Raises:
            PredictionLogError: as `flush`; the file is closed all the same.
        """
        try:
            self.flush()
        finally:
            self._connection.close()

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _room(self, session: str, table: str, count: int) -> bool:
        if session not in self._announced:
            raise ValueError(f"session {session} was not announced by LogWriter.begin")
        if self._waiting.rows + count <= self._most_waiting:
            return True
        self._lost[table] = self._lost.get(table, 0) + count
        return False


class _Waiting:
    def __init__(self) -> None:
        self.rows = 0
        self.sessions: dict[str, tuple[str, str, int]] = {}
        self.predictions: dict[tuple[str, str, int, str], list[pa.RecordBatch]] = {}
        self.outcomes: dict[str, list[pa.RecordBatch]] = {}
        self.raw_rows: dict[str, list[pa.RecordBatch]] = {}
        self.probes: list[tuple[str, int, str, int, int, str, int, int]] = []
        self.drops: list[tuple[str, int, str, int]] = []
        self.endings: dict[str, tuple[int, str, str]] = {}


def _column(values: npt.ArrayLike, count: int) -> pa.Array:
    return pa.array(np.broadcast_to(np.asarray(values, np.int64), count).copy())


def _blobs(rows: npt.NDArray[np.float32]) -> pa.Array:
    """Return the bytes of each of N rows, float32 [N, F]."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1] * rows.itemsize)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.binary(), len(rows), buffers)


def _write(cursor: dbapi.Cursor, waiting: _Waiting) -> None:
    for session, about in waiting.sessions.items():
        cursor.execute("INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (session, *about))
    ids: dict[str, int] = {}
    for (session, *stream), parts in waiting.predictions.items():
        owner = _session(cursor, ids, session)
        cursor.execute("INSERT INTO streams VALUES (NULL, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (owner, *stream))
        query = "SELECT id FROM streams WHERE session = ? AND model = ? AND version = ? AND role = ?"
        _insert(cursor, "predictions", "stream", number(cursor, query, (owner, *stream)), parts)
    for session, parts in waiting.outcomes.items():
        _insert(cursor, "outcomes", "session", _session(cursor, ids, session), parts)
    for session, parts in waiting.raw_rows.items():
        _insert(cursor, "raw_rows", "session", _session(cursor, ids, session), parts)
    for session, *rest in waiting.probes:
        values = (_session(cursor, ids, session), *rest)
        cursor.execute("INSERT INTO probes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    for session, *rest in waiting.drops:
        cursor.execute("INSERT INTO drops VALUES (?, ?, ?, ?)", (_session(cursor, ids, session), *rest))
    for session, ending in waiting.endings.items():
        cursor.execute("REPLACE INTO endings VALUES (?, ?, ?, ?)", (_session(cursor, ids, session), *ending))


def _session(cursor: dbapi.Cursor, ids: dict[str, int], session: str) -> int:
    if session not in ids:
        ids[session] = number(cursor, "SELECT id FROM sessions WHERE session = ?", (session,))
    return ids[session]


def _insert(cursor: dbapi.Cursor, table: str, owner: str, number: int, parts: list[pa.RecordBatch]) -> None:
    """Insert rows of one stream or session; existing ones are kept."""
    batch = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    names = ", ".join([owner, *batch.schema.names])
    places = ", ".join([str(number), *("?" * batch.num_columns)])
    cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT DO NOTHING", batch)  # noqa: S608
