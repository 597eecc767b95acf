"""Export to ONNX: one file, dynamic batch and time, byte-identical for the same weights."""

import warnings
from pathlib import Path

import onnx
import torch

from lobsmith.models.network import Network, ServedNetwork

OPSET = 17
INPUTS = ("features", "state")
OUTPUTS = ("probabilities", "outlook", "next_state")


def export_onnx(network: Network, destination: Path) -> None:
    """Write the served form of a network as one ONNX file.

    The TorchScript exporter is used because the dynamo exporter fixes the time axis of an LSTM.
    """
    served = ServedNetwork(network).eval()
    example = (torch.zeros(2, 3, network.features), network.cold_state(2))
    with warnings.catch_warnings():
        # The tracer warns of shapes it records; the parity gate checks other shapes than the traced ones.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            served,
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
    onnx.checker.check_model(str(destination), full_check=True)
