"""The reference score as one ONNX file, byte-identical for the same training window."""

import warnings
from pathlib import Path

import onnx
import torch

from lobsmith.compress.export import OPSET
from lobsmith.gates.drift.one_class import SHORTEST, ReferenceScore

SCORE_INPUT = "rows"
SCORE_OUTPUTS = ("score", "contributions")


def export_score(score: ReferenceScore, destination: Path) -> None:
    """Write the score for any number of blocks and rows: `rows` [B, T, F] to `score` [B, 1], `contributions` [B, F]."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The tracer warns of constants that it records; the tests compare other shapes than the traced one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            score.eval(),
            (torch.zeros(2, SHORTEST, score.features),),
            str(destination),
            dynamo=False,
            opset_version=OPSET,
            input_names=[SCORE_INPUT],
            output_names=list(SCORE_OUTPUTS),
            dynamic_axes={
                SCORE_INPUT: {0: "batch", 1: "time"},
                "score": {0: "batch"},
                "contributions": {0: "batch"},
            },
        )
    onnx.checker.check_model(str(destination), full_check=True)
