"""The in-process engine: a published version, run in the caller's thread."""

from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from lobsmith.compress import MODEL, STEP
from lobsmith.compress.runtime import ModelOutputs, OnnxModel, StepModel
from lobsmith.compress.step.compiled import open_step
from lobsmith.errors import RequestError, ServingError
from lobsmith.release.version.contract import FEATURES, MAX_ROWS, STATE
from lobsmith.release.version.manifest import check_files
from lobsmith.release.version.signing import Trust


class Engine:
    """One loaded version; the stream's state comes with each call.

    A single row of a single stream goes to the version's one-row graph, compiled where `open_step` supports the
    network.
    """

    def __init__(self, directory: Path, trust: Trust) -> None:
        """Load a version.

        Args:
            directory: `model_repository/<model>/<version>`.
            trust: keys that may have signed it.

        Raises:
            ReleaseError: wrong files or signature, or ONNX Runtime cannot load the model.
        """
        self.manifest = check_files(directory, trust)
        self._model = OnnxModel(directory / MODEL)
        self._step = open_step(directory / MODEL, directory / STEP) if STEP in self.manifest.files else None
        # Threads share an engine, and the step's buffers serve one call.
        self._stepping = Lock()

    @property
    def version(self) -> int:
        """The version's number."""
        return self.manifest.version

    def infer(self, features: NDArray[np.float32], state: NDArray[np.float32]) -> ModelOutputs:
        """Run T rows of B streams.

        Args:
            features: float32 [B, T, F], oldest first, 1 <= T <= `MAX_ROWS`.
            state: float32 [B, S], zeros when cold.

        Raises:
            RequestError: wrong shape or type, or not finite.
            ServingError: ONNX Runtime failed.
        """
        contract = self.manifest.contract
        check_request(features, state, contract.feature_count, contract.state_size)
        try:
            if self._step is not None and features.shape[:2] == (1, 1):
                return self._answer_row(self._step, features, state)
            return self._model.run(features, state)
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            reason = " ".join(str(error).split())[:300]
            raise ServingError(f"{self.manifest.model}/{self.version}: ONNX Runtime: {reason}") from error

    def _answer_row(self, step: StepModel, features: NDArray[np.float32], state: NDArray[np.float32]) -> ModelOutputs:
        with self._stepping:
            step.features[:] = features
            step.state[:] = state
            step.step()
            return ModelOutputs(step.probabilities.copy(), step.outlook.copy(), step.state.copy())


def check_request(
    features: NDArray[np.float32], state: NDArray[np.float32], feature_count: int, state_size: int
) -> None:
    """Check a request against the wire contract.

    Raises:
        RequestError: it names tensor, expected and actual value.
    """
    for name, tensor in ((FEATURES, features), (STATE, state)):
        if tensor.dtype != np.float32:
            raise RequestError(f"{name}: expected float32, got {tensor.dtype}")
    if features.ndim != 3 or features.shape[2] != feature_count:
        raise RequestError(f"{FEATURES}: expected [B, T, {feature_count}], got {list(features.shape)}")
    if features.shape[0] < 1 or not 1 <= features.shape[1] <= MAX_ROWS:
        raise RequestError(
            f"{FEATURES}: expected at least one stream and 1 to {MAX_ROWS} rows, got {list(features.shape)}"
        )
    if state.shape != (features.shape[0], state_size):
        raise RequestError(f"{STATE}: expected [{features.shape[0]}, {state_size}], got {list(state.shape)}")
    for name, tensor in ((FEATURES, features), (STATE, state)):
        finite = np.isfinite(tensor)
        if not finite.all():
            place = np.argwhere(~finite)[0].tolist()
            raise RequestError(f"{name}{place} is {tensor[tuple(place)]}; only finite values are accepted")
