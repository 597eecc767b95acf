"""Export to ONNX: one file, dynamic batch and time, byte-identical for the same weights."""

import warnings
from pathlib import Path

import onnx
import torch

from lobsmith.compress.folded import FoldedNetwork
from lobsmith.compress.merge import merge_linear
from lobsmith.models.network import Network

OPSET = 17
INPUTS = ("features", "state")
OUTPUTS = ("probabilities", "outlook", "next_state")


def export_onnx(network: Network, destination: Path, state_size: int | None = None) -> None:
    """Write the served form of a network as one ONNX file.

    The TorchScript exporter is used because the dynamo exporter fixes the time axis of an LSTM.

    Args:
        network: the network, calibrated.
        destination: the file.
        state_size: S of the wire contract, where it is more than the network needs.
    """
    size = network.state_size if state_size is None else state_size
    example = (torch.zeros(2, 3, network.features), torch.zeros(2, size))
    with warnings.catch_warnings():
        # The tracer warns of shapes it records; the parity gate checks other shapes than the traced ones.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FoldedNetwork(network, size).eval(),
            example,
            str(destination),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={
                "features": {0: "batch", 1: "time"},
                "state": {0: "batch"},
                "probabilities": {0: "batch", 1: "time"},
                "outlook": {0: "batch", 1: "time"},
                "next_state": {0: "batch"},
            },
        )
    model = onnx.load(str(destination))
    merge_linear(model)
    onnx.save(model, str(destination))
    onnx.checker.check_model(str(destination), full_check=True)
