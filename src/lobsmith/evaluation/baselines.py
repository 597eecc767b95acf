"""Baselines of a network on the same rows: the base rate and other networks of the registry."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from lobsmith.evaluation.results import MAJORITY, RECENT
from lobsmith.features.dataset import Dataset
from lobsmith.models.networks.outputs import CLASSES
from lobsmith.models.train import predict, train
from lobsmith.models.training_data import Part
from lobsmith.params import Params

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


def predict_baselines(
    parts: Sequence[Part],
    params: Params,
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    on_train: Callable[[str], None] | None = None,
) -> dict[str, Float]:
    """Train each of `evaluation.rivals`, and the model's network with each further seed; predict the held-out rows.

    Args:
        parts: training data.
        params: all of `params.yaml`.
        dataset: of the held-out rows.
        rows: int64 [N], rising.
        on_train: called with the name of what is trained next.

    Returns:
        Probabilities float32 [N, H, 3] by name, the base rates first.
    """
    predictions = {MAJORITY: base_rate(parts, len(rows)), RECENT: base_rate(parts, len(rows), recent=True)}
    variants = {name.replace("_", " "): with_network(params, name) for name in params.evaluation.rivals}
    variants |= {f"model, seed {seed}": with_seed(params, seed) for seed in params.evaluation.seeds}
    for name, variant in variants.items():
        if on_train:
            on_train(name)
        predictions[name] = predict(train(parts, variant).network, dataset, rows)[0]
    return predictions
