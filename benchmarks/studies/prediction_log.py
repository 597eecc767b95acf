"""Write and read rates of the prediction log: `python benchmarks/studies/prediction_log.py [ROWS]` (10 million).

A log of three days is written as a recorder does: 2000 rows a flush, one version in production and one candidate, with
outcomes, once without and once with raw rows. Then the last hours of both versions are compared, their raw rows read,
and all of it exported. One JSON object on standard output.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lobsmith.drift.reference import thinned
from lobsmith.features.definitions import COUNT
from lobsmith.monitoring.log.export import export_parquet
from lobsmith.monitoring.log.raw_rows import raw_rows
from lobsmith.monitoring.log.reader import PredictionLog, compared
from lobsmith.monitoring.log.retention import expire
from lobsmith.monitoring.log.writer import LogWriter, Role, Source
from lobsmith.params import PredictionLogParams
from lobsmith.units import NS_PER_S

HORIZONS = (50, 100, 1000, 10_000)
FLUSH_ROWS = 1000
"""Of each version."""
FIRST, SECOND = ("lob", 20260301000000), ("lob_candidate", 20260301010000)
END_NS = 1_775_000_000_000_000_000
HOUR_NS = 3600 * NS_PER_S
DAYS = 3
EVERY_MS = 500


def fill(path: Path, rows: int, *, with_raw: bool) -> dict[str, float]:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], (FLUSH_ROWS, len(HORIZONS))).astype(np.float32)
    labels = generator.integers(-1, 3, (FLUSH_ROWS, len(HORIZONS))).astype(np.int8)
    raw, raw_count = generator.normal(size=(FLUSH_ROWS, COUNT)).astype(np.float32), 0
    step_ns = DAYS * 24 * HOUR_NS // (rows // 2)
    adding, flushing = [], []
    busy = time.process_time()
    with LogWriter(path, HORIZONS, PredictionLogParams(flush_s=1.0, keep_days=DAYS, busy_s=10.0)) as log:
        for start in range(0, rows // 2, FLUSH_ROWS):
            session = f"session {start // 500_000}"
            log.begin(session, Source.LIVE, "binance:BTCUSDT", END_NS)
            row = np.arange(start, start + FLUSH_ROWS)
            time_ns = END_NS - DAYS * 24 * HOUR_NS + row * step_ns
            begun = time.perf_counter()
            for version, role in ((FIRST, Role.PRIMARY), (SECOND, Role.CANDIDATE)):
                log.add_predictions(
                    session,
                    *version,
                    role,
                    row=row,
                    time_ns=time_ns,
                    asked_ns=time_ns + 1000,
                    segment=row // 100_000,
                    mid=120_000 + row % 7,
                    latency_ns=50_000 + row % 1000,
                    rows=1,
                    probabilities=probabilities,
                )
            log.add_outcomes(session, row, labels, time_ns + 10_000_000_000)
            if with_raw:
                kept = thinned(time_ns, EVERY_MS)
                raw_count += len(kept)
                about = {"row": row[kept], "time_ns": time_ns[kept], "asked_ns": time_ns[kept] + 1000}
                log.add_raw(session, **about, segment=row[kept] // 100_000, raw=raw[kept])
            added = time.perf_counter()
            log.flush()
            adding.append(added - begun)
            flushing.append(time.perf_counter() - added)
    return {
        "predictions": rows,
        "raw_rows": raw_count,
        "add_us_a_row": 1e6 * float(np.median(adding)) / (2 * FLUSH_ROWS),
        "flush_p50_ms": 1e3 * float(np.median(flushing)),
        "flush_p99_ms": 1e3 * float(np.percentile(flushing, 99)),
        "flushed_rows_per_s": rows / sum(flushing),
        "cpu_us_a_row": 1e6 * (time.process_time() - busy) / rows,
        "bytes_a_row": path.stat().st_size / rows,
    }


def read(path: Path, hours: int) -> dict[str, float]:
    begun, busy = time.perf_counter(), time.process_time()
    with PredictionLog(path) as log:
        pairs = compared(log, FIRST, SECOND, since_ns=END_NS - hours * HOUR_NS)
    return {
        "hours": hours,
        "pairs": len(pairs.first.time_ns),
        "s": time.perf_counter() - begun,
        "cpu_s": time.process_time() - busy,
    }


def read_raw(path: Path, hours: int) -> dict[str, float]:
    begun, busy = time.perf_counter(), time.process_time()
    with PredictionLog(path) as log:
        sessions = [session["session"] for session in log.sessions()]
        rows = raw_rows(log, sessions, every_ms=EVERY_MS, since_ns=END_NS - hours * HOUR_NS)
    return {
        "hours": hours,
        "rows": len(rows),
        "s": time.perf_counter() - begun,
        "cpu_s": time.process_time() - busy,
    }


def export(path: Path) -> dict[str, float]:
    begun, busy = time.perf_counter(), time.process_time()
    file = path.with_suffix(".parquet")
    with PredictionLog(path) as log:
        rows = export_parquet(log, file)
    return {
        "rows": rows,
        "s": time.perf_counter() - begun,
        "cpu_s": time.process_time() - busy,
        "bytes_a_row": file.stat().st_size / max(rows, 1),
    }


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lob.db"
        figures = {
            "write_without_raw": fill(path.with_name("plain.db"), rows, with_raw=False),
            "write": fill(path, rows, with_raw=True),
            "read": [read(path, hours) for hours in (1, 6, 24)],
            "read_raw": [read_raw(path, hours) for hours in (1, 24, 72)],
            "export": export(path),
        }
        begun = time.perf_counter()
        params = PredictionLogParams(flush_s=1.0, keep_days=DAYS - 1, busy_s=10.0)
        figures["expire"] = {
            "rows": expire(path, params, END_NS, raw_keep_days=DAYS - 1),
            "s": time.perf_counter() - begun,
        }
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
