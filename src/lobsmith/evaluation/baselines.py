"""Baselines of a network on the same rows: the base rate and other networks of the registry."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.results import MAJORITY, RECENT
from lobsmith.features.dataset import Dataset
from lobsmith.models.networks.outputs import CLASSES
from lobsmith.models.train import Trained, load_network, predict, save_network, train
from lobsmith.models.training_data import Part
from lobsmith.params import Params

BASELINES = "baselines"
"""Folder of the trained baselines in a run's folder."""
Float = npt.NDArray[np.float32]


def base_rate(parts: Sequence[Part], rows: int, *, recent: bool = False) -> Float:
    """Return the training rows' shares of each direction, float32 [N, H, 3], the same for each row.

    One count is added to each. `recent` takes the validation rows, which the model's calibration has used.
    """
    chosen = [part.split.validation if recent else part.split.train for part in parts]
    labels = np.concatenate([part.dataset.labels[rows_of] for part, rows_of in zip(parts, chosen, strict=True)])
    counts = np.stack([np.bincount(column, minlength=CLASSES) for column in labels.T]) + 1.0
    shares: Float = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.repeat(shares[np.newaxis], rows, axis=0)


def mean_outlook(parts: Sequence[Part]) -> Float:
    """Return the training rows' means of the auxiliary outputs, float32 [H, 5]."""
    columns = []
    for part in parts:
        targets, train_rows = part.dataset.targets, part.split.train
        flags = targets.flags[train_rows]
        values = np.stack([targets.move[train_rows], targets.volatility[train_rows]], axis=2)
        columns.append(np.concatenate([flags, values], axis=2))
    means: Float = np.concatenate(columns).mean(axis=0, dtype=np.float64).astype(np.float32)
    return means


def with_network(params: Params, name: str) -> Params:
    """Return the parameters with another network."""
    return msgspec.structs.replace(params, model=msgspec.structs.replace(params.model, network=name))


def with_seed(params: Params, seed: int) -> Params:
    """Return the parameters with another training seed."""
    return msgspec.structs.replace(params, train=msgspec.structs.replace(params.train, seed=seed))


def train_baselines(
    parts: Sequence[Part], params: Params, *, on_train: Callable[[str], None] | None = None
) -> dict[str, Trained]:
    """Train each of `evaluation.rivals`, and the model's network with each further seed.

    Args:
        parts: training data.
        params: all of `params.yaml`.
        on_train: called with the name of what is trained next.
    """
    trained = {}
    for name, variant in _variants(params).items():
        if on_train:
            on_train(name)
        trained[name] = train(parts, variant)
    return trained


def save_baselines(trained: Mapping[str, Trained], params: Params, directory: Path) -> None:
    """Write trained baselines into the folder of a run."""
    variants = _variants(params)
    for name, baseline in trained.items():
        place = directory / BASELINES / name
        place.mkdir(parents=True, exist_ok=True)
        save_network(baseline, variants[name].model, params.labels.horizons_ms, place)


def load_baselines(params: Params, directory: Path) -> dict[str, Trained]:
    """Read what `save_baselines` wrote.

    Raises:
        TrainingError: a file is missing or invalid.
    """
    return {name: load_network(directory / BASELINES / name) for name in _variants(params)}


def predict_baselines(
    trained: Mapping[str, Trained], parts: Sequence[Part], dataset: Dataset, rows: npt.NDArray[np.int64]
) -> dict[str, Float]:
    """Predict held-out rows with the base rates and the trained baselines.

    Args:
        trained: by name.
        parts: training data.
        dataset: of the held-out rows.
        rows: int64 [N], rising.

    Returns:
        Probabilities float32 [N, H, 3] by name, the base rates first.
    """
    predictions = {MAJORITY: base_rate(parts, len(rows)), RECENT: base_rate(parts, len(rows), recent=True)}
    predictions |= {name: predict(baseline.network, dataset, rows)[0] for name, baseline in trained.items()}
    return predictions


def _variants(params: Params) -> dict[str, Params]:
    variants = {name.replace("_", " "): with_network(params, name) for name in params.evaluation.rivals}
    return variants | {f"model, seed {seed}": with_seed(params, seed) for seed in params.evaluation.seeds}
