"""Quality of the outputs beside the direction."""

import numpy as np
import numpy.typing as npt

from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.gates.evaluation import Head
from lobsmith.gates.metrics import CLIP, average_precision

OUTPUTS = ("significant", "bid_withdrawal", "ask_withdrawal", "move", "volatility")
"""The heads beside the direction, in the order of the outlook; the first three are probabilities."""
_PROBABILITIES = 3


def measure_heads(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    h: int,
    outlook: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
) -> list[Head]:
    """Measure the outputs at one horizon; rows without a finite output or a known truth do not count.

    Args:
        dataset: all rows with their targets.
        rows: int64 [N], those that are measured.
        h: which horizon.
        outlook: float32 [N, 5], `OUTPUTS`.
        reference: float32 [5], means over the training rows.

    Returns:
        One for each output; `mean` is that of what came true. Without a row all figures are 0.
    """
    targets = dataset.targets
    truths = np.stack(
        [
            targets.significant[rows, h],
            targets.withdrawal[rows, h, 0],
            targets.withdrawal[rows, h, 1],
            targets.move[rows, h],
            targets.volatility[rows, h],
        ],
        axis=1,
    ).astype(np.float64)
    heads = []
    for index, output in enumerate(OUTPUTS):
        binary = index < _PROBABILITIES
        said, true = outlook[:, index].astype(np.float64), truths[:, index]
        known = np.isfinite(said) & (true != UNKNOWN if binary else np.isfinite(true))
        said, true = said[known], true[known]
        mean = np.full(len(true), float(reference[index]))
        measure = _binary_losses if binary else _squares
        heads.append(
            Head(
                output=output,
                horizon_ms=dataset.horizons_ms[h],
                rows=len(true),
                mean=_mean(true),
                loss=_mean(measure(said, true)),
                reference=_mean(measure(mean, true)),
                pr_auc=average_precision(said, true == 1) if binary else None,
            )
        )
    return heads


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _squares(said: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((said - true) ** 2, np.float64)


def _binary_losses(said: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    right = np.where(true == 1, said, 1.0 - said)
    return np.asarray(-np.log(np.clip(right, CLIP, 1.0)), np.float64)
