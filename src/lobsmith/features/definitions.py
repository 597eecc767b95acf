"""The names, order and meaning of the features: one table that the kernel, the manifest and the documents share."""

import hashlib
import json

import msgspec
from msgspec import Struct

from lobsmith.params import FeatureParams, LabelParams

KERNEL_VERSION = 2
"""Raised whenever the kernel's arithmetic changes; part of the wire contract."""

LEVELS = 10


class Feature(Struct, frozen=True):
    """One column of the feature vector, before the z-score."""

    name: str
    formula: str
    unit: str
    source: str


def _book() -> list[Feature]:
    table = []
    for level in range(1, LEVELS + 1):
        for side, sign in (("bid", "m - p"), ("ask", "p - m")):
            table.append(
                Feature(
                    f"{side}_distance_{level}",
                    f"10^4 ({sign}) / m at level {level}; beyond the last level, that level's",
                    "basis points",
                    "Zhang, Zohren & Roberts 2019",
                )
            )
            table.append(
                Feature(
                    f"{side}_size_{level}",
                    f"ln(1 + q / lot) at level {level}; 0 beyond the last level",
                    "log lots",
                    "Zhang, Zohren & Roberts 2019",
                )
            )
    return table


_IMBALANCE = "Cartea, Donnelly & Jaimungal 2018"
_FLOW = "Cont, Kukanov & Stoikov 2014"
_MICROSTRUCTURE = [
    Feature("imbalance_1", "(Qb - Qa) / (Qb + Qa), Q the size at the touch", "1", _IMBALANCE),
    Feature("imbalance_5", "the same, Q the size over 5 levels", "1", _IMBALANCE),
    Feature("imbalance_10", "the same, Q the size over 10 levels", "1", _IMBALANCE),
    Feature("microprice", "10^4 ((a qb + b qa) / (qa + qb) - m) / m", "basis points", "Stoikov 2018"),
    Feature("spread", "10^4 (a - b) / m", "basis points", "-"),
    Feature("mid_return", "10^4 ln(m / m of the previous row)", "basis points", "-"),
    Feature("flow_1", "slog of the decayed sum of e at the touch, in lots", "log lots", _FLOW),
    Feature("flow_5", "slog of the decayed sum of e over levels 1 to 5, in lots", "log lots", _FLOW),
    Feature("trade_intensity", "ln(1 + decayed count of trades / tau)", "log 1/s", "-"),
    Feature("trade_flow", "slog of the decayed sum of signed trade sizes, in lots", "log lots", "-"),
    Feature("volatility_burst", "sqrt((V_s / tau_s) / (V_l / tau_l)), V decayed sums of r^2", "1", "-"),
    Feature(
        "bid_slope",
        "OLS slope of ln cumulative lots on distance, bids",
        "1/basis point",
        "Naes & Skjeltorp 2006",
    ),
    Feature(
        "ask_slope",
        "OLS slope of ln cumulative lots on distance, asks",
        "1/basis point",
        "Naes & Skjeltorp 2006",
    ),
    Feature("elapsed", "ln(1 + time since the previous row)", "log ms", "-"),
    Feature("event_rate", "ln(1 + decayed count of rows / tau)", "log 1/s", "-"),
]

FEATURES: tuple[Feature, ...] = (*_book(), *_MICROSTRUCTURE)
"""All features in the order of the vector. slog(x) = sign(x) ln(1 + |x|); m, b, a are mid, best bid, best ask."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COUNT = len(FEATURES)


def definitions_sha256(features: FeatureParams, labels: LabelParams) -> str:
    """Return the SHA-256 that two models must share to mean the same by their inputs and outputs."""
    table = {
        "kernel": KERNEL_VERSION,
        "names": NAMES,
        "features": msgspec.to_builtins(features),
        "labels": msgspec.to_builtins(labels),
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
