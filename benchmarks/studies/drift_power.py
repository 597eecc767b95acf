"""How often and how soon a change of the simulated market is called drift, and whether what moved is named.

`python benchmarks/studies/drift_power.py [--histories 10] [--processes 2] [--work DIR] [--output FILE]` prints the
tables of `docs/results/drift.md`. A case is a history of nine hours, a model whose training window ended an hour and a
half before the change, and four looks of `drift.look_s` from the change on, which begin at an even phase of it.
Histories are made once each and every change starts from a copy of the market. Cases that are done are kept in DIR and
not done again.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from benchmarks.studies.drift_changes import CHANGES, SIZES, Observed, joined, truly_moved, truths
from benchmarks.studies.shadow_power import share
from lobsmith.drift.covariate import check_covariate_drift, check_level
from lobsmith.drift.null_distribution import PastStore, angle, p_value
from lobsmith.drift.reference import RawRows, Scaling, fit_scaling
from lobsmith.drift.verdict import DriftVerdict
from lobsmith.market.simulator import START_NS
from lobsmith.params import DriftParams, Params, load_params
from lobsmith.units import NS_PER_S

HISTORY_S = 9 * 3600.0
CHANGES_AT_S = (0.0, 600.0, 1200.0)  # after the history; a case each
TRAINED_S = 5130.0  # from the end of the training window to the end of the history
LOOKS = 4
FIRST_SEED = 100
PLAIN = 0.05


def measured(params: Params) -> Params:
    """Return parameters under which no clock decides what is computed, and all past pairs are measured at once."""
    drift = params.drift
    return replace(
        params,
        drift=replace(drift, pairs_a_look=1000, discriminator=replace(drift.discriminator, seconds=600)),
    )


def cases(seed: int, histories: int, params: Params, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the cases of one history that are wanted; each is `change`, `seed`, `at_s` and its looks."""
    drift = params.drift
    market = Observed(seed, params)
    history = market.until(HISTORY_S).rows
    reference = between(history, HISTORY_S - TRAINED_S - drift.reference_s, HISTORY_S - TRAINED_S)
    scaling = fit_scaling(reference.raw)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "past.jsonl"
        for number, after_s in enumerate(CHANGES_AT_S):
            at_s = HISTORY_S + after_s
            if after_s:
                history = joined([history, market.until(at_s).rows], drift.every_ms)
            phase_s = (
                drift.look_s
                * (len(CHANGES_AT_S) * (seed - FIRST_SEED) + number + 0.5)
                / (len(CHANGES_AT_S) * histories)
            )
            for change, factors in CHANGES.items():
                if key(change, seed, at_s) not in wanted:
                    continue
                shutil.copy(kept, Path(folder) / "case.jsonl") if kept.exists() else None
                found = checks(
                    market.changed(factors),
                    at_s,
                    phase_s,
                    history,
                    reference,
                    scaling,
                    Path(folder) / "case.jsonl",
                    drift,
                )
                if not kept.exists():  # the pairs before the change are every case's
                    shutil.copy(Path(folder) / "case.jsonl", kept)
                yield {"change": change, "seed": seed, "at_s": at_s, "phase_s": phase_s, "looks": found}


def checks(
    market: Observed,
    at_s: float,
    phase_s: float,
    history: RawRows,
    reference: RawRows,
    scaling: Scaling,
    store: Path,
    params: DriftParams,
) -> list[dict[str, Any]]:
    """Look after a change, as often as is asked for."""
    rows = messages = 0
    found: list[dict[str, Any]] = []
    for check in range(LOOKS):
        now_s = at_s + phase_s + check * params.look_s
        new = market.until(now_s)
        history = joined([history, new.rows], params.every_ms)
        rows, messages = rows + len(new.all_rows), messages + len(new.messages)
        recent = between(history, now_s - params.recent_s, now_s)
        verdict = check_covariate_drift(reference, recent, history, scaling, PastStore(store), params)
        found.append(seen(verdict) | {"after_s": now_s - at_s, "rows": rows, "messages": messages})
    return found


def seen(verdict: DriftVerdict) -> dict[str, Any]:
    """Return what the tables need of a verdict."""
    null = np.array([angle(auc) for auc in verdict.null])
    return {
        "finding": verdict.finding.value,
        "p_auc": None if verdict.value is None else p_value(angle(verdict.value), null),
        "auc": verdict.value,
        "p": verdict.p_value,
        "past": verdict.past,
        "named": [one.name for one in verdict.moved[:3]],
    }


def between(rows: RawRows, from_s: float, until_s: float) -> RawRows:
    """Return the rows of a time since the market's start."""
    return rows.between(START_NS + round(from_s * NS_PER_S), START_NS + round(until_s * NS_PER_S))


def key(change: str, seed: int, at_s: float) -> str:
    """Return what a case is called."""
    return f"{change}, seed {seed}, at {at_s:g} s"


def run(seed: int, histories: int, params: Params, path: Path, wanted: set[str]) -> int:
    """Do the cases of one history and write each down as soon as it is done."""
    count = 0
    for case in cases(seed, histories, params, wanted):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case) + "\n")
        count += 1
    return count


def known(work: Path) -> dict[str, dict[str, Any]]:
    """Return the cases that are done."""
    lines = [line for path in sorted(work.glob("seed-*.jsonl")) for line in path.read_text().splitlines()]
    return {key(case["change"], case["seed"], case["at_s"]): case for case in map(json.loads, lines)}


def summary(done: list[dict[str, Any]], moved: dict[str, dict[str, float]], level: float) -> dict[str, Any]:
    """Return what was found of each change at each level."""
    result: dict[str, Any] = {}
    for change in CHANGES:
        mine = [case["looks"] for case in done if case["change"] == change]
        truly = truly_moved(change, moved[change])
        result[change] = {"cases": len(mine), "truly_moved": sorted(truly, key=lambda name: -moved[change][name])}
        for name, at in (("budget", level), ("plain", PLAIN)):
            first = [hit for hit in (next((one for one in case if one["p"] <= at), None) for case in mine) if hit]
            result[change][name] = {
                "level": at,
                "detected": share(len(first), max(len(mine), 1)),
                "count": len(first),
                "by_auc_alone": sum(any(one["p_auc"] <= at for one in case) for case in mine),
                **{f"median_{what}": median([one[what] for one in first]) for what in ("after_s", "rows", "messages")},
                "one_named": share(sum(bool(truly & set(one["named"])) for one in first), max(len(first), 1)),
                "all_named": share(sum(truly >= set(one["named"]) for one in first), max(len(first), 1)),
            }
    return result


def median(values: list[float]) -> float | None:
    """Return the middle of some values, None of none."""
    return float(np.median(values)) if values else None


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""

    def percent(one: dict[str, float], count: int) -> str:
        return f"{100 * one['share']:.0f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})" if count else "-"

    lines = []
    for name in ("budget", "plain"):
        level = next(iter(result.values()))[name]["level"]
        lines += [
            f"| change | cases | p <= {level:.2g}, % | rows | messages | s "
            "| one named has moved, % | all three, % | AUC alone, % |",
            "|---" * 9 + "|",
        ]
        for change, found in result.items():
            one = found[name]
            delay = [
                f"{one[f'median_{what}']:,.0f}" if one["count"] else "-" for what in ("rows", "messages", "after_s")
            ]
            named = [
                percent(one[which], one["count"]) if change != "none" else "-" for which in ("one_named", "all_named")
            ]
            cells = [change, str(found["cases"]), percent(one["detected"], found["cases"]), *delay, *named]
            cells.append(f"{100 * one['by_auc_alone'] / max(found['cases'], 1):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".lobsmith/bench/drift_power"))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    params = measured(load_params(Path(__file__).parents[2] / "params.yaml"))
    seeds = range(FIRST_SEED, FIRST_SEED + asked.histories)
    wanted = {key(change, seed, HISTORY_S + at) for change in CHANGES for seed in seeds for at in CHANGES_AT_S}
    wanted -= set(known(asked.work))
    print(f"{len(wanted)} cases of {asked.histories} histories to do", flush=True)
    with ProcessPoolExecutor(asked.processes) as pool:
        effects = asked.work / "moved.json"
        measuring = None if effects.exists() else pool.submit(truths, params)
        running = {
            pool.submit(run, seed, asked.histories, params, asked.work / f"seed-{seed}.jsonl", wanted): seed
            for seed in seeds
            if any(f"seed {seed}," in one for one in wanted)
        }
        for number, future in enumerate(as_completed(running), 1):
            print(f"history {running[future]}: {future.result()} cases, {number} of {len(running)} done", flush=True)
        if measuring is not None:
            effects.write_text(json.dumps(measuring.result()))
    result = summary(list(known(asked.work).values()), json.loads(effects.read_text()), check_level(params.drift))
    print(tables(result))
    if asked.output:
        asked.output.write_text(json.dumps({"sizes": SIZES, "changes": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
