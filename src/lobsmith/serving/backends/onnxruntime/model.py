"""Serves `<model>/<version>/model.onnx` with ONNX Runtime inside Triton's Python stub.

Tensors are those of the model file, float32 [B, T, width] or [B, width]; the native backend serves the same repository.
The stub's interpreter cannot import lobsmith; a test keeps `MAX_ROWS` equal to the contract's.
"""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

# The stub's interpreter ignores PYTHONPATH and the virtual environment.
sys.path[:0] = [path for path in os.environ.get("LOBSMITH_PACKAGES", "").split(os.pathsep) if path]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

MAX_ROWS = 256

Inputs = dict[str, NDArray[np.float32]]


class TritonPythonModel:
    """One loaded version."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's model.

        Args:
            args: by Triton, `model_repository` (the model's folder) and `model_version` among them.
        """
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        # A small step is shorter than a hand-over to a thread pool, and a spinning pool takes cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor.shape for tensor in self.session.get_inputs()}
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; those of equal length in one run. Invalid requests are refused singly."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[tuple[int, ...], ...], list[tuple[int, Inputs]]] = {}
        for position, request in enumerate(requests):
            try:
                inputs = self._read(request)
            except ValueError as error:
                responses[position] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
            else:
                shapes = tuple(tensor.shape[1:] for tensor in inputs.values())
                groups.setdefault(shapes, []).append((position, inputs))
        for group in groups.values():
            positions = [position for position, _ in group]
            for position, response in zip(positions, self._run([inputs for _, inputs in group]), strict=True):
                responses[position] = response
        return responses

    def _read(self, request: Any) -> Inputs:
        """Return the inputs; ValueError names an invalid one."""
        inputs: Inputs = {}
        batch: int | None = None
        for name, (_, *between, width) in self.inputs.items():
            tensor = _tensor(request, name)
            shape = tensor.shape
            if len(shape) != 2 + len(between) or shape[-1] != width or batch not in (None, shape[0]):
                expected = ["B" if batch is None else batch, *("T" for _ in between), width]
                raise ValueError(f"{name}: expected float32 [{', '.join(map(str, expected))}], got {list(shape)}")
            if between and not 1 <= shape[1] <= MAX_ROWS:
                raise ValueError(f"{name}: expected 1 to {MAX_ROWS} rows, got {shape[1]}")
            inputs[name], batch = tensor, shape[0]
        for name, tensor in inputs.items():
            finite = np.isfinite(tensor)
            # A fused convolution and activation swallows NaN: the answer looks plausible.
            if not finite.all():
                place = np.argwhere(~finite)[0].tolist()
                raise ValueError(f"{name}{place} is {tensor[tuple(place)]}; only finite values are accepted")
        return inputs

    def _run(self, group: list[Inputs]) -> list[Any]:
        """Run requests of one length as one batch; responses are in order."""
        batch = {name: np.concatenate([inputs[name] for inputs in group]) for name in self.inputs}
        try:
            answers = self.session.run(self.outputs, batch)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises, each request must get a response
            message = " ".join(str(error).split())
            return [_failure(f"ONNX Runtime: {message}", pb_utils.TritonError.INTERNAL) for _ in group]
        ends = list(itertools.accumulate(len(next(iter(inputs.values()))) for inputs in group))
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(name, answer[start:end]) for name, answer in zip(self.outputs, answers, strict=True)
                ]
            )
            for start, end in itertools.pairwise([0, *ends])
        ]


def _tensor(request: Any, name: str) -> NDArray[np.float32]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise ValueError(f"{name}: missing")
    array: NDArray[np.float32] = tensor.as_numpy()
    if array.dtype != np.float32:
        raise ValueError(f"{name}: expected float32, got {array.dtype}")
    return array


def _failure(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
