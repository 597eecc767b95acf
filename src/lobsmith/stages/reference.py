"""The reference stage: the reference window of drift checks, and the null distribution within it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from msgspec import Struct

from lobsmith.compress import MODEL
from lobsmith.compress.runtime import OnnxModel
from lobsmith.drift import NULL, REFERENCE, SCORE
from lobsmith.drift.fit_one_class import Fitted, fit_score
from lobsmith.drift.one_class import export_score
from lobsmith.drift.reference import freeze, load_reference, save_reference
from lobsmith.drift.training_null import TrainingNull, save_null, training_null
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.models.training_data import Part, parts_of
from lobsmith.online.answers import Answers
from lobsmith.params import Params
from lobsmith.progress import Note


class Described(Struct, frozen=True, kw_only=True):
    """How the drift score was fitted, for each instrument that is trained on."""

    instruments: dict[str, Fitted]

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {fitted.rows:,} rows, {fitted.blocks} blocks of {fitted.block_rows} and {fitted.held_out} "
            f"held out, of which the highest score is {fitted.largest:.2f}"
            for name, fitted in self.instruments.items()
        )


def describe_window(params: Params, directory: Path) -> Described:
    """Write the reference and its drift score into the folder of a run.

    Raises:
        DataError: a dataset is missing, or holds too few rows for a score.
    """
    # The order of sums depends on the threads: the same bits need as many as in training.
    torch.set_num_threads(params.train.threads)
    datasets = map(load_dataset, training_datasets(params, directory))
    reference = freeze(datasets, params.drift)
    score, fitted = fit_score(reference, params.reference)
    save_reference(reference, directory / REFERENCE)
    export_score(score, directory / SCORE)
    return Described(instruments=fitted)


def measure_null(params: Params, directory: Path) -> TrainingNull:
    """Write the null distribution within the training window into the folder of a run that has an exported model.

    Raises:
        DataError: a dataset or the reference is missing.
    """
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    model = OnnxModel(directory / MODEL)
    answers = {str(part.dataset.instrument): _answers(params, model, part) for part in parts if len(part.split.test)}
    reference = load_reference(directory / REFERENCE)
    null = training_null(reference, answers, params.drift, params.paired.longest_ms)
    save_null(null, directory / NULL)
    return null


def _answers(params: Params, model: OnnxModel, part: Part) -> Answers:
    """Return a model's answers to held-out rows, as the prediction log would hold them."""
    dataset, rows = part.dataset, part.split.test
    return Answers(
        model=params.model.name,
        version=0,
        time_ns=dataset.rows.time[rows],
        segment=dataset.rows.segment[rows],
        labels=dataset.labels[rows],
        probabilities=stream_predictions(model, dataset, rows)[0],
        latency_ns=np.zeros(len(rows), np.int64),
        reasons={},
        horizons_ms=tuple(dataset.horizons_ms),
    )


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    return str(describe_window(params, directory))
