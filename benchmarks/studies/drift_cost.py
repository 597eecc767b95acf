"""Seconds and peak memory of a covariate drift check at 100,000 rows of 75 features, in its own process.

`python benchmarks/studies/drift_cost.py [--rows 100000] [--threads 2]` checks three times: with an empty store (all
past pairs that a check may measure are measured), with the pairs of the first check, and right after a drift.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from lobsmith.units import NS_PER_MS

_RECENT_SHARE = 0.1
_CHILD = "--child"


def child(rows: int) -> None:
    started = time.monotonic()
    from lobsmith.drift.covariate import check_covariate_drift
    from lobsmith.drift.null_distribution import PastStore
    from lobsmith.drift.reference import RawRows, fit_scaling
    from lobsmith.features.definitions import COUNT
    from lobsmith.params import load_params

    print(f"imports: {time.monotonic() - started:.1f} s")
    drift = load_params(Path("params.yaml")).drift
    recent = round(rows * _RECENT_SHARE)
    reference = rows - recent
    lengths = {"reference_s": reference * drift.every_ms / 1000, "recent_s": recent * drift.every_ms / 1000}
    params = msgspec.structs.replace(drift, **lengths)
    count = reference + (params.past_pairs + 1) * recent
    raw = np.random.default_rng(0).normal(size=(count, COUNT)).astype(np.float32)
    time_ns = np.arange(count, dtype=np.int64) * params.every_ms * NS_PER_MS
    history = RawRows(time_ns, np.zeros(count, np.int64), raw)
    old, new = history.slice(count - rows, count - recent), history.slice(count - recent, count)
    scaling = fit_scaling(old.raw)
    before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "past.jsonl"
        for what, now in (
            ("first check", new),
            ("next check", new),
            ("a drift", replace(new, raw=new.raw + np.float32(1))),
        ):
            started, processor = time.monotonic(), time.process_time()
            verdict = check_covariate_drift(old, now, history, scaling, PastStore(path), params)
            seconds, processor = time.monotonic() - started, time.process_time() - processor
            print(
                f"{what}: {seconds:.1f} s, {processor:.1f} s of processor, {verdict.finding}, {verdict.past} past pairs"
            )
    print(f"peak memory: {_peak_mib():.0f} MiB, {before:.0f} MiB before the first check, {raw.nbytes >> 20} MiB rows")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of both windows together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(_CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.rows)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    subprocess.run([sys.executable, __file__, "--rows", str(options.rows), _CHILD], env=environment, check=True)


if __name__ == "__main__":
    main()
