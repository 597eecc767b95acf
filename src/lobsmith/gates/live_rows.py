"""What all judgements on live traffic look at: losses, unanswered rows, latencies."""

import math

import numpy as np
import numpy.typing as npt

from lobsmith.errors import GateError
from lobsmith.gates.answers import Answers, Compared
from lobsmith.gates.metrics import log_losses

_SURE = 3.0
"""Standard errors that a share of latencies must lie beyond its limit."""

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def check_same_rows(compared: Compared) -> None:
    """Refuse answers of two versions that are not to the same rows.

    Raises:
        GateError: times, segments or horizons differ.
    """
    first, second = compared.first, compared.second
    same = first.horizons_ms == second.horizons_ms and all(
        np.array_equal(a, b) for a, b in ((first.time_ns, second.time_ns), (first.segment, second.segment))
    )
    if not same:
        raise GateError(
            f"{first.model} {first.version} and {second.model} {second.version}: their answers are not to the "
            "same rows; join them by row first"
        )
    check_order(first)


def check_order(answers: Answers) -> None:
    """Refuse rows that are not in the order of time within their segment.

    Raises:
        GateError: time goes back.
    """
    back = (np.diff(answers.time_ns) < 0) & (np.diff(answers.segment) == 0)
    if back.any():
        raise GateError(
            f"{answers.model} {answers.version}: time goes back after row {int(np.argmax(back))} of a segment; "
            "order the rows by time"
        )


def judged_horizons(horizons_ms: tuple[int, ...], longest_ms: int) -> list[int]:
    """Return the indices of the horizons up to the longest; of the shortest where all are longer."""
    chosen = [i for i, horizon in enumerate(horizons_ms) if horizon <= longest_ms]
    return chosen or [int(np.argmin(horizons_ms))]


def answered(answers: Answers) -> Mask:
    """Tell which rows have finite probabilities at every horizon, bool [N]."""
    return np.asarray(np.isfinite(answers.probabilities).all(axis=(1, 2)), bool)


def unanswered(answers: Answers) -> float | None:
    """Return the share of rows without an answer; None without a row."""
    return float(1.0 - answered(answers).mean()) if len(answers.time_ns) else None


def losses(answers: Answers, horizons: list[int]) -> tuple[Float, Mask]:
    """Return each row's mean log-loss over the given horizons, nats, and where it is known; float64 and bool [N]."""
    labels = answers.labels[:, horizons]
    known = answered(answers) & (labels >= 0).all(axis=1)
    result = np.zeros(len(known))
    p, y = answers.probabilities[known][:, horizons], labels[known]
    if len(y):
        result[known] = np.mean([log_losses(p[:, h], y[:, h]) for h in range(len(horizons))], axis=0)
    return result, known


def too_slow(
    first_ns: npt.NDArray[np.int64], second_ns: npt.NDArray[np.int64], limits: dict[float, float]
) -> str | None:
    """Return in words which quantile of the second is surely beyond its limit, a multiple of the first's; None if none.

    The second's quantile q is beyond a value if more than 1 - q of its latencies are. Both samples are uncertain: the
    share must be three standard errors larger, that of a difference of two shares.

    Args:
        first_ns: int64 [M].
        second_ns: int64 [M'].
        limits: largest ratio by quantile.
    """
    count = min(len(first_ns), len(second_ns))
    for quantile, limit in limits.items():
        bar = float(np.quantile(first_ns, quantile)) * limit
        beyond = float((second_ns > bar).mean())
        if beyond > (1 - quantile) + _SURE * math.sqrt(2 * quantile * (1 - quantile) / count):
            ratio = float(np.quantile(second_ns, quantile)) / max(float(np.quantile(first_ns, quantile)), 1.0)
            return f"its p{quantile * 100:g} latency is {ratio:.2f} times the other's, limit {limit:g}"
    return None
