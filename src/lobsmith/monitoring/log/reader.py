"""Reading the prediction log: what versions answered, beside what the market then did."""

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


class Stream(NamedTuple):
    """What is logged of one version in one role.

    Attributes:
        model: the Triton model.
        version: its version.
        role: why it was asked: `primary`, `candidate` or `fallback`.
        rows: how many were put to it.
        first_ns: when it was asked first, UTC.
        last_ns: when it was asked last, UTC.
    """

    model: str
    version: int
    role: str
    rows: int
    first_ns: int
    last_ns: int


class PredictionLog:
    """A prediction log to read, while others may be writing it.

        with PredictionLog.of(workspace, "lob") as log:
            compared(log, ("lob", 20260301115900), ("lob_candidate", 20260301125900), since_ns=…)

    Args:
        path: the file.
        busy_s: how long to wait for a writer.

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

    def streams(self, since_ns: int = EVER, until_ns: int = NEVER) -> list[Stream]:
        """Return every version and role that was asked from `since_ns` to before `until_ns`, the last asked first."""
        # CROSS JOIN, here and below: a range of each stream is read, never the whole table.
        query = """SELECT model, version, role, count(*), min(asked_ns), max(asked_ns)
            FROM streams CROSS JOIN predictions ON stream = id WHERE asked_ns >= ? AND asked_ns < ?
            GROUP BY model, version, role ORDER BY max(asked_ns) DESC, model, version, role"""
        return [Stream(*row) for row in self._rows(query, (since_ns, until_ns))]

    def sessions(self) -> list[dict[str, Any]]:
        """Return every session, the newest first: `session`, `source`, `instrument`, `started_ns`."""
        rows = self._rows(
            "SELECT session, source, instrument, started_ns FROM sessions ORDER BY started_ns DESC, id DESC"
        )
        return [dict(zip(("session", "source", "instrument", "started_ns"), row, strict=True)) for row in rows]

    def drops(self, since_ns: int = EVER) -> dict[str, int]:
        """Return how many rows were lost since, by place."""
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
    """Return what a version answered, in the order of sessions and of rows within them.

    Segments are numbered anew: those of different sessions differ, and one ends where the clock was set back. A version
    that was asked twice about a row counts once, with the first answer of the role it had first. Rows that it was only
    primed with were not put to it. No row at all is no error: the arrays are then empty.

    Args:
        log: the log.
        model: the Triton model that was asked.
        version: its version.
        since_ns: rows asked about from then on, UTC.
        until_ns: rows asked about before that.
        sessions: the sessions to take; None takes all.
        role: why it was asked; None takes all.
        overlaps: whether rows count that were received no later than some of an earlier session. Clients of one
            instrument at the same time see the same rows, which are no more evidence.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    with faults_named(log.path):
        logged = _logged(log, (model, version), since_ns, until_ns, sessions, role)
        if not overlaps:
            logged = logged.take(_first_seen(logged))
        return _as_answers(log, (model, version), logged, _labels(log, logged))


def newest_ns(log: PredictionLog, model: str, version: int, role: Role, sessions: Sequence[str], rows: int) -> int:
    """Return a time from which on no session has more than `rows` rows that a version was asked about in a role, UTC.

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
    """Return the first of the sessions in which a version was asked about so many rows in a role; all where it was not.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    chosen: list[str] = []
    for name in sessions_asked(log, model, version, role, sessions):
        if rows <= 0:
            break
        chosen.append(name)
        # Counted no further than it matters: a session may be of weeks.
        query = """SELECT count(*) FROM (SELECT 1 FROM predictions WHERE stream = (SELECT streams.id FROM streams
            JOIN sessions ON sessions.id = streams.session
            WHERE sessions.session = ? AND model = ? AND version = ? AND role = ?) LIMIT ?)"""
        [(count,)] = log._rows(query, (name, model, version, role, rows))
        rows -= int(count)
    return chosen


def sessions_asked(log: PredictionLog, model: str, version: int, role: Role, sessions: Sequence[str]) -> list[str]:
    """Return those of the sessions in which a version was asked in a role, the newest first.

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
    """Return what two versions answered to the rows that were put to both, and their probes.

    A row that only one of the two could answer is among them, with NaN for the other.

    Args:
        log: the log.
        first: model and version.
        second: model and version.
        since_ns: rows that both were asked about from then on, UTC.
        until_ns: rows that both were asked about before that.
        sessions: the sessions to take; None takes all.
        overlaps: as for `answers`.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    with faults_named(log.path):
        one, other = (_logged(log, version, since_ns, until_ns, sessions) for version in (first, second))
        here, there = _shared(one, other)
        one, other = one.take(here), other.take(there)
        if not overlaps:
            new = _first_seen(one)
            one, other = one.take(new), other.take(new)
        labels = _labels(log, one)
        return Compared(
            _as_answers(log, first, one, labels),
            _as_answers(log, second, other, labels),
            *_probes(log, first, second, since_ns, until_ns, sessions),
        )


class _Logged(NamedTuple):
    """Rows of one version in the order of (session, row), each once."""

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
            said = np.stack([_numbers(column).astype(np.float32) for column in batch.columns[6:]], axis=1)
            said[said < 0] = np.nan
            reason = batch.column(5).dictionary_encode()
            words = np.array(reason.dictionary.to_pylist(), object)
            parts.append((*numbers, said.reshape(len(said), -1, 3), words[_numbers(reason.indices)]))
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


def _shared(one: _Logged, other: _Logged) -> tuple[Int64, Int64]:
    """Return where both have the same (session, row)."""
    span = 1 + max((int(logged.row.max(initial=0)) for logged in (one, other)), default=0)
    keys = [logged.session * span + logged.row for logged in (one, other)]
    _, here, there = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return here, there


def _first_seen(logged: _Logged) -> npt.NDArray[np.bool_]:
    """Tell the rows received later than all of the sessions before theirs, bool [N]; a clock may go back within one."""
    seen = np.ones(len(logged.row), bool)
    _, starts = np.unique(logged.session, return_index=True)
    latest = EVER
    for start, stop in pairwise([*starts.tolist(), len(seen)]):
        seen[start:stop] = logged.time_ns[start:stop] > latest
        latest = max(latest, int(logged.time_ns[start:stop].max()))
    return seen


def _as_answers(log: PredictionLog, version: Version, logged: _Logged, labels: npt.NDArray[np.int8]) -> Answers:
    segment = np.zeros(len(logged.row), np.int64)
    if len(segment):
        segment[1:] = np.cumsum(
            (np.diff(logged.session) != 0) | (np.diff(logged.segment) != 0) | (np.diff(logged.time_ns) < 0)
        )
    words, counts = np.unique(logged.reason.astype(str), return_counts=True)
    return Answers(
        model=version[0],
        version=version[1],
        time_ns=logged.time_ns,
        segment=segment,
        labels=labels,
        probabilities=logged.probabilities,
        latency_ns=logged.latency_ns,
        reasons={str(word): int(count) for word, count in zip(words, counts, strict=True) if word},
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
    """Return the latencies of both in the order of asking, whichever of the two was asked first."""
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
