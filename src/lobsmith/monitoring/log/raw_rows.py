"""Raw rows of live traffic from the prediction log, for drift checks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lobsmith.drift.reference import RawRows, thinned
from lobsmith.errors import PredictionLogError
from lobsmith.features.definitions import COUNT
from lobsmith.monitoring.log.reader import EVER, NEVER, PredictionLog
from lobsmith.monitoring.log.schema import batches, faults_named
from lobsmith.units import NS_PER_MS

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_BYTES = COUNT * np.dtype(np.float32).itemsize


def raw_rows(
    log: PredictionLog,
    sessions: Sequence[str],
    *,
    every_ms: int,
    since_ns: int = EVER,
    until_ns: int = NEVER,
) -> RawRows:
    """Return the rows received in a time, at most one an interval, in the order of time.

    Where sessions overlap, the earliest one's row is taken: clients of one instrument see the same rows. Rows that are
    not finite are left out. Segments are renumbered. A log of an older schema has no raw rows.

    Args:
        sessions: of one instrument.
        every_ms: length of an interval, `drift.every_ms`.
        since_ns, until_ns: local receive time, UTC.

    Raises:
        PredictionLogError: the log cannot be read, or holds rows of another number of features.
    """
    parts = _read(log, sessions, since_ns, until_ns) if sessions and has_raw_rows(log) else []
    if not parts:
        none = np.empty(0, np.int64)
        return RawRows(none, none, np.empty((0, COUNT), np.float32))
    session, time_ns, segment = (np.concatenate([part[index] for part in parts]) for index in range(3))
    blocks = [part[3] for part in parts]
    finite = np.concatenate([np.isfinite(block).all(axis=1) for block in blocks])
    order = np.lexsort((time_ns, session, time_ns // (every_ms * NS_PER_MS)))
    order = order[finite[order]]
    kept = order[thinned(time_ns[order], every_ms)]
    session, segment = session[kept], segment[kept]
    runs = np.zeros(len(kept), np.int64)
    runs[1:] = np.cumsum((np.diff(session) != 0) | (np.diff(segment) != 0))
    return RawRows(time_ns[kept], runs, _taken(blocks, kept))


def newest_raw_ns(log: PredictionLog, sessions: Sequence[str]) -> int | None:
    """Return the receive time of the newest raw row of these sessions, UTC; None where they have none.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not sessions or not has_raw_rows(log):
        return None
    # One seek for each session: a plain max would read every row.
    query = f"""SELECT max((SELECT max(time_ns) FROM raw_rows WHERE raw_rows.session = sessions.id))
        FROM sessions WHERE sessions.session IN ({_places(sessions)})"""  # noqa: S608
    [(newest,)] = log._rows(query, tuple(sessions))
    return None if newest is None else int(newest)


def count_raw_rows(log: PredictionLog, since_ns: int = EVER) -> int:
    """Return the number of raw rows asked about from `since_ns` on, including those of overlapping sessions.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not has_raw_rows(log):
        return 0
    [(count,)] = log._rows("SELECT count(*) FROM raw_rows WHERE asked_ns >= ?", (since_ns,))
    return int(count)


def has_raw_rows(log: PredictionLog) -> bool:
    """Return whether the log has a table of raw rows; one of an older schema has none."""
    # Queried each time: a writer may add the table while the log is open.
    return bool(log._rows("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'raw_rows'"))


def _read(
    log: PredictionLog, sessions: Sequence[str], since_ns: int, until_ns: int
) -> list[tuple[Int64, Int64, Int64, Float32]]:
    # CROSS JOIN: a range of each session is read, never the whole table. CAST: other types become blobs.
    query = f"""SELECT raw_rows.session, raw_rows.time_ns, raw_rows.segment, CAST(raw_rows.raw AS BLOB)
        FROM sessions CROSS JOIN raw_rows ON raw_rows.session = sessions.id
        WHERE sessions.session IN ({_places(sessions)}) AND time_ns >= ? AND time_ns < ?"""  # noqa: S608
    parts = []
    with (
        faults_named(log.path),
        batches(log.path, log.connection, query, (*sessions, since_ns, until_ns)) as read,
    ):
        for batch in read:
            session, time_ns, segment = (_numbers(batch.column(index)) for index in range(3))
            parts.append((session, time_ns, segment, as_floats(log, batch.column(3), time_ns)))
    return parts


def _taken(blocks: list[Float32], rows: npt.NDArray[np.intp]) -> Float32:
    """Return rows of concatenated blocks, each copied once, without concatenating the blocks first."""
    ends = np.cumsum([len(block) for block in blocks])
    place = np.full(ends[-1], -1)
    place[rows] = np.arange(len(rows))
    taken = np.empty((len(rows), COUNT), np.float32)
    for block, places in zip(blocks, np.split(place, ends[:-1]), strict=True):
        wanted = places >= 0
        taken[places[wanted]] = block[wanted]
    return taken


def as_floats(log: PredictionLog, blobs: pa.Array, time_ns: Int64) -> Float32:
    """Return the values of N raw rows, float32 [N, F], as a view of the driver's memory.

    Raises:
        PredictionLogError: a row has another number of features; `time_ns` names it.
    """
    _, offsets, data = blobs.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(blobs) + 1, 4 * blobs.offset)
    (wrong,) = np.nonzero(np.diff(bounds) != _BYTES)
    if len(wrong):
        count, at = int(np.diff(bounds)[wrong[0]]), int(time_ns[wrong[0]])
        raise PredictionLogError(
            f"{log.path}: the raw row received at {at} ns has {count} bytes, {COUNT} features have {_BYTES}: other "
            "features need another model.name; move the file away, a new one is then begun"
        )
    return np.frombuffer(data, "<f4", len(blobs) * COUNT, int(bounds[0])).reshape(-1, COUNT)


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _places(sessions: Sequence[str]) -> str:
    return ", ".join("?" * len(sessions))
