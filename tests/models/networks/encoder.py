"""The encoder of a network by itself: stepped with its state carried on, and exported."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from lobsmith.features.definitions import COUNT


def step(encoder: nn.Module, rows: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    state = encoder.cold_state(rows.shape[0])
    parts = []
    with torch.inference_mode():
        for part in torch.split(rows, sizes, dim=1):
            answer, state = encoder(part, state)
            parts.append(answer)
    return torch.cat(parts, dim=1), state


def exported(encoder: nn.Module, path: Path) -> ort.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of shapes it records; other shapes are compared below
        torch.onnx.export(
            encoder,
            (torch.zeros(2, 3, COUNT), encoder.cold_state(2)),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["features", "state"],
            output_names=["answer", "next_state"],
            dynamic_axes={
                "features": {0: "batch", 1: "time"},
                "state": {0: "batch"},
                "answer": {0: "batch", 1: "time"},
                "next_state": {0: "batch"},
            },
        )
    onnx.checker.check_model(str(path), full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_answers_the_same(
    session: ort.InferenceSession,
    encoder: nn.Module,
    shapes: Iterable[tuple[int, int]],
    features: Callable[[int, int, int], Tensor],
    *,
    rtol: float,
    atol: float,
) -> None:
    """Compare answers and states of three calls each, from cold; features are made of batch, time and a seed."""
    for batch, steps in shapes:
        state = encoder.cold_state(batch)
        served_state = state.numpy()
        for seed in range(3):
            rows = features(batch, steps, seed)
            with torch.inference_mode():
                answer, state = encoder(rows, state)
            served, served_state = session.run(None, {"features": rows.numpy(), "state": served_state})
            np.testing.assert_allclose(served, answer.numpy(), rtol=rtol, atol=atol)
            np.testing.assert_allclose(served_state, state.numpy(), rtol=rtol, atol=atol)
