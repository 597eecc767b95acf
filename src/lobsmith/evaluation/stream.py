"""Predictions of an exported model for rows of a dataset, its state carried over each gap-free run."""

import numpy as np
import numpy.typing as npt

from lobsmith.compress.runtime import Float, StatefulModel
from lobsmith.features.dataset import Dataset
from lobsmith.models.split import lead_runs


def stream_predictions(
    model: StatefulModel, dataset: Dataset, rows: npt.NDArray[np.int64], *, chunk: int = 256
) -> tuple[Float, Float]:
    """Return the model's probabilities float32 [N, H, 3] and outlook float32 [N, H, 5] at the given rising rows.

    The model reads every row between, `chunk` rows a call; up to `LEAD_ROWS` rows before the first warm its state.
    """
    first, spans = lead_runs(dataset, rows)
    length, horizons = int(rows[-1]) + 1 - first, dataset.labels.shape[1]
    probabilities = np.full((length, horizons, 3), np.nan, np.float32)
    outlook = np.full((length, horizons, 5), np.nan, np.float32)
    for start, stop in spans:
        span = slice(start - first, stop - first)
        probabilities[span], outlook[span], _ = model.predict(dataset.rows.features[start:stop], chunk=chunk)
    return probabilities[rows - first], outlook[rows - first]
