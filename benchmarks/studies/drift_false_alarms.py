"""How often the covariate gate, and what is usually taken in its place, call a market that has not changed another one.

`python benchmarks/studies/drift_false_alarms.py [--series 20] [--pairs 10] [--jobs 2] [--only WAY] [--output FILE]`
prints the table of `docs/results/drift.md`, or one column of it, and what lobsmith calls at smaller levels. A series is
stationary and long enough for 40 past pairs and some more; each of those is judged with the pairs before it as its
past. With `--output` what was measured is kept, and a second run goes on from there.
"""

import argparse
import json
import math
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from lobsmith.drift.covariate import check_covariate_drift
from lobsmith.drift.discriminator import rank_auc
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, Scaling, fit_scaling
from lobsmith.params import DiscriminatorParams, DriftParams
from lobsmith.units import NS_PER_S

FEATURES, REFERENCE, RECENT, PAST = 20, 1000, 250, 40
NAMES = tuple(f"feature_{at}" for at in range(FEATURES))
MEMORIES = (0.02, 0.2, 1.0, 2.0, 5.0)
"""Autocorrelation times, in recent windows; one more has slow and fast features together."""
MIXED = "mixed"
LEVEL = 0.05
SMALLER_LEVELS = (0.01, 0.0012)
"""The second is that of `drift.false_alarms_a_day`, for each kind and look."""
WAYS = OURS, NAIVE, EVIDENTLY = "lobsmith", "naive AUC", "Evidently"
_ONE_SIDED = 1.6448536269514722
"""95th percentile of a standard Gaussian."""

Float32 = npt.NDArray[np.float32]


def drift_params() -> DriftParams:
    """A row a second: 1000 s against the 250 s after them."""
    return DriftParams(
        every_ms=1000,
        reference_s=float(REFERENCE),
        recent_s=float(RECENT),
        minimum_rows=100,
        past_pairs=PAST,
        pairs_a_look=PAST,
        false_alarms_a_day=1.0,
        look_s=1.0,
        raw_keep_days=7.0,
        gate_level=0.01,
        feed_limit=0.04,
        discriminator=DiscriminatorParams(seed=5, hidden=16, folds=4, rows=5000, seconds=600.0),
    )


def market(memory: float | str, rows: int, seed: int) -> RawRows:
    """Return stationary autoregressions, every fourth feature heavy-tailed, from a stationary start."""
    generator = np.random.default_rng([seed, int(1000 * memory) if isinstance(memory, float) else 0])
    windows = (
        np.geomspace(MEMORIES[0], MEMORIES[-1], FEATURES) if isinstance(memory, str) else np.full(FEATURES, memory)
    )
    raw = np.empty((rows, FEATURES))
    for column, tau in enumerate(windows * RECENT):
        keep = math.exp(-1 / tau)
        noise = generator.normal(size=rows)
        noise[1:] *= math.sqrt(1 - keep**2)
        raw[:, column] = lfilter([1.0], [1.0, -keep], noise)
    raw[:, ::4] = np.sinh(raw[:, ::4])
    return RawRows(np.arange(rows, dtype=np.int64) * NS_PER_S, np.zeros(rows, np.int64), raw.astype(np.float32))


def ours(
    reference: RawRows, recent: RawRows, rows: RawRows, scaling: Scaling, path: Path, params: DriftParams
) -> float:
    """Return the p-value of the product's own look; `path` holds the past pairs that are measured."""
    found = check_covariate_drift(
        reference, recent, rows, scaling, PastStore(path), params, level=LEVEL, gap_s=0.0, names=NAMES
    )
    if found.p_value is None:
        raise RuntimeError(found.reason)
    # An alarm takes its window out of the past. Here it is false, and each pair is to have the same past.
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"pair"' in line))
    return found.p_value


def naive(reference: Float32, recent: Float32, seed: int) -> bool:
    """Shuffled cross-validation of a random forest; drift where its AUC is above 1/2 by its own standard error."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows, label = np.concatenate([reference, recent]), np.arange(len(reference) + len(recent)) >= len(reference)
    forest = RandomForestClassifier(30, max_depth=8, class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    auc = rank_auc(cross_val_predict(forest, rows, label, cv=folds, method="predict_proba")[:, 1], label)
    error = math.sqrt((len(rows) + 1) / (12 * len(reference) * len(recent)))
    return auc > 0.5 + _ONE_SIDED * error


def evidently(reference: Float32, recent: Float32) -> bool:
    """Evidently's default preset: drift of the data set where half of all features have drifted.

    The preset's first metric is computed without its pages, which take ten times as long and say the same.
    """
    import pandas as pd
    from evidently import Report
    from evidently.metrics import DriftedColumnsCount

    old, new = (pd.DataFrame(rows, columns=NAMES) for rows in (reference, recent))
    counted = Report([DriftedColumnsCount()]).run(new, old).dict()["metrics"][0]["value"]
    return bool(counted["share"] >= 0.5)


def one_series(task: tuple[float | str, int, int, tuple[str, ...]]) -> dict[str, Any]:
    """Judge the newest pairs of one series, each by the pairs before it."""
    memory, seed, pairs, ways = task
    params, rows = drift_params(), market(memory, REFERENCE + (PAST + pairs) * RECENT, seed)
    scaling = fit_scaling(rows.raw[:REFERENCE])
    alarms, p_values = dict.fromkeys(ways, 0), []
    with tempfile.TemporaryDirectory() as folder:
        for at in range(pairs):
            start = REFERENCE + (PAST + at) * RECENT
            reference, recent = rows.slice(start - REFERENCE, start), rows.slice(start, start + RECENT)
            if OURS in ways:
                p_values.append(ours(reference, recent, rows, scaling, Path(folder) / "past.jsonl", params))
                alarms[OURS] += p_values[-1] <= LEVEL
            if NAIVE in ways:
                alarms[NAIVE] += naive(reference.raw, recent.raw, seed)
            if EVIDENTLY in ways:
                alarms[EVIDENTLY] += evidently(reference.raw, recent.raw)
    return {"memory": memory, "seed": seed, "pairs": pairs, "alarms": alarms, "p_values": p_values}


def measure(
    memories: tuple[float | str, ...], series: int, pairs: int, jobs: int, ways: tuple[str, ...], output: Path | None
) -> list[Any]:
    """Judge all series; what `output` already holds is not measured again."""
    lines = output.read_text().splitlines() if output is not None and output.exists() else []
    results = [
        one
        for one in map(json.loads, lines)
        if one["pairs"] == pairs and one["seed"] < series and one["alarms"].keys() >= {*ways}
    ]
    done = {(one["memory"], one["seed"]) for one in results}
    tasks = [(memory, seed, pairs, ways) for seed in range(series) for memory in memories if (memory, seed) not in done]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, result in enumerate(pool.imap_unordered(one_series, tasks), 1):
            results.append(result)
            if output is not None:
                with output.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            print(f"{number} of {len(tasks)}: memory {result['memory']}, {result['alarms']}", flush=True)
    return results


def table(results: list[Any], ways: tuple[str, ...]) -> str:
    """Return alarms as a table in Markdown."""
    lines = ["| autocorrelation time | pairs | " + " | ".join(ways) + " |", "|---|---|" + "---|" * len(ways)]
    for memory in dict.fromkeys(one["memory"] for one in results):
        chosen = [one for one in results if one["memory"] == memory]
        counts = [sum(one["alarms"][way] for one in chosen) for way in ways]
        shown = " | ".join(str(count) for count in (sum(one["pairs"] for one in chosen), *counts))
        lines.append(f"| {memory} | {shown} |")
    if OURS in ways:
        p_values = np.array([p for one in results for p in one.get("p_values", [])])
        counts = (f"{int((p_values <= level).sum())} at {level}" for level in SMALLER_LEVELS)
        lines.append(f"\nOf {len(p_values)} pairs, {OURS} calls {' and '.join(counts)}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=10, help="judged of each series")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=WAYS, help="measure one way of looking")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    ways = WAYS if given.only is None else (given.only,)
    results = measure((*MEMORIES, MIXED), given.series, given.pairs, given.jobs, ways, given.output)
    print(table(results, ways))


if __name__ == "__main__":
    main()
