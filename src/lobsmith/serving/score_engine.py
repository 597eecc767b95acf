"""The drift score in this process: `drift.onnx` of a published version."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lobsmith import drift
from lobsmith.compress import runtime
from lobsmith.errors import ReleaseError, RequestError, ServingError
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import CONTRIBUTIONS, ROWS, SCORE
from lobsmith.release.version.names import score_model

Float32 = NDArray[np.float32]

_KEPT = 2
"""Loaded scores: of the version in use and of the one before, for a rollback."""


class ScoreModels:
    """The drift scores of a repository's versions, verified and loaded when first needed."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._sessions: dict[tuple[str, int], Any] = {}

    def run(self, model: str, version: int, rows: Float32) -> dict[str, Float32]:
        """Return the outputs by name.

        Args:
            model: the model's name, not the score's.
            version: of the score.
            rows: float32 [B, T, F].

        Raises:
            RequestError: the score was made for other shapes.
            ServingError: the version is not listed, corrupt or without a score, or ONNX Runtime failed.
        """
        session = self._session(model, version)
        shape = session.get_inputs()[0].shape
        if len(shape) != rows.ndim or any(
            isinstance(size, int) and size != got for size, got in zip(shape, rows.shape, strict=True)
        ):
            raise RequestError(f"{ROWS}: expected {list(shape)}, got {list(rows.shape)}")
        try:
            return dict(zip((SCORE, CONTRIBUTIONS), session.run([SCORE, CONTRIBUTIONS], {ROWS: rows}), strict=True))
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            reason = " ".join(str(error).split())[:300]
            raise ServingError(f"{score_model(model)}/{version}: ONNX Runtime: {reason}") from error

    def close(self) -> None:
        """Drop loaded scores."""
        self._sessions.clear()

    def _session(self, model: str, version: int) -> Any:
        # Least recently used first.
        session = self._sessions.pop((model, version), None) or self._load(model, version)
        self._sessions[model, version] = session
        while len(self._sessions) > _KEPT:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _load(self, model: str, version: int) -> Any:
        try:
            if version not in self._repository.listed(model):
                raise ServingError(f"{model}/{version}: not a listed version")
            if drift.SCORE not in self._repository.verify(model, version).files:
                raise ServingError(f"{model}/{version}: published without a score; the next retrain makes one")
            return runtime.session(self._repository.directory(model, version) / drift.SCORE)
        except (OSError, ReleaseError) as error:
            raise ServingError(str(error)) from error
