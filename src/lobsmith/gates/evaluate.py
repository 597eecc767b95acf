"""The evaluate stage: scores, verdicts and the report of an exported model."""

from pathlib import Path

import msgspec

from lobsmith.compress import MODEL
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.dataset import load_dataset
from lobsmith.files import write_atomic
from lobsmith.gates import evaluation
from lobsmith.gates.evaluation import Evaluation
from lobsmith.gates.parity import parity
from lobsmith.gates.report import render_report
from lobsmith.models.split import longest_run, split
from lobsmith.models.train import load_network
from lobsmith.params import Params

EVALUATION = "evaluation.json"
REPORT = "report.html"


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
    write_atomic(directory / REPORT, render_report(result, trained.history, probabilities, labels).encode())
    return result
