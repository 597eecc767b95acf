"""One row of one stream: the compiled step beside ONNX Runtime's.

See README.md in this folder for what is measured and why it is fair.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.compress.compiled_step import CompiledStep
from lobsmith.compress.export import export_onnx
from lobsmith.compress.runtime import BoundModel, Float
from lobsmith.compress.specialise import specialise
from lobsmith.compress.timing import Timing, compare_times
from lobsmith.features.dataset import load_dataset
from lobsmith.models.train import load_network

WINDOW = 100
"""Rows that a model without a state sees again for each answer."""


class Report(Struct, frozen=True, kw_only=True):
    """The compiled step's times, each with the reference's of the same run."""

    rows: int
    step: Timing
    """Beside ONNX Runtime's graph for one row."""
    window: Timing
    """Beside the general graph over a window from a cold state."""
    runtime: Timing
    """ONNX Runtime's graph for one row beside its general graph over a window."""


def bench_step(model: Path, rows: Float, calls: int) -> Report:
    """Measure an exported model.

    Args:
        model: with dynamic batch and time.
        rows: float32 [N, F].
        calls: of each side.
    """
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder) / "step.onnx"
        specialise(model, single)
        compiled, step, window = CompiledStep(model), BoundModel(single), BoundModel(model, rows=WINDOW)
        return Report(
            rows=len(rows),
            step=compare_times(compiled, step, "step", rows, calls),
            window=compare_times(compiled, window, "window", rows, calls, forgets=True),
            runtime=compare_times(step, window, "window", rows, calls, forgets=True),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", type=Path, help="folder with weights.safetensors and dataset.safetensors")
    parser.add_argument("--rows", type=int, default=20_000, help="the newest rows of the dataset")
    parser.add_argument("--calls", type=int, default=20_000, help="of each side")
    options = parser.parse_args()
    rows = load_dataset(options.stages / "dataset.safetensors").rows.features[-options.rows :]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        export_onnx(load_network(options.stages).network, model)
        report = bench_step(model, rows, options.calls)
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
