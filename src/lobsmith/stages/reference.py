"""Describing a training window, so that drift from it can be told: the reference stage."""

from collections.abc import Sequence
from pathlib import Path

import torch
from msgspec import Struct

from lobsmith.drift import REFERENCE, SCORE
from lobsmith.drift.fit_one_class import Fitted, fit_score
from lobsmith.drift.one_class import export_score
from lobsmith.drift.reference import freeze, save_reference
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.params import Params
from lobsmith.progress import Note


class Described(Struct, frozen=True, kw_only=True):
    """How the reference score came about, for each instrument that is trained on."""

    instruments: dict[str, Fitted]

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {one.rows:,} rows, {one.blocks} blocks of {one.block_rows} and {one.held_out} held out, "
            f"of which the highest score is {one.largest:.2f}"
            for name, one in self.instruments.items()
        )


def describe_window(params: Params, directory: Path) -> Described:
    """Write the reference and its score into the folder of a run.

    Raises:
        DataError: a dataset is missing, or holds too few rows for a score.
    """
    # Sums over threads come in another order: the same bits need the same number of them, as in training.
    torch.set_num_threads(params.train.threads)
    datasets = map(load_dataset, training_datasets(params, directory))
    reference = freeze(datasets, params.drift)
    score, fitted = fit_score(reference, params.reference)
    save_reference(reference, directory / REFERENCE)
    export_score(score, directory / SCORE)
    return Described(instruments=fitted)


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return its outcome in one line."""
    return str(describe_window(params, directory))
