"""The evaluate stage: scores, verdicts and the report of an exported model."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lobsmith.compress import MODEL
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.dataset import load_dataset
from lobsmith.files import write_atomic
from lobsmith.gates import evaluation
from lobsmith.gates.evaluation import Evaluation
from lobsmith.gates.parity import parity
from lobsmith.gates.report import reliability, render_report
from lobsmith.models.split import longest_run, split
from lobsmith.models.train import Epoch, load_network
from lobsmith.params import Params

EVALUATION = "evaluation.json"
REPORT = "report.html"
HISTORY = "history.json"
CALIBRATION = "calibration.json"
"""What `dvc plots` draws."""


def evaluate(params: Params, dataset_path: Path, directory: Path) -> Evaluation:
    """Score the exported model in `directory` on held-out rows, and write `evaluation.json` and `report.html` there."""
    dataset = load_dataset(dataset_path)
    parts = split(dataset, params.split)
    trained = load_network(directory)
    model = OnnxModel(directory / MODEL)
    probabilities = evaluation.stream_probabilities(model, dataset, parts.test)
    labels = dataset.labels[parts.test]
    scores = evaluation.score(evaluation.MODEL, probabilities, labels, dataset.horizons_ms)
    scores += evaluation.baseline_scores(dataset, parts, parts.test)
    start, stop = longest_run(dataset, parts.test)
    verdicts = (
        parity(trained.network, model, dataset.rows.features[start:stop], params.gates.parity),
        evaluation.skill(scores, params.gates.skill),
    )
    result = Evaluation(
        instrument=dataset.instrument,
        data_fingerprint=dataset.data_fingerprint,
        rows={
            "all": len(dataset.rows),
            "train": len(parts.train),
            "validation": len(parts.validation),
            "test": len(parts.test),
        },
        test_start_ns=int(dataset.rows.time[parts.test[0]]),
        class_shares={
            str(horizon): [float((labels[:, h] == c).mean()) for c in range(probabilities.shape[2])]
            for h, horizon in enumerate(dataset.horizons_ms)
        },
        scores=scores,
        verdicts=verdicts,
    )
    write_atomic(directory / EVALUATION, msgspec.json.format(msgspec.json.encode(result)))
    _write_plots(directory, trained.history, probabilities, labels, dataset.horizons_ms)
    write_atomic(directory / REPORT, render_report(result, trained.history, probabilities, labels).encode())
    return result


def _write_plots(
    directory: Path,
    history: tuple[Epoch, ...],
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
    horizons_ms: tuple[int, ...],
) -> None:
    points = [
        {"horizon_ms": horizon, "said": said, "came_true": true, "rows": rows}
        for h, horizon in enumerate(horizons_ms)
        for said, true, rows in reliability(probabilities[:, h], labels[:, h])
    ]
    write_atomic(directory / HISTORY, msgspec.json.format(msgspec.json.encode(history)))
    write_atomic(directory / CALIBRATION, msgspec.json.format(msgspec.json.encode(points)))
