"""Prediction logs for tests: rows at a fixed pace, with answers that are drawn from a seed."""

import os
from pathlib import Path

import numpy as np

from lobsmith.monitoring.log.writer import LogWriter, Role, Source
from lobsmith.params import PredictionLogParams

HORIZONS = (50, 1000)
PARAMS = PredictionLogParams(flush_s=0.1, keep_days=1.0, busy_s=5.0)
START_NS = 1_772_000_000_000_000_000
STEP_NS = 10_000_000
MODEL, CANDIDATE = ("lob", 20260301000000), ("lob_candidate", 20260301010000)


def writer(path: Path, **options) -> LogWriter:
    return LogWriter(path, HORIZONS, PARAMS, **options)


def random_probabilities(count: int, seed: int = 0) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet([1, 1, 1], (count, len(HORIZONS)))
    return p.astype(np.float32)


def add(log: LogWriter, session: str, version, start: int, stop: int, *, role=Role.PRIMARY, seed=0, **changed) -> None:
    """Add rows `start` to `stop` of a session; a segment has 100 rows."""
    row = np.arange(start, stop)
    given = {
        "row": row,
        "time_ns": START_NS + row * STEP_NS,
        "asked_ns": START_NS + row * STEP_NS + 500,
        "segment": row // 100,
        "mid": 1000 + row % 7,
        "latency_ns": 20_000 + row,
        "rows": 1,
        "probabilities": random_probabilities(len(row), seed),
    }
    log.add_predictions(session, *version, role, **(given | changed))


def begin(log: LogWriter, session: str) -> None:
    log.begin(session, Source.LIVE, "binance:BTCUSDT", START_NS)


if __name__ == "__main__":  # a writer process that is killed: rows go in until then, each flush is reported
    import sys
    import time

    with writer(Path(sys.argv[1])) as log:
        begin(log, str(os.getpid()))
        flushed_s = time.monotonic()
        for row in range(int(sys.argv[2])):
            added_ns = time.monotonic_ns()
            add(log, str(os.getpid()), MODEL, row, row + 1)
            if time.monotonic() - flushed_s > PARAMS.flush_s / 2:
                log.flush()
                flushed_s = time.monotonic()
            print(f"{row} {added_ns}", flush=True)
            time.sleep(0.002)
