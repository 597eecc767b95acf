"""Delay of the clients' drift score in finding a change of the simulated market.

`python benchmarks/studies/drift_score_power.py [--histories 10] [--output FILE]` prints a table of
`docs/results/drift.md`. Histories, changes and training windows are those of `drift_power.py`; the newest
`reference.block_rows` rows are scored every five seconds for twenty minutes from the change on, and the first alarm
counts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.studies.drift_changes import CHANGES, Observed, joined
from benchmarks.studies.drift_power import CHANGES_AT_S, FIRST_SEED, HISTORY_S, TRAINED_S, between, median
from benchmarks.studies.shadow_power import share
from lobsmith.drift.fit_one_class import fit_score
from lobsmith.drift.one_class import DriftScoreModel
from lobsmith.drift.reference import RawRows, Reference, fit_scaling
from lobsmith.features.definitions import NAMES
from lobsmith.market.simulator import INSTRUMENT, START_NS
from lobsmith.params import Params, load_params
from lobsmith.units import NS_PER_S

WATCHED_S = 1200.0
EVERY_S = 5.0


def cases(seed: int, params: Params) -> list[dict[str, Any]]:
    """Return the first alarm of each change after one history, at each of its times."""
    market = Observed(seed, params)
    history = market.until(HISTORY_S).rows
    until_s = HISTORY_S - TRAINED_S
    window = between(history, until_s - params.window.length_s, until_s)
    training = Reference({str(INSTRUMENT): window}, fit_scaling(window.raw), params.drift.every_ms)
    score, _ = fit_score(training, params.reference)
    alarms = []
    for after_s in CHANGES_AT_S:
        at_s = HISTORY_S + after_s
        if after_s:
            history = joined([history, market.until(at_s).rows], params.drift.every_ms)
        for change, factors in CHANGES.items():
            new = market.changed(factors).until(at_s + WATCHED_S)
            rows = joined([history, new.rows], params.drift.every_ms)
            alarm = first_alarm(score, rows, at_s, params.reference.block_rows)
            if alarm is not None:
                until = START_NS + round((at_s + alarm["after_s"]) * NS_PER_S)
                alarm["rows"] = int(np.searchsorted(new.all_rows, until))
                alarm["messages"] = int(np.searchsorted(new.messages, until))
            alarms.append({"change": change, "seed": seed, "at_s": at_s, "alarm": alarm})
    return alarms


@torch.no_grad()
def first_alarm(score: DriftScoreModel, rows: RawRows, at_s: float, block: int) -> dict[str, Any] | None:
    """Return when the newest rows are first unlike the training window, and which features are the furthest."""
    after_s = np.arange(EVERY_S, WATCHED_S + EVERY_S, EVERY_S)
    ends = np.searchsorted(rows.time_ns, START_NS + np.round((at_s + after_s) * NS_PER_S).astype(np.int64))
    blocks = torch.from_numpy(np.stack([rows.raw[end - block : end] for end in ends]))
    scores, contributions = score(blocks)
    over = np.flatnonzero(scores.numpy() > 1.0)
    if not len(over):
        return None
    furthest = contributions[over[0]].numpy().argsort()[::-1][:3]
    return {"after_s": float(after_s[over[0]]), "named": [NAMES[at] for at in furthest]}


def table(finished: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the detections of each change, and the same as Markdown."""
    result: dict[str, Any] = {}
    lines = ["| change | cases | alarm within 20 min, % | rows | messages | s |", "|---" * 6 + "|"]
    for change in CHANGES:
        alarms = [case["alarm"] for case in finished if case["change"] == change]
        first = [alarm for alarm in alarms if alarm is not None]
        hit = share(len(first), len(alarms))
        delays = {what: median([alarm[what] for alarm in first]) for what in ("rows", "messages", "after_s")}
        result[change] = {"cases": len(alarms), "alarms": len(first), "share": hit, **delays}
        percent = f"{100 * hit['share']:.0f} ({100 * hit['low']:.0f} to {100 * hit['high']:.0f})"
        cells = [
            change,
            str(len(alarms)),
            percent,
            *("-" if delay is None else f"{delay:,.0f}" for delay in delays.values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return result, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    finished = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.histories):
        finished += cases(seed, params)
        print(f"history {seed} done", flush=True)
    result, text = table(finished)
    print(text)
    if options.output:
        options.output.write_text(json.dumps({"changes": result, "cases": finished}, indent=1) + "\n")


if __name__ == "__main__":
    main()
