"""Fits the drift score: distances to the older part of the training window, alarm levels to the newest part."""

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from lobsmith.drift.one_class import (
    DISTANCES,
    LENGTHS,
    SHORTEST,
    BlockStatistics,
    DriftScoreModel,
    Figures,
    Float64,
    InstrumentScore,
    alarm_level,
)
from lobsmith.drift.reference import Float32, RawRows, Reference, Scaling
from lobsmith.errors import DataError
from lobsmith.features.definitions import FEATURES
from lobsmith.params import ReferenceParams
from lobsmith.units import NS_PER_DAY

_NOISE = 0.1
"""Deviation of a block's figures that is noise, in deviations of the feature."""
_PRICE = 0.02
"""Expected move of the price while a version serves: features in basis points of a fixed tick scale with it."""
_SHRINKAGE = 0.5
"""Least shrinkage of the correlation, chosen on simulated hours: tails are heavier than the formula assumes."""
_OVERLAP = 8
"""Blocks begin at each eighth of their length."""
_ENOUGH, _ENOUGH_HELD_OUT = 16, 4
"""Blocks without overlap below which shorter blocks are taken ..."""
_LEAST, _LEAST_HELD_OUT = 4, 1
"""... and below which no score is fitted."""
_BATCH = 256


class Fitted(Struct, frozen=True, kw_only=True):
    """Fit of one instrument's score.

    Attributes:
        rows: of the reference.
        block_rows: rows a block: `reference.block_rows`, fewer where the window is short.
        blocks, held_out: without overlap, in the older and in the newest part.
        levels: alarm levels of the three distances of such blocks: all figures together (about 1), furthest mean,
            furthest deviation (in deviations of blocks).
        largest: largest score of a held-out block.
    """

    rows: int
    block_rows: int
    blocks: int
    held_out: int
    levels: tuple[float, ...]
    largest: float


def fit_score(reference: Reference, params: ReferenceParams) -> tuple[DriftScoreModel, dict[str, Fitted]]:
    """Fit the score; return it with the fit of each instrument.

    Raises:
        DataError: an instrument has too few rows for blocks of 16 rows.
    """
    fits = {name: _fit(name, rows, reference.scaling, params) for name, rows in reference.rows.items()}
    score = DriftScoreModel(reference.scaling, [instrument for instrument, _ in fits.values()]).eval()
    return score, {name: fit for name, (_, fit) in fits.items()}


def _fit(name: str, rows: RawRows, scaling: Scaling, params: ReferenceParams) -> tuple[InstrumentScore, Fitted]:
    length, older = _block_rows(name, len(rows), params)
    # One block's length between the parts: fitted and held-out rows share no block and no feature memory.
    older_rows, held_out = rows.raw[:older], rows.raw[older + length :]
    instrument = InstrumentScore(_block_statistics(_figures(older_rows, length, scaling), older // length, scaling))
    row_ns = float(np.median(np.diff(rows.time_ns)))
    for place, block_rows in enumerate(LENGTHS):
        # Longer blocks than could be held out get the levels of the longest held-out ones, which are higher.
        at = min(block_rows, len(held_out), len(older_rows))
        # Each distance gets a third of the alarms.
        probability = params.false_alarms_a_day / DISTANCES * at * row_ns / NS_PER_DAY
        calibration, fitted = (_maxima(instrument, _figures(part, at, scaling)) for part in (held_out, older_rows))
        # No fitted block raises an alarm, even if the held-out hours were calmer.
        levels = [
            max(alarm_level(maxima, probability), float(fitted_maxima.max()))
            for maxima, fitted_maxima in zip(calibration, fitted, strict=True)
        ]
        instrument.levels[:, place] = torch.tensor(levels)
    score = DriftScoreModel(scaling, [instrument])
    return instrument, Fitted(
        rows=len(rows),
        block_rows=length,
        blocks=older // length,
        held_out=len(held_out) // length,
        levels=tuple(float(np.interp(np.log2(length), np.log2(LENGTHS), level.numpy())) for level in instrument.levels),
        largest=max(float(score(part)[0].max()) for part in overlapping_blocks(held_out, length)),
    )


def _block_rows(name: str, rows: int, params: ReferenceParams) -> tuple[int, int]:
    """Return the longest of `block_rows`, a half, a quarter ... with enough blocks, and the number of rows to fit."""
    older = round(rows * (1 - params.held_out))
    length = params.block_rows
    while (older // length < _ENOUGH or (rows - older) // length - 1 < _ENOUGH_HELD_OUT) and length // 2 >= SHORTEST:
        length //= 2
    blocks, held_out = older // length, max((rows - older) // length - 1, 0)
    if blocks < _LEAST or held_out < _LEAST_HELD_OUT:
        raise DataError(
            f"{name}: {rows} rows, one in each drift.every_ms, are {blocks} blocks of {length} to fit the reference "
            f"score to and {held_out} to calibrate it on, fewer than {_LEAST} and {_LEAST_HELD_OUT}; "
            "give more data, or lower drift.every_ms"
        )
    return length, older


def overlapping_blocks(raw: Float32, length: int) -> tuple[Tensor, ...]:
    """Return views of blocks of rows [N, F], one starting at each eighth of a block, each [<= 256, length, F]."""
    blocks = torch.from_numpy(raw).unfold(0, length, max(1, length // _OVERLAP)).transpose(1, 2)
    return tuple(torch.split(blocks, _BATCH))


def _figures(raw: Float32, length: int, scaling: Scaling) -> Figures:
    score = DriftScoreModel(scaling, [])
    parts = [score.figures(part) for part in overlapping_blocks(raw, length)]
    return Figures(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _maxima(instrument: InstrumentScore, figures: Figures) -> list[Float64]:
    """Return the maximum of each distance over each eight neighbouring blocks, one block's length."""
    distance, means, deviations = instrument.distances(figures)
    starts = np.arange(0, len(distance), _OVERLAP)
    largest = (distance, means.amax(dim=1), deviations.amax(dim=1))
    return [np.maximum.reduceat(distances.double().numpy(), starts) for distances in largest]


def _block_statistics(figures: Figures, blocks: int, scaling: Scaling) -> BlockStatistics:
    """Estimate mean and covariance of the figures of overlapping blocks, `blocks` of them without overlap.

    The correlation is shrunk towards the identity by oracle approximating shrinkage (Chen, Wiesel, Eldar & Hero 2010),
    at least by a half.
    """
    together, alone = figures.together.double(), figures.alone.double()
    width = together.shape[1]
    mean = together.mean(dim=0)
    covariance = (together - mean).T @ (together - mean) / len(together)
    covariance += _NOISE**2 * torch.eye(width, dtype=torch.float64)
    price_shift = _price_shift(scaling)
    covariance += torch.outer(price_shift, price_shift)
    deviation = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(deviation, deviation)
    square = float(correlation.square().sum())
    formula = ((1 - 2 / width) * square + width**2) / ((blocks + 1 - 2 / width) * (square - width))
    share = min(1.0, max(_SHRINKAGE, formula))
    values, vectors = torch.linalg.eigh((1 - share) * correlation + share * torch.eye(width, dtype=torch.float64))
    alone_deviation = (alone.var(dim=0, correction=0) + _NOISE**2 + price_shift.square()).sqrt()
    return BlockStatistics(mean, deviation, (vectors / values.sqrt()) @ vectors.T, alone.mean(dim=0), alone_deviation)


def _price_shift(scaling: Scaling) -> Tensor:
    """Return how far a block's means and deviations move when the price moves by `_PRICE`, float64 [2F]."""
    moves = np.array([_PRICE if feature.unit == "basis points" else 0.0 for feature in FEATURES])
    return torch.from_numpy(np.concatenate([moves * scaling.centre / scaling.scale, np.zeros_like(moves)]))
