"""The compress stage: from trained weights to the file that is served, with its golden vectors."""

from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.compress import GOLDEN, MODEL
from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import GOLDEN_ROWS, golden_vectors, save_golden
from lobsmith.compress.priming import TOLERANCE, measure_prime_rows
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import TrainingError
from lobsmith.features.dataset import load_dataset
from lobsmith.files import write_atomic
from lobsmith.models.split import longest_run, split
from lobsmith.models.train import load_network
from lobsmith.params import Params

SUMMARY = "compress.json"
_PRIMING_ROWS = 8192
_FEWEST_ROWS = GOLDEN_ROWS


class Compressed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stage found out about the exported model."""

    precision: str
    bytes: int
    prime_rows: int
    prime_tolerance: float


def compress(params: Params, dataset_path: Path, directory: Path) -> Compressed:
    """Export the network in `directory` and write model, golden vectors and summary beside it.

    Golden vectors and the priming figure come from the held-out rows' longest gap-free run.

    Raises:
        TrainingError: there is no trained network, or the held-out rows hold no run worth measuring on.
    """
    dataset = load_dataset(dataset_path)
    network = load_network(directory).network
    export_onnx(network, directory / MODEL)
    model = OnnxModel(directory / MODEL)
    start, stop = longest_run(dataset, split(dataset, params.split).test)
    held_out = dataset.rows.features[start : min(stop, start + _PRIMING_ROWS)]
    if len(held_out) < _FEWEST_ROWS:
        raise TrainingError(
            f"{dataset.instrument}: the longest gap-free run of held-out rows is {len(held_out)}, fewer than "
            f"the {_FEWEST_ROWS} that golden vectors take; give more data"
        )
    save_golden(golden_vectors(model, held_out), directory / GOLDEN)
    summary = Compressed(
        precision="fp32",
        bytes=(directory / MODEL).stat().st_size,
        prime_rows=measure_prime_rows(model, held_out),
        prime_tolerance=TOLERANCE,
    )
    write_atomic(directory / SUMMARY, msgspec.json.encode(summary))
    return summary
