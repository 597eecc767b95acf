"""Runs a TensorRT or TensorRT-RTX plan on this machine's GPU."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lobsmith.compress.runtime import OUTPUTS, Float, ModelOutputs, StatefulModel
from lobsmith.compress.tensorrt.build import load_build
from lobsmith.compress.tensorrt.child import INPUTS, error_log
from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import check_engine
from lobsmith.errors import EngineError


class EngineModel(StatefulModel):
    """A plan in this process, on PyTorch's tensors.

    Raises:
        EngineError: no GPU, changed plans, or plans for another GPU or builder.
    """

    def __init__(self, directory: Path) -> None:
        build = load_build(directory)
        gpu = this_gpu()
        if gpu is None or not torch.cuda.is_available():
            raise EngineError(f"{directory}: an engine runs on a GPU only, and PyTorch finds none here")
        try:
            trt = importlib.import_module(build.builder)
        except (ImportError, OSError) as error:
            raise EngineError(f"{directory}: {build.builder} cannot be imported: {error}") from error
        check_engine(build, builder=build.builder, builder_version=trt.__version__, capability=gpu.capability)
        path = directory / build.plans[gpu.capability]
        self._log = error_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context: Any = self._engine.create_execution_context() if self._engine else None
        if self._context is None:
            raise EngineError(f"{path}: {build.builder} does not load it: {self._log.message()}")
        for name in (*INPUTS, *OUTPUTS):
            if self._engine.get_tensor_dtype(name) != trt.float32:
                raise EngineError(f"{path}: its tensor {name} is not float32; export the network again")
        self._path = path
        self._profiles = build.profiles
        self._profile = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.feature_count = int(self._engine.get_tensor_shape("features")[2])
        self.state_size = int(self._engine.get_tensor_shape("state")[1])

    def run(self, features: Float, state: Float) -> ModelOutputs:
        """Step through T rows: features float32 [B, T, F], state float32 [B, S].

        Raises:
            EngineError: no profile covers B and T, or TensorRT fails.
        """
        with torch.cuda.stream(self._stream):
            self._choose_profile(*features.shape[:2])
            inputs = {"features": features, "state": state}
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in inputs.items()}
            accepted = [self._context.set_input_shape(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
            if not all(accepted):
                raise EngineError(f"{self._path}: takes no features {features.shape} with states {state.shape}")
            for name in OUTPUTS:
                tensors[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda")
            for name, tensor in tensors.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineError(f"{self._path}: does not run: {self._log.message()}")
            return ModelOutputs(*(tensors[name].cpu().numpy() for name in OUTPUTS))

    def _choose_profile(self, batch: int, rows: int) -> None:
        covering = (
            index
            for index, profile in enumerate(self._profiles)
            if profile.batch[0] <= batch <= profile.batch[2] and profile.rows[0] <= rows <= profile.rows[2]
        )
        index = next(covering, None)
        if index is None:
            raise EngineError(f"{self._path}: has no profile for {batch} streams of {rows} rows")
        if index != self._profile:
            if not self._context.set_optimization_profile_async(index, self._stream.cuda_stream):
                raise EngineError(f"{self._path}: does not change to profile {index}: {self._log.message()}")
            self._profile = index
