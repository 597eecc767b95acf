"""Answers of invented versions to invented rows: a test sets their losses."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lobsmith.online.answers import Answers, Compared
from lobsmith.params import Params, load_params

S = 1_000_000_000
HORIZONS = (50, 1000)
PROBES = np.full(2000, 50_000, np.int64)


def params(**overrides) -> Params:
    """The project's own, with short lengths."""
    short = {
        "paired.measure_s": 300,
        "shadow.minimum_s": 600,
        "shadow.maximum_s": 7200,
        "shadow.share": 0.5,
    }
    return load_params(
        Path(__file__).parents[2] / "params.yaml", short | {k.replace("__", "."): v for k, v in overrides.items()}
    )


def times(seconds: float, rate: float = 5.0, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).exponential(1 / rate, round(seconds * rate))
    return (np.cumsum(steps) * S).astype(np.int64) + 1_700_000_000 * S


def answers(time_ns: np.ndarray, loss: np.ndarray | float, *, seed: int = 0, version: int = 1, **changes) -> Answers:
    """A version whose log-loss at each row is `loss`, at both horizons."""
    count = len(time_ns)
    labels = np.random.default_rng(seed).integers(0, 3, count)
    true = np.exp(-np.broadcast_to(loss, count))
    p = np.repeat(((1 - true) / 2)[:, np.newaxis], 3, axis=1)
    p[np.arange(count), labels] = true
    drawn = Answers(
        model="lob",
        version=version,
        time_ns=time_ns,
        segment=np.zeros(count, np.int64),
        labels=np.repeat(labels[:, np.newaxis], 2, axis=1).astype(np.int8),
        probabilities=np.repeat(p[:, np.newaxis], 2, axis=1).astype(np.float32),
        latency_ns=np.full(count, 1_000_000, np.int64),
        reasons={},
        horizons_ms=HORIZONS,
    )
    return replace(drawn, **changes)


def compared(first: Answers, second: Answers, first_ns=PROBES, second_ns=PROBES) -> Compared:
    return Compared(first=first, second=replace(second, version=2), first_probe_ns=first_ns, second_probe_ns=second_ns)


def two(seconds: float, better_by: float, *, seed: int = 0, noise: float = 0.1, rate: float = 5.0) -> Compared:
    """A first version with noisy losses, and a second that is better on average, on the same rows."""
    time_ns, generator = times(seconds, rate, seed), np.random.default_rng(seed + 1)
    market = 0.5 + 0.1 * generator.normal(size=len(time_ns))
    own = noise * generator.normal(size=len(time_ns))
    return compared(
        answers(time_ns, np.clip(market, 0.01, 5), seed=seed),
        answers(time_ns, np.clip(market - better_by + own, 0.01, 5), seed=seed),
    )


def until(pair: Compared, rows: int) -> Compared:
    """What was known when there were so many rows."""
    return replace(pair, first=pair.first.at(slice(rows)), second=pair.second.at(slice(rows)))


def silent(side: Answers, rows=slice(None)) -> Answers:
    """The same, without answers to some rows."""
    p = side.probabilities.copy()
    p[rows] = np.nan
    return replace(side, probabilities=p, reasons={"deadline": int(np.isnan(p[:, 0, 0]).sum())})
