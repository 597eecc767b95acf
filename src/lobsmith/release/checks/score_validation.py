"""Validation of a drift score: independent of the batch, and in alarm on non-finite rows."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lobsmith.compress.runtime import Float, session
from lobsmith.drift import REFERENCE, SCORE
from lobsmith.errors import ReleaseError
from lobsmith.release.checks.model_file import check_score_file
from lobsmith.release.version.contract import CONTRIBUTIONS, MAX_ROWS, ROWS, WireContract
from lobsmith.release.version.contract import SCORE as SCORE_TENSOR

_BLOCKS = (16, MAX_ROWS)
"""Rows of a block of zeros."""
_SAME = 1e-4
"""Largest difference of a block's score alone and in a batch, relative to the larger of it and 1."""


def check_score(directory: Path, contract: WireContract) -> None:
    """Validate a version's drift score.

    Raises:
        ReleaseError: a file cannot be loaded; the graph is no score; a finite block's score is not finite or depends on
            the batch; or the score of a block that is not finite is below 1.
    """
    path = directory / SCORE
    check_score_file(path, contract)
    blocks = [np.zeros((rows, contract.feature_count), np.float32) for rows in _BLOCKS]
    model = session(path)
    for block in (*blocks, *_reference_rows(directory / REFERENCE, contract.feature_count)):
        _check_block(path, model, block)


def _check_block(path: Path, model: Any, block: Float) -> None:
    """Score a block alone, and in a batch with copies that hold a NaN or an infinity."""
    features = block.shape[1]
    broken = np.repeat(block[np.newaxis], 3 * features, axis=0)
    for copy, (feature, value) in enumerate((f, v) for f in range(features) for v in (np.nan, np.inf, -np.inf)):
        # A different row in each copy, from the first to the last.
        broken[copy, copy * (len(block) - 1) // (3 * features - 1), feature] = value
    alone = _run(path, model, block[np.newaxis])
    together = _run(path, model, np.concatenate([block[np.newaxis], broken]))
    if not np.isfinite(alone).all():
        raise ReleaseError(f"{path}: the score of a finite block is not finite; make the reference again")
    if not np.allclose(together[:1], alone, rtol=_SAME, atol=_SAME):
        raise ReleaseError(f"{path}: the score of a block depends on the others of its batch; export it again")
    if (np.isfinite(together[1:]) & (together[1:] < 1)).any():
        raise ReleaseError(f"{path}: a block that is not finite has a score below 1, no alarm; export it again")


def _run(path: Path, model: Any, blocks: Float) -> Float:
    """Return the scores of blocks [B, T, F], float32 [B, 1]."""
    try:
        score, contributions = model.run([SCORE_TENSOR, CONTRIBUTIONS], {ROWS: blocks})
    except Exception as error:  # exceptions of ONNX Runtime share no base class
        reason = " ".join(str(error).split())
        raise ReleaseError(f"{path}: it cannot be run: {reason}; export it again") from error
    have, want = (score.shape, contributions.shape), ((len(blocks), 1), (len(blocks), blocks.shape[2]))
    if have != want:
        raise ReleaseError(f"{path}: its answers have the shapes {have}, not {want}; export it again")
    scores: Float = score
    return scores


def _reference_rows(path: Path, features: int) -> list[Float]:
    """Return the newest rows of each table of the reference, a block each."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"{path}: cannot be loaded: {error}; make the reference again") from error
    broken = [name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if broken or not tensors:
        raise ReleaseError(f"{path}: {', '.join(broken) or 'it'} holds no finite numbers; make the reference again")
    tables = [array for array in tensors.values() if array.ndim == 2 and array.shape[1] == features]
    return [table[-MAX_ROWS:].astype(np.float32) for table in tables]
