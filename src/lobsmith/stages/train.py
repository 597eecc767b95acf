"""The train stage: from datasets to a saved network."""

from collections.abc import Sequence
from pathlib import Path

from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.models.checkpoint import CHECKPOINT
from lobsmith.models.distributed import leads
from lobsmith.models.train import Trained, save_network, train
from lobsmith.models.trainer import OnEpoch
from lobsmith.models.training_data import parts_of
from lobsmith.params import Params
from lobsmith.progress import Note


def train_stage(
    params: Params, dataset_paths: Sequence[Path], directory: Path, *, on_epoch: OnEpoch | None = None
) -> Trained:
    """Train on the datasets of one or several instruments and save the network.

    A killed training resumes after its last epoch. Under `torchrun` the first process writes.
    """
    parts = parts_of([load_dataset(path) for path in dataset_paths], params.split)
    checkpoint = directory / CHECKPOINT
    trained = train(parts, params, on_epoch=on_epoch, checkpoint=checkpoint)
    if leads():
        save_network(trained, params.model, parts[0].dataset.horizons_ms, directory)
        checkpoint.unlink(missing_ok=True)
    return trained


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    history = train_stage(params, training_datasets(params, directory), directory).history
    return f"validation {min(epoch.validation_loss for epoch in history):.4f}"
