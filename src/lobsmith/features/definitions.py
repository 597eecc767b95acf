"""The names, order and meaning of the features: one table that the kernel, the manifest and the documents share."""

import hashlib
import json

import msgspec
from msgspec import Struct

from lobsmith.params import FeatureParams, LabelParams

KERNEL_VERSION = 3
"""Raised whenever the kernel's arithmetic changes; part of the wire contract."""

DIRECTIONS = ("down", "unchanged", "up")
"""Directions of the mid, in the order of labels and probabilities."""

LEVELS = 10
DECAYS = 4
"""Time constants of the order flow."""


class Feature(Struct, frozen=True):
    """One column of the feature vector.

    `rolling` columns reach the network as z-scores over the last rows, because their level is of the hour. The others
    have a scale that lasts, and their level is informative: an imbalance of 0.9 is much on any day.
    """

    name: str
    formula: str
    unit: str
    source: str
    rolling: bool = False


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
_SLOPE = "Naes & Skjeltorp 2006"
_STATE = [
    Feature("imbalance_1", "(Qb - Qa) / (Qb + Qa), Q the size at the touch", "1", _IMBALANCE),
    Feature("imbalance_5", "the same, Q the size over 5 levels", "1", _IMBALANCE),
    Feature("imbalance_10", "the same, Q the size over 10 levels", "1", _IMBALANCE),
    Feature("microprice", "10^4 ((a qb + b qa) / (qa + qb) - m) / m", "basis points", "Stoikov 2018"),
    Feature("spread", "10^4 (a - b) / m", "basis points", "-"),
    Feature("mid_return", "10^4 ln(m / m of the previous row)", "basis points", "-"),
    Feature("volatility_burst", "sqrt((V_s / tau_s) / (V_l / tau_l)), V decayed sums of r^2", "1", "-"),
    Feature("bid_slope", "OLS slope of ln cumulative lots on distance, bids", "1/basis point", _SLOPE, rolling=True),
    Feature("ask_slope", "OLS slope of ln cumulative lots on distance, asks", "1/basis point", _SLOPE, rolling=True),
    Feature("elapsed", "ln(1 + time since the previous row)", "log ms", "-"),
    Feature("event_rate", "ln(1 + decayed count of rows / tau_4)", "log 1/s", "-", rolling=True),
]
_TOUCH = [
    Feature("size_ratio", "ln(1 + qb / lot) - ln(1 + qa / lot) at the touch", "1", _IMBALANCE),
    Feature("bid_fill", "ln(1 + qb / lot) - ln(1 + Q / lot), Q the usual size", "1", "-"),
    Feature("ask_fill", "ln(1 + qa / lot) - ln(1 + Q / lot)", "1", "-"),
    Feature("spread_ticks", "ln((a - b) / tick)", "log ticks", "-"),
    Feature("last_move", "slog of the last change of 2 m", "log ticks", "-"),
    Feature("last_move_age", "ln(1 + time since then)", "log ms", "-"),
    Feature("last_move_pull", "sign of that change, times exp(-age / 0.1 s)", "1", "-"),
    Feature("last_trade", "slog of (price of the last trade - m) / tick", "log ticks", "-"),
    Feature("last_trade_age", "ln(1 + time since then)", "log ms", "-"),
    Feature("last_trade_pull", "+1 bought, -1 sold, times exp(-age / 0.1 s)", "1", "-"),
]


def _flows() -> list[Feature]:
    table = [
        Feature("flow_now", "slog of e at the touch of this row / Q", "log usual sizes", _FLOW),
        Feature("flow_5", "slog of the sum of e over levels 1 to 5, decayed by tau_4, / Q", "log usual sizes", _FLOW),
    ]
    decays = range(1, DECAYS + 1)
    table += [
        Feature(f"flow_1_{d}", f"slog of the sum of e at the touch, decayed by tau_{d}, / Q", "log usual sizes", _FLOW)
        for d in decays
    ]
    table += [
        Feature(f"trade_flow_{d}", f"slog of the sum of signed trades, decayed by tau_{d}, / Q", "log usual sizes", "-")
        for d in decays
    ]
    table += [
        Feature(f"trade_rate_{d}", f"ln(1 + count of trades, decayed by tau_{d}, / tau_{d})", "log 1/s", "-")
        for d in decays
    ]
    return table


FEATURES: tuple[Feature, ...] = (*_book(), *_STATE, *_TOUCH, *_flows())
"""All features in the order of the vector. slog(x) = sign(x) ln(1 + |x|); m, b, a are mid, best bid, best ask."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COUNT = len(FEATURES)
ROLLING: tuple[bool, ...] = tuple(feature.rolling for feature in FEATURES)


def definitions_sha256(features: FeatureParams, labels: LabelParams) -> str:
    """Return the SHA-256 that two models must share to mean the same by their inputs and outputs."""
    table = {
        "kernel": KERNEL_VERSION,
        "names": NAMES,
        "rolling": ROLLING,
        "features": msgspec.to_builtins(features),
        "labels": msgspec.to_builtins(labels),
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def mirror() -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return where each feature of the mirrored market comes from, and its sign.

    A market seen with bids and asks exchanged and prices upside down is as likely as the one that was seen: column c of
    the mirrored row is `sign[c] * row[source[c]]`, and up becomes down. Basis points change in the fifth digit only.
    """
    source, sign = [], []
    for name in NAMES:
        side, _, rest = name.partition("_")
        other = {"bid": f"ask_{rest}", "ask": f"bid_{rest}"}.get(side, name)
        source.append(NAMES.index(other))
        sign.append(-1.0 if name in _SIGNED or name.startswith(("imbalance_", "flow_", "trade_flow_")) else 1.0)
    return tuple(source), tuple(sign)


_SIGNED = {"microprice", "mid_return", "size_ratio", "last_move", "last_move_pull", "last_trade", "last_trade_pull"}
