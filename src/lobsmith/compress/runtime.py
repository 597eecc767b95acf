"""ONNX Runtime on one thread; every model file is opened here."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lobsmith.errors import ReleaseError

Float = npt.NDArray[np.float32]
OUTPUTS = ["probabilities", "outlook", "next_state"]
_ROWS = ("features", "probabilities", "outlook")
"""Tensors with a time axis."""


class ModelOutputs(NamedTuple):
    """Outputs for T rows of B streams.

    `probabilities` float32 [B, T, H, 3], `outlook` float32 [B, T, H, 5], `next_state` float32 [B, S].
    """

    probabilities: Float
    outlook: Float
    next_state: Float


class StatefulModel(ABC):
    """A network whose caller carries the state.

    Attributes:
        feature_count: F.
        state_size: S.
    """

    feature_count: int
    state_size: int

    @abstractmethod
    def run(self, features: Float, state: Float) -> ModelOutputs:
        """Step through T rows: features float32 [B, T, F], state float32 [B, S]."""

    def cold_state(self, batch: int = 1) -> Float:
        """Return zeros [B, S]."""
        return np.zeros((batch, self.state_size), np.float32)

    def predict(self, rows: Float, *, chunk: int = 256, state: Float | None = None) -> tuple[Float, Float, Float]:
        """Step through one stream, `chunk` rows a call.

        Args:
            rows: float32 [N, F].
            chunk: rows a call.
            state: float32 [1, S]; cold where None.

        Returns:
            Probabilities float32 [N, H, 3], auxiliary outputs [N, H, 5] and the next state.
        """
        state = self.cold_state() if state is None else state
        parts = []
        for start in range(0, len(rows), chunk):
            probabilities, outlook, state = self.run(rows[np.newaxis, start : start + chunk], state)
            parts.append((probabilities[0], outlook[0]))
        probabilities, outlook = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return probabilities, outlook, state


class OnnxModel(StatefulModel):
    """An exported network in this process."""

    def __init__(self, path: Path) -> None:
        self._session = session(path)
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        if set(shapes) != {"features", "state"}:
            raise ReleaseError(f"{path}: its inputs are {sorted(shapes)}, not features and state; export it again")
        self.feature_count = int(shapes["features"][2])
        self.state_size = int(shapes["state"][1])

    def run(self, features: Float, state: Float) -> ModelOutputs:
        """Step through T rows: features float32 [B, T, F], state float32 [B, S]."""
        return ModelOutputs(*self._session.run(OUTPUTS, {"features": features, "state": state}))


class StepModel(Protocol):
    """A model that holds its stream's state, for calls of one shape: `BoundModel`, `CompiledStep`.

    Attributes:
        runtime: name of the runtime.
        features: float32 [B, T, F], to be written before a call.
        probabilities: float32 [B, T, H, 3], of the last call.
        outlook: float32 [B, T, H, 5], of the last call.
    """

    runtime: str
    features: Float
    probabilities: Float
    outlook: Float

    @property
    def state(self) -> Float:
        """The state after the last call, float32 [B, S]; writing zeros begins a new stream."""

    def step(self) -> None:
        """Answer the rows in `features`."""


class BoundModel:
    """A `StepModel` model on ONNX Runtime, with inputs and outputs bound once.

    Two state buffers alternate, so that no state is copied between calls. Not thread-safe.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, batch: int = 1, rows: int = 1) -> None:
        """Load an exported model, dynamic or specialised to the shape, for B = `batch` streams of T = `rows` rows.

        Raises:
            ReleaseError: ONNX Runtime cannot load it.
        """
        self._session = session(path)
        tensors = (*self._session.get_inputs(), *self._session.get_outputs())
        last = {tensor.name: tensor.shape[2:] for tensor in tensors}
        size = next(tensor.shape[1] for tensor in tensors if tensor.name == "state")
        arrays = {name: np.zeros((batch, rows, *last[name]), np.float32) for name in _ROWS}
        self.features, self.probabilities, self.outlook = arrays.values()
        self._states = (np.zeros((batch, size), np.float32), np.zeros((batch, size), np.float32))
        self._calls = tuple(self._bound(arrays, *states) for states in (self._states, self._states[::-1]))
        self._turn = 0

    @property
    def state(self) -> Float:
        """The state after the last call, float32 [B, S]; writing zeros begins a new stream."""
        return self._states[self._turn]

    def step(self) -> None:
        """Answer the rows in `features`."""
        self._session.run_with_iobinding(self._calls[self._turn])
        self._turn = 1 - self._turn

    def _bound(self, arrays: dict[str, Float], before: Float, after: Float) -> Any:
        binding = self._session.io_binding()
        for name, array in {**arrays, "state": before, "next_state": after}.items():
            bind = binding.bind_input if name in ("features", "state") else binding.bind_output
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding


def session(path: Path) -> Any:
    """Open a model file as an `onnxruntime.InferenceSession`.

    Raises:
        ReleaseError: ONNX Runtime cannot load it.
    """
    import onnxruntime  # starts a thread, which the process that flow runs are forked from must not have

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A step is far shorter than a hand-over to a pool; a spinning pool takes cores from the stream.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        reason = " ".join(str(error).split())
        raise ReleaseError(f"{path}: ONNX Runtime cannot load it: {reason}; export it again") from error
