"""Schema of a prediction log, and connections to it through ADBC.

    sessions      a client's run: its name, the source of its rows, the instrument
    streams       a version within a session: model, version, role
    predictions   rows of a stream, keyed by time of asking: a version's last hours are one range
    outcomes      labels of a session's rows
    raw_rows      rows in their own units, thinned, keyed by receive time: a session's last minutes are one range
    probes        latencies of single-row requests put to two versions in turn
    drops         rows that could not be logged or asked about, and where they were lost
    endings       how a session ended: closed by its client, or crashed
    logged        a view of predictions with names, roles and outcomes

A process must not open the same file through `sqlite3` as well: two SQLite libraries in one process do not see each
other's locks, and closing the file frees the other's. Other processes may use any SQLite.

Times are UTC ns. Horizons are part of the column names: `p_down_50ms`, `label_50ms`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_sqlite import dbapi

from lobsmith.errors import PredictionLogError
from lobsmith.features.definitions import DIRECTIONS
from lobsmith.files import fsync_directory

SCHEMA = 3
_APPLICATION = 0x4C4F4253  # "LOBS", in the header of the file
_PAGE_BYTES = 8192
_BATCH_ROWS = 65_536


_RAW_ROWS = """CREATE TABLE raw_rows (
    session INTEGER NOT NULL, time_ns INTEGER NOT NULL, row INTEGER NOT NULL, asked_ns INTEGER NOT NULL,
    segment INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (session, time_ns, row)) WITHOUT ROWID"""
_ENDINGS = """CREATE TABLE endings (
    session INTEGER PRIMARY KEY, ended_ns INTEGER NOT NULL, how TEXT NOT NULL, process TEXT NOT NULL)"""
_LACKING = {1: (_RAW_ROWS, _ENDINGS), 2: (_ENDINGS,)}
"""Tables missing in older schemas: a writer adds them, a reader takes them as empty."""


def probability_columns(horizons_ms: tuple[int, ...]) -> list[str]:
    """Return the names of the 3 H columns of probabilities, in the order of a row of float32 [H, 3]."""
    return [f"p_{direction}_{horizon}ms" for horizon in horizons_ms for direction in DIRECTIONS]


def label_columns(horizons_ms: tuple[int, ...]) -> list[str]:
    """Return the names of the H columns of labels."""
    return [f"label_{horizon}ms" for horizon in horizons_ms]


def _statements(horizons_ms: tuple[int, ...]) -> list[str]:
    probabilities, labels = probability_columns(horizons_ms), label_columns(horizons_ms)
    return [
        f"PRAGMA application_id = {_APPLICATION}",
        f"PRAGMA user_version = {SCHEMA}",
        "CREATE TABLE horizons (horizon_ms INTEGER PRIMARY KEY)",
        f"INSERT INTO horizons VALUES {', '.join(f'({horizon})' for horizon in horizons_ms)}",  # noqa: S608
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, source TEXT NOT NULL, instrument TEXT NOT NULL,
            started_ns INTEGER NOT NULL)""",
        """CREATE TABLE streams (
            id INTEGER PRIMARY KEY, session INTEGER NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL,
            role TEXT NOT NULL, UNIQUE (session, model, version, role))""",
        f"""CREATE TABLE predictions (
            stream INTEGER NOT NULL, asked_ns INTEGER NOT NULL, row INTEGER NOT NULL, time_ns INTEGER NOT NULL,
            segment INTEGER NOT NULL, mid INTEGER NOT NULL, latency_ns INTEGER NOT NULL, rows INTEGER NOT NULL,
            reason TEXT, {", ".join(f"{name} REAL" for name in probabilities)},
            PRIMARY KEY (stream, asked_ns, row)) WITHOUT ROWID""",
        f"""CREATE TABLE outcomes (
            session INTEGER NOT NULL, row INTEGER NOT NULL, known_ns INTEGER NOT NULL,
            {", ".join(f"{name} INTEGER" for name in labels)}, PRIMARY KEY (session, row)) WITHOUT ROWID""",
        _RAW_ROWS,
        _ENDINGS,
        """CREATE TABLE probes (
            session INTEGER NOT NULL, asked_ns INTEGER NOT NULL, first_model TEXT NOT NULL,
            first_version INTEGER NOT NULL, first_ns INTEGER NOT NULL, second_model TEXT NOT NULL,
            second_version INTEGER NOT NULL, second_ns INTEGER NOT NULL)""",
        "CREATE INDEX probes_asked ON probes (asked_ns)",
        """CREATE TABLE drops (
            session INTEGER NOT NULL, noted_ns INTEGER NOT NULL, place TEXT NOT NULL, count INTEGER NOT NULL)""",
        "CREATE INDEX drops_noted ON drops (noted_ns)",
        f"""CREATE VIEW logged AS SELECT streams.id AS stream,
            sessions.session, sessions.source, sessions.instrument, predictions.row, predictions.time_ns,
            predictions.asked_ns, predictions.segment, predictions.mid, streams.model, streams.version, streams.role,
            predictions.latency_ns, predictions.rows, predictions.reason,
            {", ".join(f"predictions.{name}" for name in probabilities)},
            {", ".join(f"outcomes.{name}" for name in labels)}, outcomes.known_ns
            FROM streams JOIN sessions ON sessions.id = streams.session
            JOIN predictions ON predictions.stream = streams.id
            LEFT JOIN outcomes ON outcomes.session = streams.session AND outcomes.row = predictions.row""",  # noqa: S608
    ]


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turn the driver's exceptions into one line with the file and the way out."""
    try:
        yield
    except adbc_driver_manager.Error as error:
        raise _named(path, error) from error


def _named(path: Path, error: Exception) -> PredictionLogError:
    what = " ".join(str(error).split())
    if "database is locked" in what:
        way_out = "another process holds it; raise prediction_log.busy_s or end that process"
    elif "disk is full" in what:
        way_out = "free space on its disk; what was committed before is safe"
    elif "not a database" in what or "malformed" in what:
        way_out = "the file is no prediction log or is damaged; move it away, a new one is then begun"
    else:
        way_out = "check the file, its folder and its disk"
    return PredictionLogError(f"{path}: {what}: {way_out}")


def _connect(path: Path, mode: str, busy_s: float) -> dbapi.Connection:
    # Autocommit: journal modes cannot be changed inside the transaction that the driver would begin.
    connection = dbapi.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
        cursor.fetchall()
    return connection


def _create(path: Path, horizons_ms: tuple[int, ...]) -> None:
    """Create an empty log atomically unless there is a file, safe against concurrent writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        with _connect(fresh, "rwc", 0) as connection, connection.cursor() as cursor:
            for statement in (
                f"PRAGMA page_size = {_PAGE_BYTES}",
                "PRAGMA journal_mode = WAL",
                *_statements(horizons_ms),
            ):
                cursor.execute(statement)
                cursor.fetchall()
        with suppress(FileExistsError):
            os.link(fresh, path)
    fsync_directory(path.parent)


def open_log(
    path: Path, *, horizons_ms: tuple[int, ...] | None = None, write: bool = False, busy_s: float = 10.0
) -> tuple[dbapi.Connection, tuple[int, ...]]:
    """Connect to a log; return the connection, in autocommit mode, and the log's horizons.

    Args:
        path: created by a writer if missing, never overwritten.
        horizons_ms: that the log must have; required of a writer, None takes those of the log.
        write: whether rows will be added.
        busy_s: how long to wait for other processes.

    Raises:
        PredictionLogError: the file is missing, is no prediction log, has another schema or other horizons, is locked,
            or the disk fails.
    """
    with faults_named(path):
        try:
            if write and horizons_ms is not None and not path.exists():
                _create(path, horizons_ms)
        except OSError as error:
            raise PredictionLogError(f"{path}: cannot be made: {error.strerror}") from error
        if not path.is_file():
            raise PredictionLogError(f"{path}: no prediction log; it is written by the recorder of a client")
        connection = _connect(path, "rw" if write else "ro", busy_s)
        try:
            horizons = _checked(connection, path, horizons_ms)
            if write:
                _upgrade(connection)
            return connection, horizons
        except BaseException:
            connection.close()
            raise


def _checked(connection: dbapi.Connection, path: Path, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    with connection.cursor() as cursor:
        application, schema = (number(cursor, f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if application != _APPLICATION:
            raise PredictionLogError(f"{path}: not a prediction log; move the file away, a new one is then begun")
        if schema not in (*_LACKING, SCHEMA):
            raise PredictionLogError(
                f"{path}: schema {schema}, this lobsmith writes {SCHEMA}; move the file away or use the release of "
                "lobsmith that wrote it"
            )
        cursor.execute("SELECT horizon_ms FROM horizons ORDER BY horizon_ms")
        held = tuple(int(row[0]) for row in cursor.fetchall())
    if wanted is not None and held != wanted:
        raise PredictionLogError(
            f"{path}: logged for horizons {held} ms, labels.horizons_ms is {wanted}; other horizons need another "
            "model.name, or move the file away"
        )
    return held


def _upgrade(connection: dbapi.Connection) -> None:
    """Add missing tables to a log of an older schema, safe against concurrent writers."""
    with connection.cursor() as cursor:
        if number(cursor, "PRAGMA user_version") == SCHEMA:
            return
    with transaction(connection) as cursor:
        for statement in _LACKING.get(number(cursor, "PRAGMA user_version"), ()):
            cursor.execute(statement)
        cursor.execute(f"PRAGMA user_version = {SCHEMA}")


def number(cursor: dbapi.Cursor, query: str, parameters: tuple[object, ...] = (), *, otherwise: int = 0) -> int:
    """Return a query's one integer, `otherwise` where it gives none or NULL."""
    cursor.execute(query, parameters or None)
    row = cursor.fetchone()
    return otherwise if row is None or row[0] is None else int(row[0])


@contextmanager
def transaction(connection: dbapi.Connection) -> Iterator[dbapi.Cursor]:
    """Write all or nothing; other writers wait from the start of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            # SQLite has ended the transaction already where the disk is full.
            with suppress(adbc_driver_manager.Error):
                cursor.execute("ROLLBACK")
            raise


@contextmanager
def batches(
    path: Path, connection: dbapi.Connection, query: str, parameters: tuple[object, ...] = ()
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Run a query and yield its record batches of up to 65,536 rows.

    The driver takes column types from the first batch: a column that is NULL there must have no values later.
    """
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": _BATCH_ROWS})
        cursor.execute(query, parameters or None)
        yield _read(path, cursor.fetch_record_batch())


def _read(path: Path, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:  # past the first batch, faults of SQLite come as those of Arrow
            raise _named(path, error) from error
        yield batch
