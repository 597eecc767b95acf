"""Rows for the tests of drift: those of a simulated market, thinned, and ones made of noise."""

from functools import cache

import numpy as np

from lobsmith.drift.reference import RawRows, Reference, fit_scaling, freeze
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import COUNT
from lobsmith.market.simulator import simulate
from tests.small import small_params

EVERY_MS = 500


@cache
def simulated(seed: int, seconds: int) -> Dataset:
    return build_dataset(simulate(seed, seconds), small_params())


@cache
def reference(seed: int = 3, seconds: int = 3600) -> Reference:
    return freeze([simulated(seed, seconds)], small_params().drift)


def noise(rows: int, seed: int = 0, memory: float = 0.9) -> RawRows:
    """Independent features, each one an AR(1) of variance 1."""
    raw = np.random.default_rng(seed).normal(size=(rows, COUNT))
    for row in range(1, rows):
        raw[row] = memory * raw[row - 1] + np.sqrt(1 - memory**2) * raw[row]
    time_ns = np.arange(1, rows + 1, dtype=np.int64) * EVERY_MS * 1_000_000
    return RawRows(time_ns, np.zeros(rows, np.int64), raw.astype(np.float32))


def reference_of(*rows: RawRows) -> Reference:
    scaling = fit_scaling(np.concatenate([raw_rows.raw for raw_rows in rows]))
    return Reference({f"venue:{number}": raw_rows for number, raw_rows in enumerate(rows)}, scaling, EVERY_MS)
