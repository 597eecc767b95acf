"""Compression candidates: a trained network, pruned or not, in each precision, as files to serve.

<directory>/<network>/weights.safetensors     the network, pruned and fine-tuned
<directory>/<network>/<precision>/model.onnx  any batch and time
<directory>/<network>/<precision>/step.onnx   one row of one stream
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith.compress import FP32, MODEL, STEP
from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.prune.pruning import Pruned, prune
from lobsmith.compress.quantise.quantise import quantise
from lobsmith.compress.quantise.ranges import calibration_streams
from lobsmith.compress.runtime import Float
from lobsmith.errors import PrecisionError, TrainingError
from lobsmith.models.train import Epoch, Trained, save_network
from lobsmith.models.training_data import Part
from lobsmith.params import CompressParams, Params

FULL = "full"
"""The unpruned network."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A network in a precision; without files where `refused` gives a reason.

    `pruned` is the share of channels and hidden units removed.
    """

    name: str
    precision: str
    pruned: float
    directory: Path
    trained: Trained | None
    refused: str = ""

    @property
    def model(self) -> Path:
        """The graph for any batch and time."""
        return self.directory / MODEL

    @property
    def step(self) -> Path:
        """The graph for one row of one stream."""
        return self.directory / STEP


def make_candidates(
    trained: Trained, parts: Sequence[Part], params: Params, directory: Path, *, on_progress: Progress | None = None
) -> list[Candidate]:
    """Prune, export and quantise a network in all ways of `params.compress`; the first candidate is the network itself.

    Args:
        parts: the rows it was trained on, for fine-tuning and calibration.
        directory: receives the files; earlier contents are deleted.
        on_progress: called with what is fine-tuned or made next.
    """
    report = on_progress or (lambda _text: None)
    shutil.rmtree(directory, ignore_errors=True)
    settings, size = params.compress, trained.network.state_size
    share = settings.calibration_rows // len(parts)
    streams = [
        stream
        for part in parts
        for stream in calibration_streams(part.dataset, part.split.train, share, params.train.seed)
    ]
    candidates: list[Candidate] = []
    count = (1 + len(settings.pruning)) * len(settings.precisions)
    for pruned in (0.0, *settings.pruning):
        network = _network(pruned)

        def on_epoch(epoch: Epoch, network: str = network) -> None:
            report(f"fine-tune {network}, epoch {epoch.epoch} of {settings.fine_tune_epochs}")

        folder = directory / network
        folder.mkdir(parents=True)
        try:
            variant = (
                Pruned(trained, params.model)
                if pruned == 0
                else prune(trained, parts, params, pruned, on_epoch=on_epoch)
            )
        except TrainingError as error:
            candidates.append(Candidate(network, FP32, pruned, folder, None, str(error)))
            continue
        save_network(variant.trained, variant.model, parts[0].dataset.horizons_ms, folder)
        export_onnx(variant.trained.network, folder / MODEL, size)
        for precision in sorted(settings.precisions, key=lambda precision: precision != FP32):
            name = _name(pruned, precision)
            report(f"make {name}, {len(candidates) + 1} of {count}")
            candidates.append(_candidate(name, precision, pruned, variant.trained, folder, streams, params))
    return candidates


def only(settings: CompressParams, name: str) -> CompressParams:
    """Return settings that make one candidate, and its network's FP32, with the same bits as `settings`.

    Raises:
        TrainingError: no candidate has the name.
    """
    for pruned in (0.0, *settings.pruning):
        for precision in settings.precisions:
            if _name(pruned, precision) == name:
                precisions = tuple(dict.fromkeys((FP32, precision)))
                return structs.replace(settings, pruning=(pruned,) if pruned else (), precisions=precisions)
    raise TrainingError(f"{name} is none of the candidates that compress.pruning and compress.precisions make")


def _network(pruned: float) -> str:
    return FULL if pruned == 0 else f"pruned_{round(pruned * 100, 2):g}"


def _name(pruned: float, precision: str) -> str:
    if pruned == 0:
        return precision
    return _network(pruned) if precision == FP32 else f"{_network(pruned)}_{precision}"


def _candidate(
    name: str,
    precision: str,
    pruned: float,
    trained: Trained,
    folder: Path,
    streams: Sequence[Float],
    params: Params,
) -> Candidate:
    directory = folder / precision
    directory.mkdir()
    try:
        quantise(folder / MODEL, directory / MODEL, precision, streams, params.compress)
        specialise(directory / MODEL, directory / STEP)
    except PrecisionError as error:
        shutil.rmtree(directory)
        return Candidate(name, precision, pruned, directory, None, str(error))
    return Candidate(name, precision, pruned, directory, trained)
