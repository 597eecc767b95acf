"""Reader of the prediction log: a version's answers with their outcomes."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lobsmith.features.labels import UNKNOWN
from lobsmith.monitoring.log.schema import batches, faults_named, label_columns, open_log, probability_columns
from lobsmith.monitoring.log.writer import Role, log_path
from lobsmith.online.answers import PRIMING, Answers, Compared
from lobsmith.workspace import Workspace

EVER = -(2**63)
NEVER = 2**63 - 1
_NO_PROBABILITY = -1.0
_NO_LABEL = -1

Version = tuple[str, int]
"""A Triton model and its version."""
Int64 = npt.NDArray[np.int64]


class LoggedStream(NamedTuple):
    """Requests to one version in one role: rows put to it, and times of the first and last request, UTC."""

    model: str
    version: int
    role: str
    rows: int
    first_ns: int
    last_ns: int


class PredictionLog:
    """A prediction log open for reading; other processes may write to it.

        with PredictionLog.of(workspace, "lob") as log:
            compared(log, ("lob", 20260301115900), ("lob_candidate", 20260301125900), since_ns=…)

    Raises:
        PredictionLogError: the file is missing, is no prediction log, or has another schema.
    """

    def __init__(self, path: Path, *, busy_s: float = 10.0) -> None:
        self.path = path
        self.connection, self.horizons_ms = open_log(path, busy_s=busy_s)

    @classmethod
    def of(cls, workspace: Workspace, model: str) -> "PredictionLog":
        """Open the log of a production model, which its candidate and its fallback share."""
        return cls(log_path(workspace, model))

    def streams(self, since_ns: int = EVER, until_ns: int = NEVER) -> list[LoggedStream]:
        """Return each version and role asked from `since_ns` to before `until_ns`, the last asked first."""
        # CROSS JOIN, here and below: a range of each stream is read, never the whole table.
        query = """SELECT model, version, role, count(*), min(asked_ns), max(asked_ns)
            FROM streams CROSS JOIN predictions ON stream = id WHERE asked_ns >= ? AND asked_ns < ?
            GROUP BY model, version, role ORDER BY max(asked_ns) DESC, model, version, role"""
        return [LoggedStream(*row) for row in self._rows(query, (since_ns, until_ns))]

    def sessions(self) -> list[dict[str, Any]]:
        """Return every session, the newest first: `session`, `source`, `instrument`, `started_ns`."""
        rows = self._rows(
            "SELECT session, source, instrument, started_ns FROM sessions ORDER BY started_ns DESC, id DESC"
        )
        return [dict(zip(("session", "source", "instrument", "started_ns"), row, strict=True)) for row in rows]

    def drops(self, since_ns: int = EVER) -> dict[str, int]:
        """Return the number of rows lost since, by place."""
        return dict(self._rows("SELECT place, sum(count) FROM drops WHERE noted_ns >= ? GROUP BY place", (since_ns,)))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> "PredictionLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with faults_named(self.path), self.connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return cursor.fetchall()


def answers(
    log: PredictionLog,
    model: str,
    version: int,
    *,
    since_ns: int = EVER,
    until_ns: int = NEVER,
    sessions: Sequence[str] | None = None,
    role: Role | None = None,
    overlaps: bool = True,
) -> Answers:
    """Return a version's answers, in the order of sessions and of rows within them.

    Segments are renumbered: a new one for each session, and where the clock was set back. A row asked about twice
    counts once, with the first answer of its first role; priming rows do not count.

    Args:
        model: the Triton model.
        since_ns, until_ns: time of asking, UTC.
        sessions, role: None takes all.
        overlaps: whether to keep rows received no later than some of an earlier session: clients of one instrument see
            the same rows.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    with faults_named(log.path):
        logged = _logged(log, (model, version), since_ns, until_ns, sessions, role)
        if not overlaps:
            logged = logged.take(_newly_received(logged))
        return _as_answers(log, (model, version), logged, _labels(log, logged))


def newest_ns(log: PredictionLog, model: str, version: int, role: Role, sessions: Sequence[str], rows: int) -> int:
    """Return a time from which on no session has more than `rows` rows of a version in a role, UTC.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    chosen, names = _among(sessions)
    query = f"""SELECT max((SELECT asked_ns FROM predictions WHERE stream = streams.id
        ORDER BY asked_ns DESC LIMIT 1 OFFSET ?))
        FROM streams WHERE model = ? AND version = ? AND role = ? {chosen}"""  # noqa: S608
    [(before,)] = log._rows(query, (rows, model, version, role, *names))
    return EVER if before is None else int(before) + 1


def newest_sessions(
    log: PredictionLog, model: str, version: int, role: Role, sessions: Sequence[str], rows: int
) -> list[str]:
    """Return the first sessions that together have `rows` rows of a version in a role, or all.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    chosen: list[str] = []
    for name in sessions_asked(log, model, version, role, sessions):
        if rows <= 0:
            break
        chosen.append(name)
        # Counted no further than needed: a session may last weeks.
        query = """SELECT count(*) FROM (SELECT 1 FROM predictions WHERE stream = (SELECT streams.id FROM streams
            JOIN sessions ON sessions.id = streams.session
            WHERE sessions.session = ? AND model = ? AND version = ? AND role = ?) LIMIT ?)"""
        [(count,)] = log._rows(query, (name, model, version, role, rows))
        rows -= int(count)
    return chosen


def sessions_asked(log: PredictionLog, model: str, version: int, role: Role, sessions: Sequence[str]) -> list[str]:
    """Return the sessions in which a version was asked in a role, the newest first.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    chosen, names = _among(sessions)
    query = f"""SELECT sessions.session FROM streams JOIN sessions ON sessions.id = streams.session
        WHERE model = ? AND version = ? AND role = ? {chosen} ORDER BY started_ns DESC, sessions.id DESC"""  # noqa: S608
    return [name for (name,) in log._rows(query, (model, version, role, *names))]


def compared(
    log: PredictionLog,
    first: Version,
    second: Version,
    *,
    since_ns: int = EVER,
    until_ns: int = NEVER,
    sessions: Sequence[str] | None = None,
    overlaps: bool = True,
) -> Compared:
    """Return the answers of two versions to the rows put to both, and their probes; NaN where one did not answer.

    Args:
        first, second: model and version.
        since_ns, until_ns: time of asking both, UTC.
        sessions: None takes all.
        overlaps: as for `answers`.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    with faults_named(log.path):
        left, right = (_logged(log, version, since_ns, until_ns, sessions) for version in (first, second))
        here, there = _shared(left, right)
        left, right = left.take(here), right.take(there)
        if not overlaps:
            chosen = _newly_received(left)
            left, right = left.take(chosen), right.take(chosen)
        labels = _labels(log, left)
        return Compared(
            _as_answers(log, first, left, labels),
            _as_answers(log, second, right, labels),
            *_probes(log, first, second, since_ns, until_ns, sessions),
        )


class _Logged(NamedTuple):
    """Rows of one version in the order of (session, row), without duplicates."""

    session: Int64
    row: Int64
    time_ns: Int64
    segment: Int64
    latency_ns: Int64
    probabilities: npt.NDArray[np.float32]
    reason: npt.NDArray[np.object_]

    def take(self, rows: npt.NDArray[Any]) -> "_Logged":
        return _Logged(*(column[rows] for column in self))


def _logged(
    log: PredictionLog,
    version: Version,
    since_ns: int,
    until_ns: int,
    sessions: Sequence[str] | None,
    role: Role | None = None,
) -> _Logged:
    # COALESCE: see `batches`.
    probabilities = [f"COALESCE({name}, {_NO_PROBABILITY})" for name in probability_columns(log.horizons_ms)]
    chosen, names = _among(sessions)
    query = f"""SELECT streams.session, row, time_ns, segment, latency_ns, COALESCE(reason, ''),
        {", ".join(probabilities)}
        FROM streams CROSS JOIN predictions ON stream = streams.id
        WHERE model = ? AND version = ? AND role = COALESCE(?, role) AND asked_ns >= ? AND asked_ns < ?
        AND reason IS NOT '{PRIMING}' {chosen}"""  # noqa: S608
    parts = []
    with batches(log.path, log.connection, query, (*version, role, since_ns, until_ns, *names)) as read:
        for batch in read:
            numbers = [_numbers(batch.column(index)) for index in range(5)]
            probability = np.stack([_numbers(column).astype(np.float32) for column in batch.columns[6:]], axis=1)
            probability[probability < 0] = np.nan
            reason = batch.column(5).dictionary_encode()
            reasons = np.array(reason.dictionary.to_pylist(), object)
            parts.append((*numbers, probability.reshape(len(probability), -1, 3), reasons[_numbers(reason.indices)]))
    if not parts:
        none = np.empty(0, np.int64)
        empty = np.empty((0, len(log.horizons_ms), 3), np.float32)
        return _Logged(none, none, none, none, none, empty, np.empty(0, object))
    logged = _Logged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.lexsort((logged.row, logged.session))
    session, row = logged.session[order], logged.row[order]
    once = np.append(True, (np.diff(session) != 0) | (np.diff(row) != 0))
    return logged.take(order[once])


def _among(sessions: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    if sessions is None:
        return "", ()
    places = ", ".join("?" * len(sessions))
    return f"AND streams.session IN (SELECT id FROM sessions WHERE session IN ({places}))", tuple(sessions)  # noqa: S608


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _shared(left: _Logged, right: _Logged) -> tuple[Int64, Int64]:
    """Return the places of the (session, row) that both have."""
    span = 1 + max((int(logged.row.max(initial=0)) for logged in (left, right)), default=0)
    keys = [logged.session * span + logged.row for logged in (left, right)]
    _, here, there = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return here, there


def _newly_received(logged: _Logged) -> npt.NDArray[np.bool_]:
    """Return which rows were received later than all sessions before theirs, bool [N]."""
    first = np.ones(len(logged.row), bool)
    _, starts = np.unique(logged.session, return_index=True)
    latest = EVER
    for start, stop in pairwise([*starts.tolist(), len(first)]):
        first[start:stop] = logged.time_ns[start:stop] > latest
        latest = max(latest, int(logged.time_ns[start:stop].max()))
    return first


def _as_answers(log: PredictionLog, version: Version, logged: _Logged, labels: npt.NDArray[np.int8]) -> Answers:
    segment = np.zeros(len(logged.row), np.int64)
    if len(segment):
        segment[1:] = np.cumsum(
            (np.diff(logged.session) != 0) | (np.diff(logged.segment) != 0) | (np.diff(logged.time_ns) < 0)
        )
    reasons, counts = np.unique(logged.reason.astype(str), return_counts=True)
    return Answers(
        model=version[0],
        version=version[1],
        time_ns=logged.time_ns,
        segment=segment,
        labels=labels,
        probabilities=logged.probabilities,
        latency_ns=logged.latency_ns,
        reasons={str(reason): int(count) for reason, count in zip(reasons, counts, strict=True) if reason},
        horizons_ms=log.horizons_ms,
    )


def _labels(log: PredictionLog, logged: _Logged) -> npt.NDArray[np.int8]:
    names = label_columns(log.horizons_ms)
    labels = np.full((len(logged.row), len(names)), UNKNOWN, np.int8)
    columns = ", ".join(f"COALESCE({name}, {_NO_LABEL})" for name in names)
    query = f"SELECT row, {columns} FROM outcomes WHERE session = ? AND row >= ? AND row <= ?"  # noqa: S608
    _, starts = np.unique(logged.session, return_index=True)
    for start, stop in pairwise([*starts.tolist(), len(labels)]):
        rows = logged.row[start:stop]
        with batches(
            log.path, log.connection, query, (int(logged.session[start]), int(rows[0]), int(rows[-1]))
        ) as read:
            for batch in read:
                known = _numbers(batch.column(0))
                place = np.searchsorted(rows, known)
                held = rows[np.minimum(place, len(rows) - 1)] == known
                values = np.stack([_numbers(column).astype(np.int8) for column in batch.columns[1:]], axis=1)
                labels[start + place[held]] = values[held]
    return labels


def _probes(
    log: PredictionLog,
    first: Version,
    second: Version,
    since_ns: int,
    until_ns: int,
    sessions: Sequence[str] | None,
) -> tuple[Int64, Int64]:
    """Return the latencies of both in the order of asking, whichever was asked first."""
    chosen, names = _among(sessions)
    query = f"""SELECT first_model, first_version, first_ns, second_ns FROM probes WHERE asked_ns >= ? AND asked_ns < ?
        AND ((first_model, first_version, second_model, second_version) = (?, ?, ?, ?)
        OR (first_model, first_version, second_model, second_version) = (?, ?, ?, ?))
        {chosen.replace("streams.", "probes.")} ORDER BY asked_ns"""  # noqa: S608
    with log.connection.cursor() as cursor:
        cursor.execute(query, (since_ns, until_ns, *first, *second, *second, *first, *names))
        pairs = [(a, b) if (model, version) == first else (b, a) for model, version, a, b in cursor.fetchall()]
    latencies = np.array(pairs, np.int64).reshape(-1, 2)
    return latencies[:, 0], latencies[:, 1]
