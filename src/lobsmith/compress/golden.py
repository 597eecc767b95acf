"""Golden vectors: a few held-out rows and the answers that every later copy of the model must give."""

from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.errors import ReleaseError
from lobsmith.files import write_atomic

GOLDEN_ROWS = 128


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
