"""How good a model is on rows it has never seen, beside what it must beat."""

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.gates.verdict import Verdict
from lobsmith.market.instrument import Instrument
from lobsmith.models.baselines import Majority, QueueImbalance
from lobsmith.models.network import CLASSES
from lobsmith.models.split import Split, runs

_SMALLEST = 1e-7
"""A float32 probability of zero must not make a log-loss infinite."""

MODEL, MAJORITY, IMBALANCE = "model", "majority", "queue imbalance"


class Score(Struct, frozen=True, kw_only=True):
    """Quality of one predictor at one horizon: log-loss in nats a row."""

    predictor: str
    horizon_ms: int
    rows: int
    accuracy: float
    log_loss: float


class Evaluation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stage found; `test_start_ns` is the local time of the first held-out row."""

    instrument: Instrument
    data_fingerprint: str
    rows: dict[str, int]
    test_start_ns: int
    class_shares: dict[str, list[float]]
    scores: list[Score]
    verdicts: tuple[Verdict, ...]

    def metrics(self) -> dict[str, float]:
        """Return every score under one flat name, such as `model_log_loss_100ms`."""
        flat = {}
        for one in self.scores:
            name = f"{one.predictor.replace(' ', '_')}_{{}}_{one.horizon_ms}ms"
            flat[name.format("accuracy")] = one.accuracy
            flat[name.format("log_loss")] = one.log_loss
        return flat


def score(
    predictor: str,
    probabilities: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    labels: npt.NDArray[np.int8],
    horizons_ms: tuple[int, ...],
) -> list[Score]:
    """Score probabilities against labels at each horizon; a row without an answer or without a label is left out.

    Args:
        predictor: its name.
        probabilities: [N, H, 3]; NaN where there is no answer.
        labels: int8 [N, H]; -1 unknown.
        horizons_ms: the H horizons.
    """
    scores = []
    for h, horizon in enumerate(horizons_ms):
        known = (labels[:, h] != UNKNOWN) & np.isfinite(probabilities[:, h]).all(axis=1)
        p, y = probabilities[known, h].astype(np.float64), labels[known, h].astype(np.int64)
        count = len(y)
        chosen = np.clip(p[np.arange(count), y], _SMALLEST, 1.0)
        scores.append(
            Score(
                predictor=predictor,
                horizon_ms=horizon,
                rows=count,
                accuracy=float(np.mean(p.argmax(axis=1) == y)) if count else float("nan"),
                log_loss=float(-np.log(chosen).mean()) if count else float("nan"),
            )
        )
    return scores


def stream_probabilities(model: OnnxModel, dataset: Dataset, rows: npt.NDArray[np.int64]) -> Float:
    """Return the model's probabilities, float32 [N, H, 3], at the given rows.

    The model steps through every row from the first to the last; its state starts cold at the first and after each gap.
    """
    first, last = int(rows[0]), int(rows[-1])
    out = np.full((last + 1 - first, *dataset.labels.shape[1:], CLASSES), np.nan, np.float32)
    for start, stop in runs(dataset, rows):
        out[start - first : stop - first], _ = model.predict(dataset.rows.features[start:stop])
    chosen: Float = out[rows - first]
    return chosen


def baseline_scores(dataset: Dataset, parts: Split, rows: npt.NDArray[np.int64]) -> list[Score]:
    """Fit the baselines on the training part and score them on the given rows."""
    labels = dataset.labels[rows]
    scores = []
    for name, baseline in (
        (MAJORITY, Majority.fit(dataset, parts.train)),
        (IMBALANCE, QueueImbalance.fit(dataset, parts.train)),
    ):
        scores += score(name, baseline.predict(dataset, rows), labels, dataset.horizons_ms)
    return scores


def skill(scores: list[Score], threshold: float) -> Verdict:
    """Judge the model's log-loss at the first horizon as a share of the majority baseline's.

    Only the first horizon decides: minutes of data cannot teach the longer ones, which are reported beside it.
    """
    horizon = min(one.horizon_ms for one in scores)
    losses = {one.predictor: one.log_loss for one in scores if one.horizon_ms == horizon}
    value = losses[MODEL] / losses[MAJORITY]
    return Verdict(
        gate="skill",
        passed=bool(value < threshold),
        value=value,
        threshold=threshold,
        evidence={"horizon_ms": horizon, "log_loss": losses, "rows": scores[0].rows},
    )
