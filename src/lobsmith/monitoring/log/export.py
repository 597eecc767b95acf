"""The prediction log as Parquet, for a desk's own backtester: a row for each prediction, with its outcome.

| column            | type      | meaning |
|-------------------|-----------|---------|
| `session`         | string    | a client's run |
| `source`          | string    | source of its rows: `live`, `replay`, `demo` |
| `instrument`      | string    | `venue:symbol` |
| `row`             | int64     | number of the row within the session, rising |
| `time_ns`         | timestamp | local receive time of the row, ns, UTC |
| `asked_ns`        | timestamp | wall clock when the version was asked, ns, UTC |
| `segment`         | int64     | number of the gap-free run of rows within the session |
| `mid`             | int64     | twice the mid, in ticks of the instrument |
| `model`           | string    | Triton model |
| `version`         | int64     | its version |
| `role`            | string    | `primary`, `candidate`, `fallback` |
| `latency_ns`      | int64     | from hand-over to answer or timeout |
| `rows`            | int64     | rows in the request |
| `reason`          | string    | of a missing answer, else null |
| `p_down_50ms` …   | float     | and `p_unchanged_50ms`, `p_up_50ms`, at each horizon; null without an answer |
| `label_50ms` …    | int8      | outcome at each horizon: 0 down, 1 unchanged, 2 up; null where unknown |
| `known_ns`        | timestamp | when the outcome was known, else null |

Rows are grouped by version, session and role, in the order of asking. The file's metadata has the horizons.

Raw rows have their own file: `session` to `segment` as above, without `mid`, and a float column for each feature, in
its own unit.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lobsmith.errors import PredictionLogError
from lobsmith.features.definitions import NAMES
from lobsmith.files import fsync_directory, fsync_file
from lobsmith.monitoring.log.raw_rows import as_floats, has_raw_rows
from lobsmith.monitoring.log.reader import EVER, NEVER, PredictionLog
from lobsmith.monitoring.log.schema import batches, faults_named, label_columns, probability_columns

_TIME = pa.timestamp("ns", "UTC")
_UNKNOWN = -1


def export_parquet(log: PredictionLog, path: Path, *, since_ns: int = EVER, until_ns: int = NEVER) -> int:
    """Write predictions asked from `since_ns` to before `until_ns`, UTC, batch by batch; return the number of rows.

    The file, compressed with zstd, appears or replaces an older one once complete.

    Raises:
        PredictionLogError: the log cannot be read, or the file not be written.
    """
    schema = _schema(log.horizons_ms)
    query = f"""SELECT {", ".join(map(_selected, schema))} FROM logged
        WHERE asked_ns >= ? AND asked_ns < ? ORDER BY stream, asked_ns, row"""  # noqa: S608

    def columns(batch: pa.RecordBatch) -> list[pa.Array]:
        return [_typed(column, field) for column, field in zip(batch.columns, schema, strict=True)]

    return _write(log, path, schema, query, (since_ns, until_ns), columns)


def export_raw_rows(log: PredictionLog, path: Path, *, since_ns: int = EVER, until_ns: int = NEVER) -> int:
    """Write the raw rows asked about from `since_ns` to before `until_ns`; otherwise as `export_parquet`."""
    if not has_raw_rows(log):
        raise PredictionLogError(f"{log.path}: from before raw rows were kept; a client that records adds them")
    about = _about_row()
    schema = pa.schema([*about, *(pa.field(name, pa.float32(), nullable=False) for name in NAMES)])
    query = """SELECT sessions.session, source, instrument, row, time_ns, asked_ns, segment, CAST(raw AS BLOB)
        FROM sessions CROSS JOIN raw_rows ON raw_rows.session = sessions.id
        WHERE asked_ns >= ? AND asked_ns < ? ORDER BY sessions.id, time_ns, row"""

    def columns(batch: pa.RecordBatch) -> list[pa.Array]:
        *described, blobs = batch.columns
        floats = as_floats(log, blobs, batch.column(4).to_numpy())
        return [
            *(column.cast(field.type) for column, field in zip(described, about, strict=True)),
            *map(pa.array, floats.T),
        ]

    return _write(log, path, schema, query, (since_ns, until_ns), columns)


def _write(
    log: PredictionLog,
    path: Path,
    schema: pa.Schema,
    query: str,
    parameters: tuple[int, int],
    columns: Callable[[pa.RecordBatch], list[pa.Array]],
) -> int:
    """Write a query's result to a file that appears once complete; return the number of rows."""
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            with (
                faults_named(log.path),
                pq.ParquetWriter(part, schema, compression="zstd") as writer,
                batches(log.path, log.connection, query, parameters) as read,
            ):
                for batch in read:
                    writer.write_batch(pa.record_batch(columns(batch), schema=schema))
                    count += len(batch)
            fsync_file(part)
            os.replace(part, path)  # noqa: PTH105
            fsync_directory(path.parent)
    except OSError as error:
        raise PredictionLogError(f"{path}: cannot be written: {error.strerror or error}") from error
    return count


def _about_row() -> list[pa.Field]:
    return [
        *(pa.field(name, pa.string(), nullable=False) for name in ("session", "source", "instrument")),
        pa.field("row", pa.int64(), nullable=False),
        *(pa.field(name, _TIME, nullable=False) for name in ("time_ns", "asked_ns")),
        pa.field("segment", pa.int64(), nullable=False),
    ]


def _schema(horizons_ms: tuple[int, ...]) -> pa.Schema:
    text, number = pa.string(), pa.int64()
    fields = [
        *_about_row(),
        pa.field("mid", number, nullable=False),
        pa.field("model", text, nullable=False),
        pa.field("version", number, nullable=False),
        pa.field("role", text, nullable=False),
        *(pa.field(name, number, nullable=False) for name in ("latency_ns", "rows")),
        pa.field("reason", text),
        *(pa.field(name, pa.float32()) for name in probability_columns(horizons_ms)),
        *(pa.field(name, pa.int8()) for name in label_columns(horizons_ms)),
        pa.field("known_ns", _TIME),
    ]
    return pa.schema(fields, metadata={"lobsmith.horizons_ms": ",".join(map(str, horizons_ms))})


def _selected(field: pa.Field) -> str:
    """Select a column with a value in place of NULL: see `batches`."""
    if not field.nullable:
        return str(field.name)
    if pa.types.is_string(field.type):
        return f"COALESCE({field.name}, '')"
    return f"COALESCE({field.name}, {float(_UNKNOWN) if pa.types.is_floating(field.type) else _UNKNOWN})"


def _typed(column: pa.Array, field: pa.Field) -> pa.Array:
    if field.nullable:
        missing = "" if pa.types.is_string(field.type) else _UNKNOWN
        column = pc.if_else(pc.equal(column, pa.scalar(missing, column.type)), pa.scalar(None, column.type), column)
    return column.cast(field.type, safe=not pa.types.is_floating(field.type))
