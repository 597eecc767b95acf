"""Checkpoints of a training, written after each epoch."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from lobsmith.files import write_atomic

CHECKPOINT = "checkpoint.pt"
_DIGEST = hashlib.sha256().digest_size


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: tensors and plain values, after their SHA-256."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, **state}, buffer)
    content = buffer.getvalue()
    write_atomic(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Read a checkpoint of the same training: same data, parameters and versions.

    Unpickles tensors and plain values only. None for a damaged file or another training's.
    """
    try:
        content = path.read_bytes()
        # Torch does not check tensors.
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None
