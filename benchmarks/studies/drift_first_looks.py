"""How often the first looks at a version call a market drift that has not changed, with windows of its training data.

`python benchmarks/studies/drift_first_looks.py [--seeds 4] [--first 300] [--jobs 1] [--output FILE]` prints a table of
`docs/results/drift.md`. A case is a simulated market of one seed: a version learns its first stretch, and from five
minutes after that on it is looked at for drift a few times, `drift.look_s` apart. Nothing changes but the market's own
regimes; where these are long, the training data may hold only some of them. With `--output` what was measured is kept,
and a second run goes on from there.
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

from lobsmith.drift.covariate import Learnt, check_covariate_drift, check_level
from lobsmith.drift.null_distribution import PastStore, measured_in_training
from lobsmith.drift.reference import RawRows, fit_scaling, freeze
from lobsmith.drift.verdict import Finding
from lobsmith.drift.windows import Lengths, covered, fitted
from lobsmith.features.dataset import build_dataset
from lobsmith.market.simulator import Change, Dynamics, simulate
from lobsmith.params import load_params
from lobsmith.units import NS_PER_S

LEARNT_S = (1200, 21_600)
"""The demonstration's data, and the window that `params.yaml` asks for."""
MARKETS: dict[str, tuple[float, dict[str, float]]] = {
    "regimes of 1 min": (60.0, {}),
    "regimes of 10 min": (600.0, {}),
    "regimes of 30 min": (1800.0, {}),
    "sizes x 1.6": (60.0, {"order": 1.6, "queue": 1.6}),
    "sizes x 3": (60.0, {"order": 3.0, "queue": 3.0}),
    "sizes x 8": (60.0, {"order": 8.0, "queue": 8.0}),
}
"""Mean stay in a regime, s, and what changes from the end of the training window on."""
LOOKS, AFTER_S = 4, 300.0
PLAIN = 0.05
FIRST_SEED = 300


def one_case(task: tuple[str, int, int]) -> dict[str, Any]:
    """Look at one market a few times; return the p-value of each look, None where nothing can be said."""
    name, learnt_s, seed = task
    params = load_params(Path("params.yaml"))
    drift = replace(params.drift, discriminator=replace(params.drift.discriminator, seconds=600))
    regime_s, factors = MARKETS[name]
    market = Dynamics(regime_s=regime_s)
    end_s = round(learnt_s + AFTER_S + drift.recent_s + LOOKS * drift.look_s)
    changes = [Change(at_s=learnt_s, dynamics=market.scaled(factors))] if factors else []
    rows = next(iter(freeze([build_dataset(simulate(seed, end_s, market, changes), params)], drift).rows.values()))
    start = int(rows.time_ns[0])

    def between(from_s: float, until_s: float) -> RawRows:
        return rows.between(*(start + round(at * NS_PER_S) for at in (from_s, until_s)))

    training = between(0, learnt_s)
    drift = fitted(drift, covered(training))
    scaling, lengths = fit_scaling(training.raw), Lengths.of(drift)
    learnt = Learnt(training, measured_in_training(training, scaling, drift))
    found: list[float | None] = []
    with tempfile.TemporaryDirectory() as folder:
        for check in range(LOOKS):
            now_s = learnt_s + AFTER_S + drift.recent_s + check * drift.look_s
            verdict = check_covariate_drift(
                training.newest(lengths.reference),
                between(now_s - drift.recent_s, now_s),
                training,
                scaling,
                PastStore(Path(folder) / "past.jsonl"),
                # Past pairs as far apart are the other table's.
                replace(drift, past_pairs=10_000),
                level=check_level(drift),
                learnt=learnt,
            )
            found.append(None if verdict.finding is Finding.INSUFFICIENT else verdict.p_value)
    return {"market": name, "learnt_s": learnt_s, "seed": seed, "windows": len(learnt.measured), "p": found}


def measure(seeds: range, jobs: int, output: Path | None, markets: Iterable[str] = MARKETS) -> list[Any]:
    """Look at all markets; what `output` already holds is not measured again."""
    lines = output.read_text().splitlines() if output is not None and output.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(one["market"], one["learnt_s"], one["seed"]) for one in results}
    tasks = [(name, learnt_s, seed) for seed in seeds for learnt_s in LEARNT_S for name in markets]
    tasks = [task for task in tasks if task not in done]
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
    heads = ("learnt, h", "market", "cases", "first look: not told", f"p <= {PLAIN:g}", f"p <= {level:.2g}")
    heads += (f"{LOOKS} looks: not told", f"p <= {PLAIN:g}", f"p <= {level:.2g}")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for learnt_s in LEARNT_S:
        for name in MARKETS:
            chosen = [one["p"] for one in results if (one["market"], one["learnt_s"]) == (name, learnt_s)]
            if not chosen:
                continue
            cells = [f"{learnt_s / 3600:.2g}", name, str(len(chosen))]
            for checks in ([one[:1] for one in chosen], chosen):
                p = np.array([np.nan if value is None else value for one in checks for value in one])
                cells += [f"{np.isnan(p).sum()} of {len(p)}", str((p <= PLAIN).sum()), str((p <= level).sum())]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="how many")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    print(table(measure(range(given.first, given.first + given.seeds), given.jobs, given.output)))


if __name__ == "__main__":
    main()
