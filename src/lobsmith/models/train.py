"""Training: fit the inputs, learn the weights, calibrate the outputs, save one file."""

import json
from collections.abc import Sequence
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

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset
from lobsmith.files import write_atomic
from lobsmith.models.calibrate import calibrate
from lobsmith.models.closed_form import fit_counts, fit_newton
from lobsmith.models.inference import outputs_at
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import architecture, build
from lobsmith.models.trainer import Epoch, OnEpoch, Trainer
from lobsmith.models.training_data import Part, fit_inputs, seconds_of
from lobsmith.params import ModelParams, Params, TrainParams

__all__ = [
    "WEIGHTS",
    "Epoch",
    "OnEpoch",
    "Trained",
    "calibrate_outputs",
    "load_network",
    "load_trained",
    "make_repeatable",
    "predict",
    "save_network",
    "train",
]
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Trained:
    """A calibrated network with the weights of its best epoch."""

    network: Network
    history: tuple[Epoch, ...]
    uncalibrated: tuple[str, ...] = ()
    """Outputs with too rare a class on the validation rows."""


class _Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters that build the network again."""

    features: int
    horizons_ms: tuple[int, ...]
    model: ModelParams


class _Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata of a weights file."""

    shape: _Shape
    history: tuple[Epoch, ...]
    uncalibrated: tuple[str, ...]


def train(
    parts: Sequence[Part], params: Params, *, on_epoch: OnEpoch | None = None, checkpoint: Path | None = None
) -> Trained:
    """Train the network that the parameters name on the rows of one or several instruments.

    Args:
        on_epoch: called after each epoch.
        checkpoint: file to resume from; None for none.

    Raises:
        TrainingError: no gap-free run holds a sequence, a loss is not finite, or the network is unknown.
    """
    settings = params.train
    make_repeatable(settings)
    horizons = parts[0].dataset.horizons_ms
    network = build(params.model, parts[0].dataset.rows.features.shape[1], horizons)
    fit_inputs(network, parts, symmetric=settings.mirror > 0)
    chosen = architecture(params.model.network)
    if chosen.learns == "newton":
        history = [_single_epoch(fit_newton(network, parts, params))]
    elif chosen.learns == "counts":
        history = [_single_epoch(fit_counts(network, parts, params))]
    else:
        history = Trainer(network, parts, params, checkpoint).run(on_epoch)
    return Trained(network.eval(), tuple(history), tuple(calibrate_outputs(network, parts, settings.calibration_prior)))


def make_repeatable(settings: TrainParams) -> None:
    """Make torch repeat its bits for the same seed and thread count."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def _single_epoch(loss: float) -> Epoch:
    return Epoch(epoch=1, train_loss=loss, validation_loss=loss, learning_rate=0.0)


def calibrate_outputs(network: Network, parts: Sequence[Part], deviation: float) -> list[str]:
    """Calibrate a network on the validation rows; return the names of uncalibrated outputs.

    `deviation` is that of the prior of log scales and biases.
    """
    outputs, direction, binary = [], [], []
    for part in parts:
        rows = part.split.validation
        outputs.append(outputs_at(network, part.dataset, rows))
        direction.append(torch.from_numpy(part.dataset.labels[rows].astype(np.int64)))
        binary.append(torch.from_numpy(part.dataset.targets.flags[rows]).float())
    span_s = sum(seconds_of(part.dataset, part.split.validation) for part in parts)
    ridges = [horizon / 1e3 / span_s / (2.0 * deviation**2) for horizon in parts[0].dataset.horizons_ms]
    return calibrate(network.calibration, torch.cat(outputs), torch.cat(direction), torch.cat(binary), ridges)


def predict(network: Network, dataset: Dataset, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], ...]:
    """Return calibrated probabilities float32 [N, H, 3] and auxiliary outputs float32 [N, H, 5] at rising rows."""
    with torch.inference_mode():
        probabilities, outlook = network.calibration(outputs_at(network, dataset, rows))
    return probabilities.numpy(), outlook.numpy()


def save_network(trained: Trained, params: ModelParams, horizons_ms: tuple[int, ...], directory: Path) -> None:
    """Write weights, calibration, shape and history into `weights.safetensors`."""
    network = trained.network
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = _Metadata(_Shape(network.features, horizons_ms, params), trained.history, trained.uncalibrated)
    # A single entry: safetensors writes several in an order that differs from run to run.
    entries = {"lobsmith": msgspec.json.encode(metadata).decode()}
    write_atomic(directory / WEIGHTS, save_tensors(tensors, entries))


def load_network(directory: Path) -> Trained:
    """Read what `save_network` wrote.

    Raises:
        TrainingError: the file is missing or invalid.
    """
    return _load(directory)[0]


def _load(directory: Path) -> tuple[Trained, _Shape]:
    path = directory / WEIGHTS
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = msgspec.json.decode(header["__metadata__"]["lobsmith"], type=_Metadata)
        shape = metadata.shape
        network = build(shape.model, shape.features, shape.horizons_ms)
        network.load_state_dict(load_tensors(content))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{path}: not a trained network: {error}; run the train stage again") from error
    return Trained(network.eval(), metadata.history, metadata.uncalibrated), shape


def load_trained(directory: Path, dataset: Dataset, params: Params) -> Trained:
    """Read a run's network and check it against the run's rows and the parameters.

    Raises:
        TrainingError: the file is missing or invalid, or features or horizons differ.
    """
    trained, shape = _load(directory)
    own = (shape.features, shape.horizons_ms)
    of_rows = (dataset.rows.features.shape[1], dataset.horizons_ms)
    of_params = (of_rows[0], params.labels.horizons_ms)
    for source, other, stage in (("rows", of_rows, "train"), ("parameters", of_params, "features")):
        if own != other:
            raise TrainingError(
                f"{directory / WEIGHTS}: for {own[0]} features and horizons of {_listed(own[1])} ms, while the "
                f"{source} have {other[0]} and {_listed(other[1])} ms; run the {stage} stage again"
            )
    return trained


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
