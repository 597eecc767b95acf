"""The drift score: distance of blocks of raw rows from the training window, one ONNX file; and its alarm level."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor

from lobsmith.compress.export import OPSET
from lobsmith.drift.reference import Scaling

SHORTEST = 16
"""Rows of the shortest block."""
LENGTHS = (16, 32, 64, 128, 256)
"""Block lengths, rows, with a level each; between them levels are interpolated."""
DISTANCES = 3
"""Of all figures together, the furthest mean, the furthest deviation."""
_CLIP = 2.0
"""Clip of scaled values for the joint distance: tails would dominate it ..."""
_FAR = 8.0
"""... and for the means of single features, where an outlier shall count."""
_STILL = 0.1
"""Added to deviations before the logarithm."""
SCORE_INPUT = "rows"
SCORE_OUTPUTS = ("score", "contributions")
Float64 = npt.NDArray[np.float64]
_TAIL = 0.2
"""Share of the maxima that the tail is fitted to."""
_PRIOR = 0.15
"""Prior of the tail index: of block distances in simulated hours, rounded up."""
_PRIOR_COUNT = 2
"""Maxima that the prior counts for."""
_SMALLEST = 0.1
"""Smallest distance that counts: a constant feature's smallest change is no alarm."""


class Figures(NamedTuple):
    """Figures of blocks, each [B, 2F].

    Attributes:
        together: means and deviations of the features, clipped, for the joint distance.
        alone: means of the features, clipped further out, and log deviations, compared one by one.
    """

    together: Tensor
    alone: Tensor


class BlockStatistics(NamedTuple):
    """Mean and covariance of the figures of one instrument's blocks.

    Attributes:
        mean, deviation: of the joint figures, [2F].
        whitener: [2F, 2F], from standardised joint figures to uncorrelated ones of variance 1.
        alone_mean, alone_deviation: of the single figures, [2F].
    """

    mean: Tensor
    deviation: Tensor
    whitener: Tensor
    alone_mean: Tensor
    alone_deviation: Tensor


class InstrumentScore(nn.Module):
    """Distance of blocks from one instrument's training blocks.

    Attributes:
        levels: alarm levels of the three distances at each of `LENGTHS`, [3, L].
    """

    mean: Tensor
    deviation: Tensor
    whitener: Tensor
    alone_mean: Tensor
    alone_deviation: Tensor
    levels: Tensor

    def __init__(self, statistics: BlockStatistics) -> None:
        super().__init__()
        for name, value in statistics._asdict().items():
            self.register_buffer(name, value.float())
        self.register_buffer("levels", torch.ones(DISTANCES, len(LENGTHS)))

    def distances(self, figures: Figures) -> tuple[Tensor, Tensor, Tensor]:
        """Return the root mean square distance of all figures together, [B], and of each one alone, [B, F]."""
        together = ((figures.together - self.mean) / self.deviation) @ self.whitener
        means, deviations = ((figures.alone - self.alone_mean) / self.alone_deviation).abs().chunk(2, dim=1)
        return together.square().mean(dim=1).sqrt(), means, deviations

    def forward(self, figures: Figures, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return score [B] and features [B, F] in units of the alarm levels, interpolated by `weights` [L]."""
        levels = (self.levels * weights).sum(dim=1)
        distance, means, deviations = self.distances(figures)
        features = torch.maximum(means / levels[1], deviations / levels[2])
        return torch.maximum(distance / levels[0], features.amax(dim=1)), features


class DriftScoreModel(nn.Module):
    """The score of blocks of raw rows; above 1 is an alarm.

    Args:
        instruments: of the training window.
    """

    centre: Tensor
    scale: Tensor
    lengths: Tensor

    def __init__(self, scaling: Scaling, instruments: Sequence[InstrumentScore]) -> None:
        super().__init__()
        self.register_buffer("centre", torch.from_numpy(scaling.centre.copy()))
        self.register_buffer("scale", torch.from_numpy(scaling.scale.copy()))
        self.register_buffer("lengths", torch.tensor(LENGTHS, dtype=torch.float32).log2())
        self.instruments = nn.ModuleList(instruments)

    @property
    def features(self) -> int:
        """F."""
        return len(self.centre)

    def figures(self, rows: Tensor) -> Figures:
        """Return the figures of blocks of finite rows [B, T, F]."""
        scaled = (rows - self.centre) / self.scale
        clipped = scaled.clamp(-_CLIP, _CLIP)
        mean = clipped.mean(dim=1)
        deviation = (clipped - mean.unsqueeze(1)).square().mean(dim=1).sqrt()
        far = scaled.clamp(-_FAR, _FAR).mean(dim=1)
        return Figures(
            torch.cat([mean, deviation], dim=1),
            torch.cat([far, (deviation + _STILL).log()], dim=1),
        )

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Score blocks.

        Args:
            rows: float32 [B, T, F], T consecutive thinned raw rows of one instrument, T >= 16.

        Returns:
            score [B, 1], above 1 where the block is unlike the training window; contributions [B, F], each feature's
            shift in units of its own alarm level. Both are infinite where a value is not finite: NaN would compare as
            no alarm.
        """
        unknown = torch.isnan(rows) | torch.isinf(rows)
        figures = self.figures(torch.where(unknown, torch.zeros_like(rows), rows))
        # A tensor shape: the exported graph computes with it instead of freezing it.
        length = shape_as_tensor(rows)[1].float().log2().clamp(self.lengths[0], self.lengths[-1])
        weights = (1 - (length - self.lengths).abs()).clamp(min=0)
        scores = [instrument(figures, weights) for instrument in self.instruments]
        score, features = (torch.stack(parts).amin(dim=0) for parts in zip(*scores, strict=True))
        lost = unknown.any(dim=1)
        infinite = torch.full_like(features, torch.inf)
        return (
            torch.where(lost.any(dim=1), torch.full_like(score, torch.inf), score).unsqueeze(1),
            torch.where(lost, infinite, features),
        )


def export_score(score: DriftScoreModel, destination: Path) -> None:
    """Write the score for any number of blocks and rows: `rows` [B, T, F] to `score` [B, 1], `contributions` [B, F]."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The tracer warns of traced constants; tests compare other shapes than the traced one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            score.eval(),
            (torch.zeros(2, SHORTEST, score.features),),
            str(destination),
            dynamo=False,
            opset_version=OPSET,
            input_names=[SCORE_INPUT],
            output_names=list(SCORE_OUTPUTS),
            dynamic_axes={
                SCORE_INPUT: {0: "batch", 1: "time"},
                "score": {0: "batch"},
                "contributions": {0: "batch"},
            },
        )
    onnx.checker.check_model(str(destination), full_check=True)


def alarm_level(maxima: Float64, probability: float) -> float:
    """Return the level that a block's maximum exceeds with a small probability, extrapolated beyond the sample.

    Pareto tail, `(x / u) ** (-1 / index)` above u: Weissman's quantile (1978) with Hill's index (1975) and a prior. It
    errs towards a high level: alarms cluster, while blocks count as independent.

    Args:
        maxima: [N], N >= 1, of consecutive blocks.
        probability: of exceeding the level, for one block.
    """
    rising = np.maximum(np.sort(maxima), _SMALLEST)
    count = max(1, round(_TAIL * len(rising)))
    threshold = rising[max(len(rising) - count - 1, 0)]
    excess = float(np.log(rising[-count:] / threshold).sum())
    index = (excess + _PRIOR_COUNT * _PRIOR) / (count + _PRIOR_COUNT)
    level = threshold * max(1.0, count / len(rising) / probability) ** index
    return float(max(level, rising[-1]))
