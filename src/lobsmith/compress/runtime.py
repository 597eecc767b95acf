"""ONNX Runtime on one thread: the one place that opens a model file."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from lobsmith.errors import ReleaseError

Float = npt.NDArray[np.float32]
OUTPUTS = ["probabilities", "outlook", "next_state"]
_ROWS = ("features", "probabilities", "outlook")
"""Tensors with an axis of time."""


class Answered(NamedTuple):
    """What a model makes of T rows of B streams.

    `probabilities` float32 [B, T, H, 3], `outlook` float32 [B, T, H, 5], `next_state` float32 [B, S].
    """

    probabilities: Float
    outlook: Float
    next_state: Float


class StatefulModel(ABC):
    """A network whose state travels with the caller.

    Attributes:
        feature_count: F.
        state_size: S.
    """

    feature_count: int
    state_size: int

    @abstractmethod
    def run(self, features: Float, state: Float) -> Answered:
        """Step through T rows.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S].
        """

    def cold_state(self, batch: int = 1) -> Float:
        """Return zeros [B, S]."""
        return np.zeros((batch, self.state_size), np.float32)

    def predict(self, rows: Float, *, chunk: int = 256, state: Float | None = None) -> tuple[Float, Float, Float]:
        """Step through one stream, `chunk` rows at a time.

        Args:
            rows: float32 [N, F].
            chunk: rows a call.
            state: float32 [1, S]; cold where None.

        Returns:
            Probabilities float32 [N, H, 3], outlook float32 [N, H, 5] and the state after the last row.
        """
        state = self.cold_state() if state is None else state
        parts = []
        for start in range(0, len(rows), chunk):
            probabilities, outlook, state = self.run(rows[np.newaxis, start : start + chunk], state)
            parts.append((probabilities[0], outlook[0]))
        probabilities, outlook = (np.concatenate(one) for one in zip(*parts, strict=True))
        return probabilities, outlook, state


class OnnxModel(StatefulModel):
    """A served network in this process."""

    def __init__(self, path: Path) -> None:
        self._session = _session(path)
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        if set(shapes) != {"features", "state"}:
            raise ReleaseError(f"{path}: its inputs are {sorted(shapes)}, not features and state; export it again")
        self.feature_count = int(shapes["features"][2])
        self.state_size = int(shapes["state"][1])

    def run(self, features: Float, state: Float) -> Answered:
        """Step through T rows.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S].
        """
        return Answered(*self._session.run(OUTPUTS, {"features": features, "state": state}))
