"""The training loop: seeded, and bit-identical on CPU for the same seed and thread count."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset, load_dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.files import write_atomic
from lobsmith.models.network import CLASSES, CausalNetwork, predict
from lobsmith.models.split import Split, runs, split
from lobsmith.params import ModelParams, Params, TrainParams


class Epoch(Struct, frozen=True, kw_only=True):
    """One pass: mean cross-entropy over both horizons, nats."""

    epoch: int
    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class Trained:
    """A network with the weights of its best epoch."""

    network: CausalNetwork
    history: tuple[Epoch, ...]


class _Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """What must be known to build the network again."""

    features: int
    horizons: int
    model: ModelParams


class _About(Struct, frozen=True, forbid_unknown_fields=True):
    """A saved network's metadata."""

    shape: _Shape
    history: tuple[Epoch, ...]


OnEpoch = Callable[[Epoch], None]


def train(dataset: Dataset, parts: Split, params: Params, *, on_epoch: OnEpoch | None = None) -> Trained:
    """Train the network on the training part and keep the epoch that is best on the validation part.

    Each sequence warms the state over `burn_in` rows and takes the loss over the `sequence` rows that follow.

    Raises:
        TrainingError: no gap-free run is long enough for one sequence, or the loss is not finite.
    """
    settings = params.train
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    generator = np.random.default_rng(settings.seed)

    features = torch.from_numpy(np.ascontiguousarray(dataset.rows.features))
    labels = torch.from_numpy(_training_labels(dataset, parts.train))
    starts = _sequence_starts(dataset, parts.train, settings)
    network = CausalNetwork(features.shape[1], labels.shape[1], params.model)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = math.ceil(settings.sequences_per_epoch / settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.learning_rate, total_steps=settings.epochs * batches
    )

    history: list[Epoch] = []
    best_loss, best_weights, waited = math.inf, copy.deepcopy(network.state_dict()), 0
    for number in range(1, settings.epochs + 1):
        network.train()
        losses = []
        for _ in range(batches):
            chosen = generator.choice(starts, settings.batch)
            losses.append(_step(network, optimiser, features, labels, chosen, settings))
            schedule.step()
        epoch = Epoch(
            epoch=number,
            train_loss=float(np.mean(losses)),
            validation_loss=validation_loss(network, dataset, parts.validation),
        )
        if not math.isfinite(epoch.train_loss + epoch.validation_loss):
            raise TrainingError(f"epoch {number}: the loss is not finite; lower train.learning_rate")
        history.append(epoch)
        if on_epoch:
            on_epoch(epoch)
        if epoch.validation_loss < best_loss:
            best_loss, best_weights, waited = epoch.validation_loss, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
            if waited >= settings.patience:
                break
    network.load_state_dict(best_weights)
    return Trained(network.eval(), tuple(history))


def _step(
    network: CausalNetwork,
    optimiser: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    starts: npt.NDArray[np.int64],
    settings: TrainParams,
) -> float:
    """Take one gradient step on the sequences that begin at `starts` and return the loss."""
    length = settings.burn_in + settings.sequence
    index = torch.from_numpy(starts).unsqueeze(1) + torch.arange(length)
    logits, _ = network(features[index], network.cold_state(len(starts)))
    loss = cross_entropy(
        logits[:, settings.burn_in :].reshape(-1, CLASSES),
        labels[index[:, settings.burn_in :]].reshape(-1),
        ignore_index=UNKNOWN,
    )
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
    optimiser.step()
    return loss.item()


def _training_labels(dataset: Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return labels int64 [N, H] that are unknown outside the given rows: a purged row is seen, never learnt."""
    labels = np.full(dataset.labels.shape, UNKNOWN, np.int64)
    labels[rows] = dataset.labels[rows]
    return labels


def _sequence_starts(dataset: Dataset, rows: npt.NDArray[np.int64], settings: TrainParams) -> npt.NDArray[np.int64]:
    length = settings.burn_in + settings.sequence
    spans = [np.arange(start, stop - length + 1) for start, stop in runs(dataset, rows) if stop - start >= length]
    if not spans:
        raise TrainingError(
            f"{dataset.instrument}: no gap-free run of {length} rows (train.burn_in + train.sequence) to train on"
        )
    return np.concatenate(spans)


def log_probabilities(network: CausalNetwork, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Tensor:
    """Return log-probabilities float32 [N, H, 3] of the given rows, the state carried over each gap-free run."""
    first, last = int(rows[0]), int(rows[-1])
    out = torch.full((last + 1 - first, dataset.labels.shape[1], CLASSES), math.nan)
    for start, stop in runs(dataset, np.asarray([first, last])):
        out[start - first : stop - first] = predict(network, torch.from_numpy(dataset.rows.features[start:stop]))
    return out[torch.from_numpy(rows - first)]


def validation_loss(network: CausalNetwork, dataset: Dataset, rows: npt.NDArray[np.int64]) -> float:
    """Return the mean cross-entropy over the given rows and all horizons, nats."""
    labels = torch.from_numpy(dataset.labels[rows].astype(np.int64))
    return nll_loss(log_probabilities(network, dataset, rows).reshape(-1, CLASSES), labels.reshape(-1)).item()


WEIGHTS = "weights.safetensors"


def save_network(trained: Trained, directory: Path) -> None:
    """Write weights, shape and history into `weights.safetensors`."""
    network = trained.network
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    about = _About(_Shape(network.features, network.horizons, network.params), trained.history)
    # One entry: safetensors writes several in an order that differs from run to run.
    metadata = {"lobsmith": msgspec.json.encode(about).decode()}
    write_atomic(directory / WEIGHTS, save_tensors(tensors, metadata))


def load_network(directory: Path) -> Trained:
    """Read what `save_network` wrote.

    Raises:
        TrainingError: the file is missing or is not such a file.
    """
    path = directory / WEIGHTS
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = msgspec.json.decode(header["__metadata__"]["lobsmith"], type=_About)
        shape = about.shape
        network = CausalNetwork(shape.features, shape.horizons, shape.model)
        network.load_state_dict(load_tensors(content))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{path}: not a trained network: {error}; run the train stage again") from error
    return Trained(network.eval(), about.history)


def train_stage(params: Params, dataset_path: Path, directory: Path, *, on_epoch: OnEpoch | None = None) -> Trained:
    """Train on a dataset and save the network: the train stage."""
    dataset = load_dataset(dataset_path)
    trained = train(dataset, split(dataset, params.split), params, on_epoch=on_epoch)
    save_network(trained, directory)
    return trained
