"""The evaluate stage: metrics, verdicts and the report of an exported model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from lobsmith.compress import FP32, STEP
from lobsmith.compress import MODEL as MODEL_FILE
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import DataError
from lobsmith.evaluation.assess import assess
from lobsmith.evaluation.baselines import mean_outlook, predict_baselines, save_baselines, train_baselines
from lobsmith.evaluation.report.render import render_report, with_version
from lobsmith.evaluation.results import EVALUATION, MODEL, REPORT, Evaluation
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.evaluation.walk_forward import walk_forward
from lobsmith.features.dataset import load_dataset, other_datasets, training_datasets
from lobsmith.files import write_atomic
from lobsmith.gates.compression import compression
from lobsmith.gates.parity import parity
from lobsmith.gates.skill import calibrated, skill
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.recurrent import CnnLstmAttention
from lobsmith.models.split import longest_run
from lobsmith.models.train import Trained, load_network, load_trained
from lobsmith.models.training_data import Part, parts_of
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.stages.compress import load_summary
from lobsmith.verdict import Verdict

HISTORY = "history.json"
CALIBRATION = "calibration.json"
"""Data of `dvc plots`."""
_ATTENTION_ROWS, _ATTENTION_CHUNK = 4096, 256
Progress = Callable[[str], None]


class Served(NamedTuple):
    """Sources of an exported file: the network (pruned or not), its arithmetic, and its file for one row."""

    network: Network
    precision: str = FP32
    step: Path | None = None


def evaluate(
    params: Params, directory: Path, *, run: str | None = None, on_train: Progress | None = None
) -> Evaluation:
    """Evaluate the exported model of a run on its held-out rows, walk forward, and write the report into its folder.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder, with the datasets, the network and the exported model.
        run: its name on the page; None outside a retrain.
        on_train: called with what is trained next.
    """
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    trained, summary = load_trained(directory, parts[0].dataset, params), load_summary(directory)
    model = OnnxModel(directory / MODEL_FILE)
    others = [] if params.train.pool else [load_dataset(path) for path in other_datasets(directory)]
    walked = walk_forward(parts, trained.network, params, others, on_fold=on_train)
    return evaluate_model(
        params,
        parts,
        parts[0],
        trained,
        model,
        directory,
        protocol=f"within the window: its newest {params.split.test:.0%} held out, purged",
        served=Served(load_network(directory / summary.network).network, summary.precision, directory / STEP),
        verdicts=(compression(summary, params.compress), walked),
        run=run,
        on_train=on_train,
    )


def evaluate_model(
    params: Params,
    parts: Sequence[Part],
    held_out: Part,
    trained: Trained,
    model: OnnxModel,
    directory: Path,
    *,
    protocol: str,
    served: Served | None = None,
    verdicts: tuple[Verdict, ...] = (),
    run: str | None = None,
    on_train: Progress | None = None,
) -> Evaluation:
    """Measure an exported model and its baselines on the test rows of `held_out`; write figures, plots and the page.

    Args:
        params: all of `params.yaml`.
        parts: training data of the model and of its baselines.
        held_out: the dataset and its test rows.
        trained: the network as it was trained, for its history.
        model: the exported file, which is measured.
        directory: of `evaluation.json` and `report.html`.
        protocol: how training and test rows relate.
        served: what the file was exported from; None for `trained`.
        verdicts: of other gates, for the report.
        run: as in `evaluate`.
        on_train: called with the name of what is trained next.
    """
    dataset, rows = held_out.dataset, held_out.split.test
    probabilities, outlook = stream_predictions(model, dataset, rows)
    baselines = train_baselines(parts, params, on_train=on_train)
    save_baselines(baselines, params, directory)
    predictions = {MODEL: probabilities, **predict_baselines(baselines, parts, dataset, rows)}
    settings = params.evaluation
    assessment = assess(
        dataset, rows, predictions, outlook, mean_outlook(parts), settings.fees_bps, settings.confidences
    )
    start, stop = longest_run(dataset, rows)
    longest, of = dataset.rows.features[start:stop], served or Served(trained.network)
    result = Evaluation(
        instrument=dataset.instrument,
        network=params.model.network,
        protocol=protocol,
        data_fingerprint=dataset.data_fingerprint,
        seeds=[params.train.seed, *settings.seeds],
        rows={
            "train": sum(len(part.split.train) for part in parts),
            "validation": sum(len(part.split.validation) for part in parts),
            "test": len(rows),
        },
        test_start_ns=int(dataset.rows.time[rows[0]]),
        attention=attention_by_age(of.network, longest),
        verdicts=(
            parity(of.network, model, longest, params.gates.parity.of(of.precision), step=of.step),
            skill(assessment, params.gates.skill),
            calibrated(assessment, params.gates.calibration),
            *verdicts,
        ),
        **assessment._asdict(),
    )
    write_atomic(directory / EVALUATION, msgspec.json.format(msgspec.json.encode(result)))
    _write_plots(directory, trained, result)
    write_atomic(directory / REPORT, render_report(result, trained.history, run=run).encode())
    return result


def name_version(directory: Path, version: str) -> Path:
    """Name the `model version` that was published on the page of a run; return the page's path.

    Raises:
        DataError: it cannot be read or written.
    """
    page = directory / REPORT
    try:
        write_atomic(page, with_version(page.read_text(encoding="utf-8"), version).encode())
    except OSError as error:
        raise DataError(f"{page}: {error.strerror}; the version is published, its page does not name it") from error
    return page


def attention_by_age(network: Network, rows: npt.NDArray[np.float32]) -> list[float]:
    """Return the mean attention weight of the row 0, 1, … rows old; empty where the network has none."""
    encoder = network.trunk
    if not isinstance(encoder, CnnLstmAttention) or len(rows) <= encoder.ring:
        return []
    state, weights = network.cold_state(1), []
    with torch.inference_mode():
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(rows[:_ATTENTION_ROWS])), _ATTENTION_CHUNK):
            part_weights, state = encoder.attention_by_age(network.standardise(part.unsqueeze(0)), state)
            weights.append(part_weights[0])
    # Weights before the ring is full are of fewer rows.
    means: list[float] = torch.cat(weights)[encoder.ring :].mean(dim=0).tolist()
    return means


def _write_plots(directory: Path, trained: Trained, result: Evaluation) -> None:
    points = [
        {
            "horizon_ms": calibration.horizon_ms,
            "said": point.predicted,
            "came_true": point.came_true,
            "rows": point.rows,
        }
        for calibration in result.calibration
        if calibration.predictor == MODEL
        for point in calibration.points
    ]
    write_atomic(directory / HISTORY, msgspec.json.format(msgspec.json.encode(trained.history)))
    write_atomic(directory / CALIBRATION, msgspec.json.format(msgspec.json.encode(points)))


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    return "; ".join(map(str, evaluate(params, directory).verdicts))
