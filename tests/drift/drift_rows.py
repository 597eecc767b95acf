"""Rows of autocorrelated features, for drift checks."""

import numpy as np
from scipy.signal import lfilter

from lobsmith.drift.reference import RawRows
from lobsmith.params import DiscriminatorParams, DriftParams

S = 1_000_000_000
FEATURES = 8
NAMES = tuple(f"feature_{i}" for i in range(FEATURES))


def drift_params(**changes: float) -> DriftParams:
    """A row a second, 1000 s against 250 s."""
    settings = {
        "every_ms": 1000,
        "reference_s": 1000.0,
        "recent_s": 250.0,
        "minimum_rows": 20,
        "past_pairs": 40,
        "pairs_a_look": 100,
        "false_alarms_a_day": 1.0,
        "look_s": 10.0,
        "raw_keep_days": 7.0,
        "gate_level": 0.01,
        "feed_limit": 0.2,
        "discriminator": DiscriminatorParams(seed=5, hidden=8, folds=4, rows=1000, seconds=30.0),
    }
    return DriftParams(**{**settings, **changes})


def market(seconds: int, *, seed: int = 1, memory_s: float = 5.0, features: int = FEATURES) -> RawRows:
    """A stationary Gaussian autoregression in each feature, a row a second, from 1970 on."""
    generator, keep = np.random.default_rng(seed), np.exp(-1 / memory_s)
    noise = generator.normal(size=(seconds, features)) * np.sqrt(1 - keep**2)
    noise[0] /= np.sqrt(1 - keep**2)
    raw = lfilter([1.0], [1.0, -keep], noise, axis=0).astype(np.float32)
    return RawRows(np.arange(seconds, dtype=np.int64) * S, np.zeros(seconds, np.int64), raw)
