"""False alarms of the clients' drift score on an unchanged market, and its delay on a changed one.

`python benchmarks/studies/reference_score.py [--sessions 6] [--hours 6] [--regime-s 60]` prints the tables of
`docs/results/drift.md`. The score is fitted to each session of the simulator and applied to all others, a block after
each 32 thinned rows, as in a client's guard. Changes begin after a session's first hour; other regimes are tried
without changes.
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
from lobsmith.drift.one_class import DriftScoreModel
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
_COUNTS = ("above", "blocks", "alarms")


class Watched(NamedTuple):
    """Scores of one session.

    Attributes:
        blocks: scored.
        above: of these above 1.
        alarms: times that the guard turned conservative.
        first_s: from the session's begin to the first alarm; NaN without one.
    """

    blocks: int
    above: int
    alarms: int
    first_s: float


def blocks_of(rows: RawRows, params: Params) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
    """Yield blocks of a session, [<= 256, T, F], and when each ended, as a client scores them."""
    ends = np.arange(params.reference.block_rows, len(rows) + 1, params.guard.every_rows)
    for some in np.array_split(ends, max(1, len(ends) // 256)):
        yield rows.time_ns[some - 1], np.stack([rows.raw[end - params.reference.block_rows : end] for end in some])


def watch(score: DriftScoreModel, rows: RawRows, params: Params) -> Watched:
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
    """Return rows with one feature standing still, or multiplied by a thousand."""
    raw, column = rows.raw.copy(), NAMES.index(name)
    raw[:, column] = raw[0, column] if still else _UNITS * raw[:, column]
    return RawRows(rows.time_ns, rows.segment, raw)


def summary(name: str, sessions: list[Watched], seconds: float) -> str:
    """Return a row of the table of changes."""
    shares = np.mean([session.above / session.blocks for session in sessions])
    delays = [session.first_s for session in sessions if session.alarms]
    delay = f"{np.median(delays):.0f}" if delays else "-"
    return f"| {name} | {shares:.0%} | {len(delays)} of {len(sessions)} | {delay} | {seconds / 60:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--hours", type=float, default=6.0, help="of each")
    parser.add_argument("--regime-s", type=float, default=Dynamics().regime_s, help="mean stay in a regime")
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    market = msgspec.structs.replace(Dynamics(), regime_s=options.regime_s)
    seconds = options.hours * _HOUR_S
    sessions = [Observed(_SEED + seed, params, market).until(seconds).rows for seed in range(options.sessions)]
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
    days = (options.sessions - 1) * seconds / _DAY_S
    print("\n| fitted to | days | blocks above 1 | guard's alarms a day |\n|---|---|---|---|")
    for number, watched in enumerate(same):
        above, blocks, alarms = (sum(getattr(session, name) for session in watched) for name in _COUNTS)
        print(f"| {_SEED + number} | {days:.2f} | {above / blocks:.2%} | {alarms / days:.2f} |")
    alarms = sum(session.alarms for watched in same for session in watched)
    print(f"| all | {days * options.sessions:.1f} | | {alarms / days / options.sessions:.2f} |")

    if options.regime_s != Dynamics().regime_s:
        return
    print("\n| change | blocks above 1 | found | median delay, s | watched, min |\n|---|---|---|---|---|")
    begun = Observed(_SEED - 1, params, market)
    begun.until(_HOUR_S)
    for name, factors in CHANGES.items():
        rows = begun.changed(factors).until(2 * _HOUR_S).rows
        print(summary(name, [watch(score, rows, params) for score in scores], _HOUR_S), flush=True)
    rows = begun.until(2 * _HOUR_S).rows
    for name in BROKEN:
        for change, still in (("stands still", True), (f"x {_UNITS:g}", False)):
            spoilt = broken(rows, name, still=still)
            print(
                summary(f"`{name}` {change}", [watch(score, spoilt, params) for score in scores], _HOUR_S), flush=True
            )


if __name__ == "__main__":
    with torch.no_grad():
        main()
