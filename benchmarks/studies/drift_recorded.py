"""Verdicts of drift checks on captured sessions: other days, other markets, other symbols, and halves of one session.

`LOBSMITH_DATA=DIR python benchmarks/studies/drift_recorded.py [--output FILE]` prints the table of
`docs/results/drift.md`. Sessions last six to eleven minutes, too short for a past of the product's windows. Windows of
seconds have one: 30 s of training data against 7 s of another session as if they had followed at once, and in the
second half of a session against the 3 s that did follow.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from lobsmith.drift.covariate import check_covariate_drift
from lobsmith.drift.discriminator import fit_discriminator
from lobsmith.drift.fit_one_class import fit_score
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, Reference, Scaling, fit_scaling, freeze, joined
from lobsmith.drift.shifts import feature_shifts
from lobsmith.drift.verdict import DriftVerdict, Finding
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import NAMES
from lobsmith.market.readers import read_captures
from lobsmith.params import DriftParams, Params, load_params
from lobsmith.units import NS_PER_S

LEVEL = 0.05
SESSION_RECENT_S, HALF_RECENT_S = 7.0, 3.0
HALF = "its other half"
SESSIONS = {
    "BTC perpetual, 19 July": ("usdm-btcusdt-20240718.gz", "usdm-btcusdt-20240719.gz"),
    "BTC perpetual, 8 August": ("usdm-btcusdt-20240808.gz",),
    "ETH perpetual, 8 August": ("usdm-ethusdt-20240808.gz",),
    "BTC spot, 8 August": ("spot-btcusdt-20240808.gz", "spot-btcusdt-20240809.gz"),
}
PAIRS = (
    ("BTC perpetual, 19 July", "BTC perpetual, 8 August"),
    ("BTC spot, 8 August", "BTC perpetual, 8 August"),
    ("BTC perpetual, 8 August", "ETH perpetual, 8 August"),
)


def short(params: DriftParams, recent_s: float) -> DriftParams:
    """Return windows so short that minutes hold `past_pairs` of them."""
    return replace(
        params,
        every_ms=20,
        reference_s=30.0,
        recent_s=recent_s,
        minimum_rows=20,
        pairs_a_look=1000,
        discriminator=replace(params.discriminator, seconds=600),
    )


def read(folder: Path, session: str, params: Params) -> Dataset:
    """Return the rows of a captured session."""
    return build_dataset(read_captures([folder / "binance" / name for name in SESSIONS[session]]), params)


def frozen(dataset: Dataset, params: DriftParams) -> tuple[Scaling, RawRows]:
    """Return a session as the reference of a model that was trained on it."""
    reference = freeze([dataset], params)
    return reference.scaling, reference.rows[str(dataset.instrument)]


def halves(rows: RawRows) -> tuple[RawRows, RawRows]:
    """Return the rows of either half of a session's time."""
    middle = (int(rows.time_ns[0]) + int(rows.time_ns[-1])) // 2
    cut = int(np.searchsorted(rows.time_ns, middle))
    return rows.slice(0, cut), rows.slice(cut, len(rows))


def after(old: RawRows, new: RawRows) -> RawRows:
    """Return rows shifted to follow others at once: the past is what lies before, and sessions are of any day."""
    return RawRows(new.time_ns + (int(old.time_ns[-1]) + 1 - int(new.time_ns[0])), new.segment, new.raw)


def aucs(scaling: Scaling, old: RawRows, new: RawRows, params: DriftParams) -> dict[str, float]:
    """Return the AUC of all rows: cross-fitted over blocks of time, and naive, over shuffled rows."""
    generator = np.random.default_rng(params.discriminator.seed)
    shuffled = (generator.permutation(rows.raw) for rows in (old, new))
    return {
        "blocks": fit_discriminator(old.raw, new.raw, scaling, params.discriminator).auc,
        "naive": fit_discriminator(*shuffled, scaling, params.discriminator).auc,
    }


def starts(rows: RawRows, params: DriftParams, most: int) -> list[int]:
    """Return where windows begin, ns: end to end, `most` of them, evenly over the time of the rows."""
    first, length = int(rows.time_ns[0]), round(params.recent_s * NS_PER_S)
    possible = np.arange(first, max(int(rows.time_ns[-1]) - length, first + 1), length)
    return possible[np.unique(np.linspace(0, len(possible) - 1, min(most, len(possible))).round().astype(int))].tolist()


def checks(
    scaling: Scaling, old: RawRows, new: RawRows, params: DriftParams, most: int, *, follow: bool
) -> list[DriftVerdict]:
    """Check windows of the newer rows.

    Args:
        scaling: of the older rows.
        old: the training data, and the past.
        new: rows that came after it.
        params: `drift`.
        most: checks.
        follow: let training data and past end where each window begins.
    """
    length, verdicts = round(params.recent_s * NS_PER_S), []
    whole = joined(old, new)
    with tempfile.TemporaryDirectory() as folder:
        store = PastStore(Path(folder) / "past.jsonl")
        for start in starts(new, params, most):
            past = whole.between(0, start) if follow else old
            recent = new.between(start, start + length)
            verdicts.append(check_covariate_drift(past, recent, past, scaling, store, params, level=LEVEL, gap_s=0.0))
    return verdicts


@torch.no_grad()
def scores(old: RawRows, scaling: Scaling, new: RawRows, params: Params) -> dict[str, Any]:
    """Return the drift scores of blocks of the newer rows, end to end; above 1 is an alarm."""
    training = Reference({"learnt": old}, scaling, params.drift.every_ms)
    score, fitted = fit_score(training, params.reference)
    length = fitted["learnt"].block_rows
    values = score(torch.from_numpy(new.raw).unfold(0, length, length).transpose(1, 2))[0]
    return {"block_rows": length, "scores": [round(value, 2) for value in values[:, 0].tolist()]}


def compare(older: Dataset, newer: Dataset | None, params: Params, most: int) -> dict[str, Any]:
    """Return the verdicts on two sessions, or on the halves of one."""

    def both(drift: DriftParams) -> tuple[Scaling, RawRows, RawRows]:
        scaling, rows = frozen(older, drift)
        if newer is None:
            old, new = halves(rows)
            return fit_scaling(old.raw), old, new
        return scaling, rows, frozen(newer, drift)[1]

    scaling, old, new = both(params.drift)
    product = checks(scaling, old, after(old, new), params.drift, 1, follow=False)[0]
    brief = short(params.drift, SESSION_RECENT_S if newer is not None else HALF_RECENT_S)
    known, training, came = both(brief)
    verdicts = checks(known, training, after(training, came), brief, most, follow=newer is None)
    named = Counter(feature.name for check in verdicts for feature in check.moved[:3])
    psi = {feature.name: feature.psi for feature in feature_shifts(NAMES, old.raw, new.raw)}
    p_values = [check.p_value for check in verdicts if check.p_value is not None]
    return {
        "rows": [len(old), len(new)],
        "auc": aucs(scaling, old, new, params.drift),
        "reference": scores(old, scaling, new, params),
        "product": {"finding": product.finding.value, "reason": product.reason},
        "recent_s": brief.recent_s,
        "past": [check.past for check in verdicts],
        "checks": len(verdicts),
        "findings": Counter(check.finding.value for check in verdicts),
        "p": p_values,
        "moved": [{"name": name, "checks": count, "psi": psi[name]} for name, count in named.most_common(3)],
    }


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| trained on | checked | rows | AUC naive | AUC over blocks | product's windows | short windows: drift "
        "| p: median, least | named most often (PSI) | reference score: median, least | blocks above 1 |",
        "|---" * 11 + "|",
    ]
    for pair in result["compared"]:
        named = ", ".join(f"{moved['name']} ({moved['psi']:.2f})" for moved in pair["moved"])
        blocks = pair["reference"]["scores"]
        cells = [
            pair["older"],
            pair["newer"],
            " / ".join(f"{count:,}" for count in pair["rows"]),
            f"{pair['auc']['naive']:.3f}",
            f"{pair['auc']['blocks']:.3f}",
            pair["product"]["finding"],
            f"{pair['findings'].get(Finding.DRIFT.value, 0)} of {pair['checks']}",
            f"{np.median(pair['p']):.2g}, {min(pair['p']):.2g}" if pair["p"] else "-",
            named,
            f"{np.median(blocks):.2g}, {min(blocks):.2g}",
            f"{sum(score > 1 for score in blocks)} of {len(blocks)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=20, help="of each pair, at most")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    sessions = {name: read(Path(os.environ["LOBSMITH_DATA"]), name, params) for name in SESSIONS}
    pairs = [*PAIRS, *((name, HALF) for name in SESSIONS)]
    result: dict[str, Any] = {"compared": []}
    for older, newer in pairs:
        comparison = compare(sessions[older], sessions.get(newer), params, options.checks)
        result["compared"].append({"older": older, "newer": newer, **comparison})
        print(f"{older} | {newer}: {dict(comparison['findings'])}", flush=True)
    print(tables(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
