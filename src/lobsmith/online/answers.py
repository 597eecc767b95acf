"""What versions answered to rows of live traffic, beside what the market then did: what live gates are given."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRIMING = "priming"
"""The reason of a row that a mirrored version was only primed with: it was not put to it."""


@dataclass(frozen=True)
class Answers:
    """What one version made of N consecutive rows of one or several sessions, in the order of time within a segment.

    Attributes:
        model: the Triton model, `<model>` or `<model>_candidate`.
        version: its version.
        time_ns: int64 [N], local receive time of each row, UTC.
        segment: int64 [N], constant over each gap-free run of rows, another number for each run.
        labels: int8 [N, H], direction at each horizon: 0 down, 1 unchanged, 2 up, -1 unknown (yet).
        probabilities: float32 [N, H, 3], NaN where the row was not answered.
        latency_ns: int64 [N], from hand-over to answer.
        reasons: why rows were not answered, with their number.
        horizons_ms: the H horizons.
    """

    model: str
    version: int
    time_ns: npt.NDArray[np.int64]
    segment: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    probabilities: npt.NDArray[np.float32]
    latency_ns: npt.NDArray[np.int64]
    reasons: dict[str, int]
    horizons_ms: tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """Two versions on the same rows: `first` serves (or is the candidate's rival), `second` is judged against it.

    Both have the same rows at the same places. `first_probe_ns` and `second_probe_ns`, int64 [M], are latencies of
    single-row requests that were put to both in turn, over the same transport: the only ones that can be compared.
    """

    first: Answers
    second: Answers
    first_probe_ns: npt.NDArray[np.int64]
    second_probe_ns: npt.NDArray[np.int64]
