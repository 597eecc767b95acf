"""How often a client's reference score calls an unchanged market another one, and how soon a changed one.

`python benchmarks/studies/reference_score.py [--sessions 6] [--hours 6] [--regime-s 60]` prints the tables of
`docs/results/drift.md`. The score is fitted to each session of the simulator and asked about all others, a block after
each 32 thinned rows, as in the guard of a client. Changes begin when a session has had its first hour; other regimes
are tried without them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.studies.drift_changes import Factors, Observed, activity, sizes, spread
from lobsmith.drift.fit_one_class import fit_score
from lobsmith.drift.one_class import ReferenceScore
from lobsmith.drift.reference import Float32, RawRows, Reference, fit_scaling
from lobsmith.features.definitions import NAMES
from lobsmith.market.simulator import Dynamics
from lobsmith.params import Params, load_params
from lobsmith.trading.guard.drift_score import Hysteresis
from lobsmith.units import NS_PER_S

CHANGES: dict[str, Factors] = {
    **{f"sizes x {by}": sizes(by) for by in (1.3, 1.6, 2, 3)},
    **{f"sizes / {by}": sizes(1 / by) for by in (2, 3)},
    "activity x 1.6": activity(1.6),
    **{f"activity / {by}": activity(1 / by) for by in (4, 10)},
    **{f"inside / {by}": spread(by) for by in (2, 4, 8)},
    "takers x 1.5": {"market": 1.5},
    "takers x 2, in shorter runs": {"market": 2, "excitement": 0.5},
}
BROKEN = ("bid_size_1", "spread", "elapsed", "flow_5", "trade_rate_4")
"""Features that stand still, or are in other units, while all else goes on."""
_UNITS = 1000.0
_SEED = 500
_HOUR_S = 3600.0
_DAY_S = 86_400.0


class Watched(NamedTuple):
    """What the scores of one session came to.

    Attributes:
        blocks: scored.
        above: of these above 1.
        alarms: times that the guard turned conservative.
        first_s: from the session's begin to the first of them; NaN where there is none.
    """

    blocks: int
    above: int
    alarms: int
    first_s: float


def blocks_of(rows: RawRows, params: Params) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
    """Yield blocks of a session, [<= 256, T, F], and when each ended, as a client would ask for them."""
    ends = np.arange(params.reference.block_rows, len(rows) + 1, params.guard.every_rows)
    for some in np.array_split(ends, max(1, len(ends) // 256)):
        yield rows.time_ns[some - 1], np.stack([rows.raw[end - params.reference.block_rows : end] for end in some])


def watch(score: ReferenceScore, rows: RawRows, params: Params) -> Watched:
    """Score a session's blocks."""
    guard, above, count, alarms, first = Hysteresis(params.guard), 0, 0, 0, float("nan")
    for times, blocks in blocks_of(rows, params):
        for time_ns, value in zip(times, score(torch.from_numpy(blocks))[0][:, 0].tolist(), strict=True):
            before = guard.alarm
            guard.push(value)
            count, above = count + 1, above + (value > 1)
            if guard.alarm and not before:
                alarms += 1
                first = first if alarms > 1 else (time_ns - rows.time_ns[0]) / NS_PER_S
    return Watched(count, above, alarms, first)


def broken(rows: RawRows, name: str, *, still: bool) -> RawRows:
    """Return rows of which one feature stands still, or is a thousand times itself."""
    raw, column = rows.raw.copy(), NAMES.index(name)
    raw[:, column] = raw[0, column] if still else _UNITS * raw[:, column]
    return RawRows(rows.time_ns, rows.segment, raw)


def summary(name: str, found: list[Watched], seconds: float) -> str:
    """Return a row of the table of changes."""
    shares = np.mean([one.above / one.blocks for one in found])
    seen = [one.first_s for one in found if one.alarms]
    delay = f"{np.median(seen):.0f}" if seen else "-"
    return f"| {name} | {shares:.0%} | {len(seen)} of {len(found)} | {delay} | {seconds / 60:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--hours", type=float, default=6.0, help="of each")
    parser.add_argument("--regime-s", type=float, default=Dynamics().regime_s, help="mean stay in a regime")
    given = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    market = msgspec.structs.replace(Dynamics(), regime_s=given.regime_s)
    seconds = given.hours * _HOUR_S
    sessions = [Observed(_SEED + seed, params, market).until(seconds).rows for seed in range(given.sessions)]
    scores = []
    for rows in sessions:
        score, fitted = fit_score(
            Reference({"simulated": rows}, fit_scaling(rows.raw), params.drift.every_ms), params.reference
        )
        scores.append(score)
        print(fitted["simulated"], flush=True)
    same = [
        [watch(score, rows, params) for rows in sessions if rows is not own]
        for score, own in zip(scores, sessions, strict=True)
    ]
    days = (given.sessions - 1) * seconds / _DAY_S
    print("\n| fitted to | days | blocks above 1 | guard's alarms a day |\n|---|---|---|---|")
    for number, found in enumerate(same):
        above, blocks = sum(one.above for one in found), sum(one.blocks for one in found)
        print(
            f"| {_SEED + number} | {days:.2f} | {above / blocks:.2%} | {sum(one.alarms for one in found) / days:.2f} |"
        )
    alarms = sum(one.alarms for found in same for one in found)
    print(f"| all | {days * given.sessions:.1f} | | {alarms / days / given.sessions:.2f} |")

    if given.regime_s != Dynamics().regime_s:
        return
    print("\n| change | blocks above 1 | found | median delay, s | watched, min |\n|---|---|---|---|---|")
    begun = Observed(_SEED - 1, params, market)
    begun.until(_HOUR_S)
    for name, factors in CHANGES.items():
        rows = begun.changed(factors).until(2 * _HOUR_S).rows
        print(summary(name, [watch(score, rows, params) for score in scores], _HOUR_S), flush=True)
    rows = begun.until(2 * _HOUR_S).rows
    for name in BROKEN:
        for words, still in (("stands still", True), (f"x {_UNITS:g}", False)):
            spoilt = broken(rows, name, still=still)
            print(summary(f"`{name}` {words}", [watch(score, spoilt, params) for score in scores], _HOUR_S), flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
