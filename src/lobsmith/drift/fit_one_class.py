"""Fitting the reference score: its distances to the older part of the training window, its levels to the newest."""

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from lobsmith.drift.one_class import (
    DISTANCES,
    LENGTHS,
    SHORTEST,
    BlockStatistics,
    Figures,
    Float64,
    InstrumentScore,
    ReferenceScore,
    alarm_level,
)
from lobsmith.drift.reference import Float32, RawRows, Reference, Scaling
from lobsmith.errors import DataError
from lobsmith.features.definitions import FEATURES
from lobsmith.params import ReferenceParams
from lobsmith.units import NS_PER_DAY

_NOISE = 0.1
"""Deviation of a block's figures that is nothing to look at, in deviations of the feature."""
_PRICE = 0.02
"""Usual move of the price while a version is in service: features in basis points of a fixed tick go with it."""
_SHRINKAGE = 0.5
"""Of the correlation, at least. Chosen on simulated hours: blocks have heavier tails than the formula assumes."""
_OVERLAP = 8
"""Blocks begin at each eighth of their length."""
_ENOUGH, _ENOUGH_HELD_OUT = 16, 4
"""Blocks that do not overlap, below which shorter ones are taken ..."""
_LEAST, _LEAST_HELD_OUT = 4, 1
"""... and below which there is no score."""
_BATCH = 256


class Fitted(Struct, frozen=True, kw_only=True):
    """How the score of one instrument came about.

    Attributes:
        rows: of the reference.
        block_rows: rows of the blocks that were fitted: `reference.block_rows`, less where the window is short.
        blocks: that do not overlap, in the older part.
        held_out: that do not overlap, in the newest part.
        levels: alarm levels of the three distances of blocks of `block_rows`: of all figures together, of the furthest
            mean, of the furthest deviation; the first is about 1, the others are in deviations of blocks.
        largest: score of the held-out block that is the most unlike the older part.
    """

    rows: int
    block_rows: int
    blocks: int
    held_out: int
    levels: tuple[float, ...]
    largest: float


def fit_score(reference: Reference, params: ReferenceParams) -> tuple[ReferenceScore, dict[str, Fitted]]:
    """Fit the score, and tell of each instrument how.

    Raises:
        DataError: an instrument has too few rows for blocks of 16 rows.
    """
    fits = {name: _fit(name, rows, reference.scaling, params) for name, rows in reference.rows.items()}
    score = ReferenceScore(reference.scaling, [instrument for instrument, _ in fits.values()]).eval()
    return score, {name: fitted for name, (_, fitted) in fits.items()}


def _fit(name: str, rows: RawRows, scaling: Scaling, params: ReferenceParams) -> tuple[InstrumentScore, Fitted]:
    length, older = _block_rows(name, len(rows), params)
    # A block's length lies between the parts: no held-out row shares a block, or a feature's memory, with a fitted one.
    learnt, held_out = rows.raw[:older], rows.raw[older + length :]
    instrument = InstrumentScore(_block_statistics(_figures(learnt, length, scaling), older // length, scaling))
    row_ns = float(np.median(np.diff(rows.time_ns)))
    for place, rows_of in enumerate(LENGTHS):
        # Longer blocks than could be held out are judged as those are: of shorter ones more is expected.
        at = min(rows_of, len(held_out), len(learnt))
        # Each distance may raise a third of the alarms.
        probability = params.false_alarms_a_day / DISTANCES * at * row_ns / NS_PER_DAY
        calibration, seen = (_maxima(instrument, _figures(part, at, scaling)) for part in (held_out, learnt))
        # No block that the score was fitted to is an alarm, though the held-out hours may have been calmer.
        levels = [
            max(alarm_level(one, probability), float(of.max())) for one, of in zip(calibration, seen, strict=True)
        ]
        instrument.levels[:, place] = torch.tensor(levels)
    score = ReferenceScore(scaling, [instrument])
    return instrument, Fitted(
        rows=len(rows),
        block_rows=length,
        blocks=older // length,
        held_out=len(held_out) // length,
        levels=tuple(float(np.interp(np.log2(length), np.log2(LENGTHS), one.numpy())) for one in instrument.levels),
        largest=max(float(score(part)[0].max()) for part in overlapping_blocks(held_out, length)),
    )


def _block_rows(name: str, rows: int, params: ReferenceParams) -> tuple[int, int]:
    """Return the longest of `block_rows`, a half, a quarter ... of which there are enough, and the rows to fit to."""
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
    """Return views of blocks of rows [N, F] that begin at each eighth of their length, each [<= 256, length, F]."""
    blocks = torch.from_numpy(raw).unfold(0, length, max(1, length // _OVERLAP)).transpose(1, 2)
    return tuple(torch.split(blocks, _BATCH))


def _figures(raw: Float32, length: int, scaling: Scaling) -> Figures:
    """Return the figures of overlapping blocks of rows [N, F]."""
    score = ReferenceScore(scaling, [])
    parts = [score.figures(part) for part in overlapping_blocks(raw, length)]
    return Figures(*(torch.cat(one) for one in zip(*parts, strict=True)))


def _maxima(instrument: InstrumentScore, figures: Figures) -> list[Float64]:
    """Return the largest of each distance among each eight neighbours of overlapping blocks: in a block's length."""
    distance, means, deviations = instrument.distances(figures)
    starts = np.arange(0, len(distance), _OVERLAP)
    largest = (distance, means.amax(dim=1), deviations.amax(dim=1))
    return [np.maximum.reduceat(one.double().numpy(), starts) for one in largest]


def _block_statistics(figures: Figures, blocks: int, scaling: Scaling) -> BlockStatistics:
    """Learn what the figures of overlapping blocks are like; `blocks` of these do not overlap.

    The correlation is shrunk towards the identity by the oracle approximating shrinkage of Chen, Wiesel, Eldar & Hero
    (2010), which needs to know no more than how many independent blocks it was taken of, and by a half at least.
    """
    together, alone = figures.together.double(), figures.alone.double()
    width = together.shape[1]
    mean = together.mean(dim=0)
    covariance = (together - mean).T @ (together - mean) / len(together)
    covariance += _NOISE**2 * torch.eye(width, dtype=torch.float64)
    price = _of_the_price(scaling)
    covariance += torch.outer(price, price)
    deviation = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(deviation, deviation)
    square = float(correlation.square().sum())
    formula = ((1 - 2 / width) * square + width**2) / ((blocks + 1 - 2 / width) * (square - width))
    share = min(1.0, max(_SHRINKAGE, formula))
    values, vectors = torch.linalg.eigh((1 - share) * correlation + share * torch.eye(width, dtype=torch.float64))
    alone_deviation = (alone.var(dim=0, correction=0) + _NOISE**2 + price.square()).sqrt()
    return BlockStatistics(mean, deviation, (vectors / values.sqrt()) @ vectors.T, alone.mean(dim=0), alone_deviation)


def _of_the_price(scaling: Scaling) -> Tensor:
    """Return how far the means and deviations of a block move when the price moves by its usual share, float64 [2F]."""
    moves = np.array([_PRICE if feature.unit == "basis points" else 0.0 for feature in FEATURES])
    return torch.from_numpy(np.concatenate([moves * scaling.centre / scaling.scale, np.zeros_like(moves)]))
