"""Training data: rows of several instruments as one set of tensors, and a sampler of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import NAMES, mirror
from lobsmith.features.labels import UNKNOWN
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.volatility import Volatility
from lobsmith.models.networks.window import BookWindows
from lobsmith.models.split import Split, runs, split, split_beside
from lobsmith.params import SplitParams
from lobsmith.units import NS_PER_S

_STILL = 1e-6
"""Features with a smaller deviation are only centred."""


@dataclass(frozen=True)
class Part:
    """An instrument's rows and their split."""

    dataset: Dataset
    split: Split


def parts_of(datasets: Sequence[Dataset], params: SplitParams) -> list[Part]:
    """Split the first dataset by its rows, the others at its times; omits those with an empty part.

    Raises:
        TrainingError: the first dataset is too short.
    """
    first = Part(datasets[0], split(datasets[0], params))
    splits = [split_beside(dataset, first.dataset, first.split, params.embargo_ms) for dataset in datasets[1:]]
    pairs = zip(datasets[1:], splits, strict=True)
    return [first, *(Part(dataset, rows) for dataset, rows in pairs if rows is not None)]


@dataclass(frozen=True)
class TrainingData:
    """Rows of all parts, concatenated; targets of rows that do not train are unknown.

    `inputs` float32 [N, F] standardised; `direction` int64 [N, H], -1 unknown; `binary` float32 [N, H, 3], -1 unknown;
    `move` and `volatility` float32 [N, H] in units of their RMS, NaN unknown; `starts` int64, first rows of sequences;
    `significant` bool [N], whether the move within the first horizon is significant.
    """

    inputs: Tensor
    direction: Tensor
    binary: Tensor
    move: Tensor
    volatility: Tensor
    starts: npt.NDArray[np.int64]
    significant: npt.NDArray[np.bool_]


def seconds_of(dataset: Dataset, rows: npt.NDArray[np.int64]) -> float:
    """Return the time that rising rows cover without gaps, seconds; at least 1."""
    time, segment = dataset.rows.time, dataset.rows.segment
    inside = np.diff(time[rows])[np.diff(segment[rows]) == 0]
    return max(float(inside.sum()) / NS_PER_S, 1.0)


def fit_inputs(network: Network, parts: Sequence[Part], *, symmetric: bool) -> None:
    """Set what no gradient sets from the training rows: location, scale, units of moves, an encoder's constants.

    `symmetric` counts each row's mirror image as well.
    """
    rows = np.concatenate([part.dataset.rows.features[part.split.train] for part in parts]).astype(np.float64)
    if symmetric:
        source, sign = mirror()
        rows = np.concatenate([rows, rows[:, source] * np.asarray(sign)])
    location, deviation = rows.mean(axis=0), rows.std(axis=0)
    network.location.copy_(torch.from_numpy(location))
    network.scale.copy_(torch.from_numpy(np.where(deviation > _STILL, deviation, 1.0)))
    for module in network.trunk.modules():
        if isinstance(module, BookWindows | Volatility):  # both undo the scaling
            module.location.copy_(network.location)
            module.scale.copy_(network.scale)
        if isinstance(module, BookWindows):
            distances = [c for c, name in enumerate(NAMES) if "_distance_" in name]
            module.price_scale.fill_(float(np.sqrt(np.square(rows[:, distances]).mean())))
    if isinstance(network.trunk, Volatility):
        longest = max(parts, key=lambda part: len(part.split.train))
        network.trunk.fit(longest.dataset.rows, longest.split.train, longest.dataset.targets.volatility)
    for name, unit in (("move", "move_scale"), ("volatility", "volatility_scale")):
        values = np.concatenate([getattr(part.dataset.targets, name)[part.split.train] for part in parts])
        rms = np.sqrt(np.square(values.astype(np.float64)).mean(axis=0))
        getattr(network.calibration, unit).copy_(torch.from_numpy(np.where(rms > 0, rms, 1.0)))


def make_training_data(network: Network, parts: Sequence[Part], *, sequence: int, burn_in: int) -> TrainingData:
    """Concatenate the rows of all parts for a network with fitted inputs.

    Raises:
        TrainingError: no gap-free run holds a sequence.
    """
    inputs, direction, binary, move, volatility, starts, significant = [], [], [], [], [], [], []
    offset = 0
    for part in parts:
        rows, targets, train = part.dataset.rows, part.dataset.targets, part.split.train
        known = np.zeros(len(rows), np.bool_)
        known[train] = True
        inputs.append(network.standardise(torch.from_numpy(rows.features)))
        direction.append(np.where(known[:, None], part.dataset.labels, UNKNOWN).astype(np.int64))
        binary.append(np.where(known[:, None, None], targets.flags, UNKNOWN).astype(np.float32))
        move.append(np.where(known[:, None], targets.move, np.nan))
        volatility.append(np.where(known[:, None], targets.volatility, np.nan))
        starts.append(offset + _sequence_starts(part, sequence, burn_in))
        significant.append(known & (targets.significant[:, 0] == 1))
        offset += len(rows)
    all_starts = np.concatenate(starts)
    if len(all_starts) == 0:
        raise TrainingError(
            f"{parts[0].dataset.instrument}: no gap-free run of {sequence + burn_in} rows "
            "(train.burn_in + train.sequence) to train on"
        )
    calibration = network.calibration
    return TrainingData(
        torch.cat(inputs),
        torch.from_numpy(np.concatenate(direction)),
        torch.from_numpy(np.concatenate(binary)),
        torch.from_numpy(np.concatenate(move)) / calibration.move_scale,
        torch.from_numpy(np.concatenate(volatility)) / calibration.volatility_scale,
        all_starts,
        np.concatenate(significant),
    )


def _sequence_starts(part: Part, sequence: int, burn_in: int) -> npt.NDArray[np.int64]:
    length = sequence + burn_in
    spans = [
        np.arange(start, stop - length + 1)
        for start, stop in runs(part.dataset, part.split.train)
        if stop - start >= length
    ]
    return np.concatenate(spans) if spans else np.empty(0, np.int64)


class Sampler:
    """Samples sequences, those with a significant move `priority` times as often, with importance weights.

    A uniform share bounds the weights by `1 / uniform_share` (defensive importance sampling, Hesterberg 1995). The
    expected weighted mean is that of all sequences, so probabilities stay calibrated.

    Args:
        sequence: rows with a loss, after `burn_in`.
        burn_in: rows before them.
        priority: relative rate of sequences with a significant move.
        uniform_share: share without priority.
    """

    def __init__(
        self,
        data: TrainingData,
        *,
        sequence: int,
        burn_in: int,
        priority: float,
        uniform_share: float,
        generator: np.random.Generator,
    ) -> None:
        self._starts, self._generator = data.starts, generator
        before = np.concatenate([[0], np.cumsum(data.significant)])
        first = data.starts + burn_in
        has_move = before[first + sequence] > before[first]
        rate = np.where(has_move, priority, 1.0)
        count = len(rate)
        probability = uniform_share / count + (1.0 - uniform_share) * rate / rate.sum()
        self._cumulative = np.cumsum(probability)
        self._cumulative /= self._cumulative[-1]
        self._weight = 1.0 / (probability * count)

    def draw(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the first rows of `count` sequences, int64 [count], and their weights, float32 [count]."""
        index = np.searchsorted(self._cumulative, self._generator.random(count), side="right")
        index = np.minimum(index, len(self._starts) - 1)
        return self._starts[index], self._weight[index].astype(np.float32)
