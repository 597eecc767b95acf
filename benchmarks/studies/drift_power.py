"""Power and delay of drift checks on changes of the simulated market, and whether the shifted features are named.

`python benchmarks/studies/drift_power.py [--histories 10] [--processes 2] [--work DIR] [--output FILE]` prints the
tables of `docs/results/drift.md`. A case is a history of nine hours, a model whose training window ended an hour and a
half before the change, and four checks `drift.look_s` apart from the change on, at an even phase. Every change starts
from a copy of the same market. Finished cases are kept in DIR.
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
CHECKS = 4
FIRST_SEED = 100
PLAIN = 0.05


def measured(params: Params) -> Params:
    """Return parameters by which no clock decides what is computed and all past pairs are measured at once."""
    drift = params.drift
    return replace(
        params,
        drift=replace(drift, pairs_a_look=1000, discriminator=replace(drift.discriminator, seconds=600)),
    )


def cases(seed: int, histories: int, params: Params, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the wanted cases of one history; each is `change`, `seed`, `at_s` and its checks."""
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
                verdicts = checks(
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
                yield {"change": change, "seed": seed, "at_s": at_s, "phase_s": phase_s, "looks": verdicts}


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
    """Check `CHECKS` times after a change."""
    rows = messages = 0
    results: list[dict[str, Any]] = []
    for check in range(CHECKS):
        now_s = at_s + phase_s + check * params.look_s
        new = market.until(now_s)
        history = joined([history, new.rows], params.every_ms)
        rows, messages = rows + len(new.all_rows), messages + len(new.messages)
        recent = between(history, now_s - params.recent_s, now_s)
        verdict = check_covariate_drift(reference, recent, history, scaling, PastStore(store), params)
        results.append(check_figures(verdict) | {"after_s": now_s - at_s, "rows": rows, "messages": messages})
    return results


def check_figures(verdict: DriftVerdict) -> dict[str, Any]:
    """Return the figures of a verdict for the tables."""
    null = np.array([angle(auc) for auc in verdict.null])
    return {
        "finding": verdict.finding.value,
        "p_auc": None if verdict.value is None else p_value(angle(verdict.value), null),
        "auc": verdict.value,
        "p": verdict.p_value,
        "past": verdict.past,
        "named": [feature.name for feature in verdict.moved[:3]],
    }


def between(rows: RawRows, from_s: float, until_s: float) -> RawRows:
    """Return the rows of a time since the market's start."""
    return rows.between(START_NS + round(from_s * NS_PER_S), START_NS + round(until_s * NS_PER_S))


def key(change: str, seed: int, at_s: float) -> str:
    """Return the name of a case."""
    return f"{change}, seed {seed}, at {at_s:g} s"


def run(seed: int, histories: int, params: Params, path: Path, wanted: set[str]) -> int:
    """Run the cases of one history and write each down as soon as it is finished."""
    count = 0
    for case in cases(seed, histories, params, wanted):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case) + "\n")
        count += 1
    return count


def known(work: Path) -> dict[str, dict[str, Any]]:
    """Return the finished cases."""
    lines = [line for path in sorted(work.glob("seed-*.jsonl")) for line in path.read_text().splitlines()]
    return {key(case["change"], case["seed"], case["at_s"]): case for case in map(json.loads, lines)}


def summary(finished: list[dict[str, Any]], moved: dict[str, dict[str, float]], level: float) -> dict[str, Any]:
    """Return the detections of each change at each level."""
    result: dict[str, Any] = {}
    for change in CHANGES:
        histories = [case["looks"] for case in finished if case["change"] == change]
        truly = truly_moved(change, moved[change])
        result[change] = {"cases": len(histories), "truly_moved": sorted(truly, key=lambda name: -moved[change][name])}
        for name, at in (("budget", level), ("plain", PLAIN)):
            first = [
                check
                for check in (next((check for check in case if check["p"] <= at), None) for case in histories)
                if check
            ]
            result[change][name] = {
                "level": at,
                "detected": share(len(first), max(len(histories), 1)),
                "count": len(first),
                "by_auc_alone": sum(any(check["p_auc"] <= at for check in case) for case in histories),
                **{
                    f"median_{what}": median([check[what] for check in first])
                    for what in ("after_s", "rows", "messages")
                },
                "one_named": share(sum(bool(truly & set(check["named"])) for check in first), max(len(first), 1)),
                "all_named": share(sum(truly >= set(check["named"]) for check in first), max(len(first), 1)),
            }
    return result


def median(values: list[float]) -> float | None:
    """Return the median of some values, None of none."""
    return float(np.median(values)) if values else None


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""

    def percent(rate: dict[str, float], count: int) -> str:
        return f"{100 * rate['share']:.0f} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})" if count else "-"

    lines = []
    for name in ("budget", "plain"):
        level = next(iter(result.values()))[name]["level"]
        lines += [
            f"| change | cases | p <= {level:.2g}, % | rows | messages | s "
            "| one named has moved, % | all three, % | AUC alone, % |",
            "|---" * 9 + "|",
        ]
        for change, figures in result.items():
            detection = figures[name]
            delay = [
                f"{detection[f'median_{what}']:,.0f}" if detection["count"] else "-"
                for what in ("rows", "messages", "after_s")
            ]
            named = [
                percent(detection[which], detection["count"]) if change != "none" else "-"
                for which in ("one_named", "all_named")
            ]
            cells = [change, str(figures["cases"]), percent(detection["detected"], figures["cases"]), *delay, *named]
            cells.append(f"{100 * detection['by_auc_alone'] / max(figures['cases'], 1):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".lobsmith/bench/drift_power"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    params = measured(load_params(Path(__file__).parents[2] / "params.yaml"))
    seeds = range(FIRST_SEED, FIRST_SEED + options.histories)
    wanted = {key(change, seed, HISTORY_S + at) for change in CHANGES for seed in seeds for at in CHANGES_AT_S}
    wanted -= set(known(options.work))
    print(f"{len(wanted)} cases of {options.histories} histories to do", flush=True)
    with ProcessPoolExecutor(options.processes) as pool:
        effects = options.work / "moved.json"
        measuring = None if effects.exists() else pool.submit(truths, params)
        running = {
            pool.submit(run, seed, options.histories, params, options.work / f"seed-{seed}.jsonl", wanted): seed
            for seed in seeds
            if any(f"seed {seed}," in case for case in wanted)
        }
        for number, future in enumerate(as_completed(running), 1):
            print(f"history {running[future]}: {future.result()} cases, {number} of {len(running)} done", flush=True)
        if measuring is not None:
            effects.write_text(json.dumps(measuring.result()))
    result = summary(list(known(options.work).values()), json.loads(effects.read_text()), check_level(params.drift))
    print(tables(result))
    if options.output:
        options.output.write_text(json.dumps({"sizes": SIZES, "changes": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
