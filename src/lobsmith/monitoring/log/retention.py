"""Retention: predictions are deleted by age."""

from pathlib import Path

from adbc_driver_sqlite import dbapi

from lobsmith import clock
from lobsmith.monitoring.log.schema import faults_named, number, open_log, transaction
from lobsmith.params import PredictionLogParams
from lobsmith.units import NS_PER_DAY

_AT_ONCE = 100_000
_LAST_ROW = 2**63 - 1


def expire(path: Path, params: PredictionLogParams, now_ns: int | None = None, *, raw_keep_days: float) -> int:
    """Delete predictions asked more than `keep_days` ago, with their outcomes; return their number.

    Raw rows have their own age. Sessions and streams stay, since a writer may be about to add to them; the file reuses
    free pages and does not shrink. Other processes may write meanwhile.

    Args:
        path: of the log.
        params: ages, and how long to wait for other processes.
        now_ns: UTC; None takes the clock.
        raw_keep_days: `drift.raw_keep_days`.

    Raises:
        PredictionLogError: the log is missing, damaged or locked, or the disk fails.
    """
    now_ns = clock.now_ns() if now_ns is None else now_ns
    before_ns = now_ns - int(params.keep_days * NS_PER_DAY)
    raw_before_ns = now_ns - int(raw_keep_days * NS_PER_DAY)
    with faults_named(path):
        connection, _ = open_log(path, write=True, busy_s=params.busy_s)
        with connection:
            deleted = sum(_expire_stream(connection, stream, before_ns) for stream in _ids(connection, "streams"))
            for session in _ids(connection, "sessions"):
                _expire_outcomes(connection, session, before_ns)
                _expire_raw_rows(connection, session, raw_before_ns)
            with transaction(connection) as cursor:
                cursor.execute("DELETE FROM probes WHERE asked_ns < ?", (before_ns,))
                cursor.execute("DELETE FROM drops WHERE noted_ns < ?", (before_ns,))
    return deleted


def _ids(connection: dbapi.Connection, table: str) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {table}")  # noqa: S608
        return [int(row[0]) for row in cursor.fetchall()]


def _expire_stream(connection: dbapi.Connection, stream: int, before_ns: int) -> int:
    """Delete in chunks, so that a writer waits for one of them at most."""
    beyond = "SELECT asked_ns FROM predictions WHERE stream = ? AND asked_ns < ? ORDER BY asked_ns LIMIT 1 OFFSET ?"
    deleted = 0
    while True:
        with transaction(connection) as cursor:
            end_ns = number(cursor, beyond, (stream, before_ns, _AT_ONCE), otherwise=before_ns - 1) + 1
            cursor.execute("DELETE FROM predictions WHERE stream = ? AND asked_ns < ?", (stream, end_ns))
            deleted += number(cursor, "SELECT changes()")
        if end_ns == before_ns:
            return deleted


def _expire_outcomes(connection: dbapi.Connection, session: int, before_ns: int) -> None:
    """Delete outcomes of rows that no stream of the session holds any more."""
    oldest = """SELECT min(oldest) FROM (SELECT (SELECT row FROM predictions WHERE stream = streams.id
        ORDER BY asked_ns, row LIMIT 1) AS oldest FROM streams WHERE session = ?)"""
    with transaction(connection) as cursor:
        row = number(cursor, oldest, (session,), otherwise=_LAST_ROW)
        cursor.execute("DELETE FROM outcomes WHERE session = ? AND row < ? AND known_ns < ?", (session, row, before_ns))


def _expire_raw_rows(connection: dbapi.Connection, session: int, before_ns: int) -> None:
    """Delete in chunks from the oldest on, by time of asking: a replay's receive times are those of its capture."""
    kept = "SELECT time_ns FROM raw_rows WHERE session = ? AND asked_ns >= ? ORDER BY time_ns LIMIT 1"
    # Only among expired rows: a writer waits meanwhile.
    beyond = "SELECT time_ns FROM raw_rows WHERE session = ? AND time_ns < ? ORDER BY time_ns LIMIT 1 OFFSET ?"
    while True:
        with transaction(connection) as cursor:
            kept_ns = number(cursor, kept, (session, before_ns), otherwise=_LAST_ROW)
            until_ns = number(cursor, beyond, (session, kept_ns, _AT_ONCE), otherwise=kept_ns)
            cursor.execute("DELETE FROM raw_rows WHERE session = ? AND time_ns < ?", (session, until_ns))
        if until_ns == kept_ns:
            return
