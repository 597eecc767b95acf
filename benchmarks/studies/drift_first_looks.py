"""False alarms of the first drift checks of a version, with windows of its training data, on an unchanged market.

`python benchmarks/studies/drift_first_looks.py [--seeds 4] [--first 300] [--jobs 1] [--output FILE]` prints a table of
`docs/results/drift.md`. A case is a simulated market of one seed: a version trained on its first stretch and checked a
few times from five minutes later on, `drift.look_s` apart. Only the market's own regimes change; the training data may
lack some of the long ones. `--output` keeps the measurements, and a second run resumes.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from lobsmith.drift.covariate import TrainingWindow, check_covariate_drift, check_level
from lobsmith.drift.null_distribution import PastStore, measured_in_training
from lobsmith.drift.reference import RawRows, fit_scaling, freeze
from lobsmith.drift.verdict import Finding
from lobsmith.drift.windows import Lengths, covered, fitted
from lobsmith.features.dataset import build_dataset
from lobsmith.market.simulator import Change, Dynamics, simulate
from lobsmith.params import load_params
from lobsmith.units import NS_PER_S

TRAINING_S = (1200, 21_600)
"""Training data of the demonstration, and the window of `params.yaml`."""
MARKETS: dict[str, tuple[float, dict[str, float]]] = {
    "regimes of 1 min": (60.0, {}),
    "regimes of 10 min": (600.0, {}),
    "regimes of 30 min": (1800.0, {}),
    "sizes x 1.6": (60.0, {"order": 1.6, "queue": 1.6}),
    "sizes x 3": (60.0, {"order": 3.0, "queue": 3.0}),
    "sizes x 8": (60.0, {"order": 8.0, "queue": 8.0}),
}
"""Mean stay in a regime, s, and factors from the end of the training window on."""
CHECKS, AFTER_S = 4, 300.0
PLAIN = 0.05
FIRST_SEED = 300


def one_case(task: tuple[str, int, int]) -> dict[str, Any]:
    """Check one market a few times; return the p-value of each check, None where data are insufficient."""
    name, training_s, seed = task
    params = load_params(Path("params.yaml"))
    drift = replace(params.drift, discriminator=replace(params.drift.discriminator, seconds=600))
    regime_s, factors = MARKETS[name]
    market = Dynamics(regime_s=regime_s)
    end_s = round(training_s + AFTER_S + drift.recent_s + CHECKS * drift.look_s)
    changes = [Change(at_s=training_s, dynamics=market.scaled(factors))] if factors else []
    rows = next(iter(freeze([build_dataset(simulate(seed, end_s, market, changes), params)], drift).rows.values()))
    start = int(rows.time_ns[0])

    def between(from_s: float, until_s: float) -> RawRows:
        return rows.between(*(start + round(at * NS_PER_S) for at in (from_s, until_s)))

    training = between(0, training_s)
    drift = fitted(drift, covered(training))
    scaling, lengths = fit_scaling(training.raw), Lengths.of(drift)
    window = TrainingWindow(training, measured_in_training(training, scaling, drift))
    p_values: list[float | None] = []
    with tempfile.TemporaryDirectory() as folder:
        for check in range(CHECKS):
            now_s = training_s + AFTER_S + drift.recent_s + check * drift.look_s
            verdict = check_covariate_drift(
                training.newest(lengths.reference),
                between(now_s - drift.recent_s, now_s),
                training,
                scaling,
                PastStore(Path(folder) / "past.jsonl"),
                # Past pairs as far apart are in the other table.
                replace(drift, past_pairs=10_000),
                level=check_level(drift),
                training_window=window,
            )
            p_values.append(None if verdict.finding is Finding.INSUFFICIENT else verdict.p_value)
    return {"market": name, "learnt_s": training_s, "seed": seed, "windows": len(window.measured), "p": p_values}


def measure(seeds: range, jobs: int, output: Path | None, markets: Iterable[str] = MARKETS) -> list[Any]:
    """Check all markets that `output` does not hold yet."""
    lines = output.read_text().splitlines() if output is not None and output.exists() else []
    results = [json.loads(line) for line in lines]
    measured = {(result["market"], result["learnt_s"], result["seed"]) for result in results}
    tasks = [(name, training_s, seed) for seed in seeds for training_s in TRAINING_S for name in markets]
    tasks = [task for task in tasks if task not in measured]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for result in pool.imap_unordered(one_case, tasks):
            results.append(result)
            if output is not None:
                with output.open("a") as file:
                    file.write(json.dumps(result) + "\n")
    return results


def table(results: list[Any]) -> str:
    """Return alarms as a table in Markdown."""
    level = check_level(load_params(Path("params.yaml")).drift)
    heads = ("trained, h", "market", "cases", "first: no verdict", f"p <= {PLAIN:g}", f"p <= {level:.2g}")
    heads += (f"{CHECKS}: no verdict", f"p <= {PLAIN:g}", f"p <= {level:.2g}")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for training_s in TRAINING_S:
        for name in MARKETS:
            chosen = [result["p"] for result in results if (result["market"], result["learnt_s"]) == (name, training_s)]
            if not chosen:
                continue
            cells = [f"{training_s / 3600:.2g}", name, str(len(chosen))]
            for checks in ([p_values[:1] for p_values in chosen], chosen):
                p = np.array([np.nan if value is None else value for p_values in checks for value in p_values])
                cells += [f"{np.isnan(p).sum()} of {len(p)}", str((p <= PLAIN).sum()), str((p <= level).sum())]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="how many")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    print(table(measure(range(options.first, options.first + options.seeds), options.jobs, options.output)))


if __name__ == "__main__":
    main()
