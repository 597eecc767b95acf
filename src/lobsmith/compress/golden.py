"""Golden vectors, which every later copy of the model must reproduce, and the rows that a cold stream needs."""

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
"""Largest difference in any probability between a primed stream and one that never stopped."""
MAXIMUM = 1024
_STARTS = 8


@dataclass(frozen=True)
class Golden:
    """One cold stream: features [1, T, F], state [1, S] of zeros, and what comes out. All float32."""

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
        ReleaseError: the file is missing or is not such a file.
    """
    try:
        return Golden(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise ReleaseError(f"{path}: not golden vectors: {error}; publish the version again") from error


def measure_prime_rows(model: OnnxModel, rows: Float, *, starts: int = _STARTS, maximum: int = MAXIMUM) -> int:
    """Measure after how many rows a cold start agrees with a stream that has run from the beginning.

    Cold starts are spread evenly over the rows; the figure is that of the slowest, and counts the last row that still
    differs by more than the tolerance within `maximum` rows.

    Args:
        model: the exported model.
        rows: float32 [N, F], consecutive rows of a held-out stream.
        starts: how many cold starts.
        maximum: rows looked at after each; also the answer's upper bound.

    Returns:
        Rows to feed before the first answer; at least 1.
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
