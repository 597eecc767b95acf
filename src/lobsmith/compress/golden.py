"""Golden vectors, which every copy of a model must reproduce, and priming rows of cold streams."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.errors import ReleaseError
from lobsmith.files import write_atomic

GOLDEN_ROWS = 128
TOLERANCE = 1e-3
"""Largest difference in any probability between a primed and an uninterrupted stream."""
MAXIMUM = 1024
_STARTS = 8


@dataclass(frozen=True)
class Golden:
    """One cold stream: features [1, T, F], zero state [1, S], and the model's outputs. All float32."""

    features: Float
    state: Float
    probabilities: Float
    outlook: Float
    next_state: Float


def golden_vectors(model: OnnxModel, rows: Float) -> Golden:
    """Run the first rows of a held-out stream, float32 [N, F], through a model."""
    features = rows[None, :GOLDEN_ROWS].copy()
    state = model.cold_state()
    return Golden(features, state, *model.run(features, state))


def save_golden(golden: Golden, path: Path) -> None:
    """Write golden vectors as safetensors."""
    write_atomic(path, save(asdict(golden)))


def load_golden(path: Path) -> Golden:
    """Read golden vectors.

    Raises:
        ReleaseError: the file is missing or invalid.
    """
    try:
        return Golden(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise ReleaseError(f"{path}: not golden vectors: {error}; publish the version again") from error


def measure_prime_rows(model: OnnxModel, rows: Float, *, starts: int = _STARTS, maximum: int = MAXIMUM) -> int:
    """Return the rows to prime a cold stream with until it agrees with an uninterrupted one; at least 1.

    The slowest of `starts` evenly spread cold starts counts, by its last row beyond the tolerance.

    Args:
        rows: float32 [N, F], consecutive, held out.
        maximum: rows compared after each start; upper bound of the result.
    """
    reference, _, _ = model.predict(rows)
    length = min(maximum, len(rows) // 2)
    worst = 1
    for start in np.linspace(len(rows) // 4, len(rows) - length, starts).astype(int):
        cold, _, _ = model.predict(rows[start : start + length])
        differs = np.abs(cold - reference[start : start + length]).max(axis=(1, 2)) > TOLERANCE
        if differs.any():
            worst = max(worst, int(np.flatnonzero(differs)[-1]) + 1)
    return worst
