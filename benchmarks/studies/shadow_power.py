"""How often live traffic's tests err, and how long they take, on simulated differences of losses.

`python benchmarks/studies/shadow_power.py [--runs 1000] [--hours 4] [--output FILE]` prints the tables of
`docs/results/shadow.md`. A run is a stretch of traffic of which the first `paired.measure_s` are measured; then the
capital is read after every block. The same noise serves all effects, in units of the deviation of 30 s means.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from lobsmith.online.ab_test import arm, split_blocks
from lobsmith.online.blocks import paired_blocks
from lobsmith.online.e_values import log_capital, predictable_bounds
from lobsmith.params import Params, load_params
from lobsmith.units import NS_PER_S

GRID_S = 0.25
EFFECTS = (0.0, 0.1, 0.2, 0.5, 1.0, 3.0)
ROW_BY_ROW, FIVE, THIRTY, MEASURED = "row by row", "5 s blocks", "30 s blocks", "measured blocks"

Float = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Float]


def memory(noise: Float, tau_s: float) -> Float:
    """Return an autoregression of unit variance, of innovations of unit variance on the grid."""
    keep = math.exp(-GRID_S / tau_s)
    return np.asarray(lfilter([math.sqrt(1 - keep**2)], [1.0, -keep], noise), np.float64)


def regimes(generator: np.random.Generator, cells: int, mean_s: float = 600.0, factor: float = 5.0) -> Float:
    """Return a scale that is 1 or `factor`, in spells of exponential length."""
    flips = generator.random(cells) < GRID_S / mean_s
    return np.where(np.cumsum(flips) % 2 == 0, 1.0, factor)


NOISES: dict[str, Noise] = {
    "AR 0.1 s": lambda g, n: memory(g.normal(size=n), 0.1),
    "AR 1 s": lambda g, n: memory(g.normal(size=n), 1.0),
    "AR 5 s": lambda g, n: memory(g.normal(size=n), 5.0),
    "AR 30 s": lambda g, n: memory(g.normal(size=n), 30.0),
    "AR 30 s under white noise": lambda g, n: 0.3 * memory(g.normal(size=n), 30.0) + g.normal(size=n),
    "heavy tails (t, 2.5), AR 1 s": lambda g, n: memory(g.standard_t(2.5, size=n), 1.0),
    "scale 1 or 5, spells of 10 min, AR 1 s": lambda g, n: regimes(g, n) * memory(g.normal(size=n), 1.0),
    "skew: rarely much worse, AR 5 s": lambda g, n: memory(1 - g.lognormal(-0.5, 1.0, size=n), 5.0),
}


def traffic(noise: Noise, seed: int, seconds: float) -> tuple[Float, npt.NDArray[np.int64]]:
    """Return differences of rows, positive where the second version is better, and their times; rows come in bursts."""
    generator = np.random.default_rng(seed)
    cells = round(seconds / GRID_S)
    values = noise(generator, cells)
    rate = np.clip(0.5 * np.exp(memory(generator.normal(size=cells), 20.0)), 0.05, 1.0)
    kept = generator.random(cells) < rate
    return values[kept], np.flatnonzero(kept) * round(GRID_S * NS_PER_S)


def means(values: Float, time_ns: npt.NDArray[np.int64], length_s: int) -> Float:
    """Return the means of blocks of a fixed length; the last one may be shorter."""
    block = np.unique(time_ns // (length_s * NS_PER_S), return_inverse=True)[1]
    return np.asarray(np.bincount(block, values) / np.bincount(block), np.float64)


def crossings(differences: Float, bounds: Float, effect: float, level: float, least: int) -> tuple[float, float]:
    """Return the first blocks at which `better` and `worse` reach ln of their threshold, `inf` where they never do."""
    shifted = differences + effect
    bets = np.clip(shifted / bounds, -1.0, 1.0)
    mean = np.cumsum(shifted)
    found = []
    for sign in (1, -1):
        sure = (log_capital(sign * bets) >= level) & (sign * mean > 0) & (np.arange(1, len(bets) + 1) >= least)
        found.append(float(np.argmax(sure) + 1) if sure.any() else math.inf)
    return found[0], found[1]


def share(hits: int, runs: int) -> dict[str, float]:
    """Return a share with its 95 % interval (Wilson 1927)."""
    z, p = 1.959963984540054, hits / runs
    centre, half = (p + z * z / (2 * runs)), z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))
    return {"share": p, "low": (centre - half) / (1 + z * z / runs), "high": (centre + half) / (1 + z * z / runs)}


def shadow(noise: Noise, params: Params, runs: int, hours: float) -> dict[str, Any]:
    """Measure one kind of noise: every way on equal versions, ours on all effects."""
    paired, judged = params.paired, params.shadow
    seconds = paired.measure_s + 3600 * hours
    level, strict = -math.log(judged.alpha), math.log(2 / params.rollback.alpha)
    fooled = dict.fromkeys((ROW_BY_ROW, FIVE, THIRTY), 0)
    hits = {effect: [0, 0] for effect in EFFECTS}
    waits: dict[float, list[float]] = {effect: [] for effect in EFFECTS}
    backs: dict[float, list[float]] = {effect: [] for effect in EFFECTS}
    lengths = []
    for seed in range(runs):
        values, time_ns = traffic(noise, seed, seconds)
        known, segment = np.ones(len(values), bool), np.zeros(len(values), np.int64)
        found = paired_blocks(values, known, time_ns, segment, horizon_ms=1000, params=paired)
        rule = found.rule
        if rule is None:
            raise RuntimeError("the run is shorter than paired.measure_s")
        lengths.append(rule.length_s)
        fixed = {length: means(values, time_ns, length) for length in (5, 30)}
        unit = float(fixed[30].std())
        bounds = predictable_bounds(found.differences, rule.measured, paired.clip)
        least = max(judged.minimum_blocks, math.ceil(judged.minimum_s / rule.length_s))
        for effect in EFFECTS:
            better, worse = crossings(found.differences, bounds, effect * unit, level, least)
            hits[effect][0] += better < math.inf
            hits[effect][1] += worse < math.inf
            waits[effect].append(better * rule.length_s)
            back = crossings(found.differences, bounds, -effect * unit, strict, params.rollback.minimum_blocks)[1]
            backs[effect].append(back * rule.length_s)
        for name, series in ((ROW_BY_ROW, values), (FIVE, fixed[5]), (THIRTY, fixed[30])):
            scale = predictable_bounds(series[:1], series[: len(series) // 10], paired.clip)
            start = 0 if name == ROW_BY_ROW else judged.minimum_blocks
            fooled[name] += crossings(series, scale, 0.0, level, start)[0] < math.inf
    return {
        "block_s": np.percentile(lengths, [5, 50, 95]).tolist(),
        "equal": {name: share(count, runs) for name, count in fooled.items()}
        | {MEASURED: share(hits[0.0][0], runs), "called worse": share(hits[0.0][1], runs)},
        "effects": {
            str(effect): {
                "promoted": share(hits[effect][0], runs),
                "rejected": share(hits[effect][1], runs),
                "promotion_s": _median(waits[effect]),
                "rolled_back": share(int(np.isfinite(backs[effect]).sum()), runs),
                "rollback_s": _median(backs[effect]),
            }
            for effect in EFFECTS
        },
    }


def _median(values: list[float]) -> float | None:
    middle = float(np.median(values))
    return middle if math.isfinite(middle) else None


def split(params: Params, runs: int, hours: float, portion: float, better_by: float) -> dict[str, Any]:
    """Measure the A/B test on losses that drift with the market; a candidate better by so many nats a row."""
    judged = type(params.shadow)(
        **{n: getattr(params.shadow, n) for n in params.shadow.__struct_fields__} | {"share": portion}
    )
    level, hits, worse, waits = -math.log(judged.alpha), 0, 0, []
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        cells = round((params.paired.measure_s + 3600 * hours) / 2)
        time_ns = np.arange(cells) * 2 * NS_PER_S
        drift = np.repeat(0.15 * memory(generator.normal(size=cells // 30 + 1), 7.5), 30)[:cells]
        number = time_ns // round(judged.arm_s * NS_PER_S)
        drawn = np.array(
            [
                arm("X", int(k * judged.arm_s * NS_PER_S), block_s=judged.arm_s, share=portion, salt=str(seed))
                for k in np.unique(number)
            ]
        )
        candidate = drawn[number - number[0]]
        loss = 0.7 + drift + 0.3 * generator.standard_t(4, size=cells) - better_by * candidate
        found = split_blocks(loss, time_ns, candidate, judged, params.paired)
        first = crossings(found.differences, found.bounds, 0.0, level, judged.minimum_blocks)
        hits += first[0] < math.inf
        worse += first[1] < math.inf
        waits.append(first[0] * judged.arm_s)
    return {"promoted": share(hits, runs), "rejected": share(worse, runs), "promotion_s": _median(waits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--only", nargs="*", default=[*NOISES, "split"], help="names of noises, or split")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    result: dict[str, Any] = {"runs": asked.runs, "hours": asked.hours, "shadow": {}, "split": {}}
    for name, noise in NOISES.items():
        if name in asked.only:
            begun = time.monotonic()
            result["shadow"][name] = shadow(noise, params, asked.runs, asked.hours)
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    for portion in (0.5, 0.2):
        for better_by in (0.0, 0.02, 0.05, 0.1):
            if "split" in asked.only:
                result["split"][f"share {portion}, {better_by} nats"] = split(
                    params, asked.runs, 24.0, portion, better_by
                )
    print(tables(result))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""

    def percent(one: dict[str, float]) -> str:
        return f"{100 * one['share']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"

    def minutes(seconds: float | None) -> str:
        return "" if seconds is None else f", {seconds / 60:.0f} min"

    ways = (ROW_BY_ROW, FIVE, THIRTY, MEASURED)
    lines = [f"| equal versions, % promoted | {' | '.join(ways)} | measured length, s |", "|---" * 6 + "|"]
    for name, found in result["shadow"].items():
        low, middle, high = found["block_s"]
        cells = " | ".join(percent(found["equal"][way]) for way in ways)
        lines.append(f"| {name} | {cells} | {middle:.0f} ({low:.0f} to {high:.0f}) |")
    shown = [str(effect) for effect in EFFECTS if effect]
    lines += ["", f"| % promoted, median time | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, found in result["shadow"].items():
        cells = [
            f"{100 * e['promoted']['share']:.0f}{minutes(e['promotion_s'])}" for e in map(found["effects"].get, shown)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| % rolled back, median time | 0 | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for name, found in result["shadow"].items():
        cells = [f"{100 * e['rolled_back']['share']:.1f}{minutes(e['rollback_s'])}" for e in found["effects"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| A/B test, 24 h | % promoted | % rejected as worse | median time |", "|---" * 4 + "|"]
    for name, found in result["split"].items():
        lines.append(
            f"| {name} | {percent(found['promoted'])} | {percent(found['rejected'])} "
            f"| {minutes(found['promotion_s'])[2:]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
