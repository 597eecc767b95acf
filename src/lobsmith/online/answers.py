"""Answers of versions to rows of live traffic, with the labels: the input of the live gates."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

PRIMING = "priming"
"""Reason of a row that only primed a shadow replica."""


@dataclass(frozen=True)
class Answers:
    """Answers of one version to N consecutive rows, in the order of time within a segment.

    Attributes:
        model: `<model>` or `<model>_candidate`.
        version: its version.
        time_ns: int64 [N], local receive time, UTC.
        segment: int64 [N], another number for each gap-free run.
        labels: int8 [N, H], 0 down, 1 unchanged, 2 up, -1 unknown (yet).
        probabilities: float32 [N, H, 3], NaN where unanswered.
        latency_ns: int64 [N], from hand-over to answer.
        reasons: counts of unanswered rows by reason.
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

    def at(self, rows: slice | npt.NDArray[np.int64]) -> "Answers":
        """Return the answers to some of the rows, with the reasons of all."""
        return replace(
            self,
            time_ns=self.time_ns[rows],
            segment=self.segment[rows],
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            latency_ns=self.latency_ns[rows],
        )


@dataclass(frozen=True)
class Compared:
    """Answers of two versions to the same rows: `first` serves (or is the fallback), `second` is compared with it.

    `first_probe_ns` and `second_probe_ns`, int64 [M], are latencies of single-row requests put to both in turn over the
    same transport: the only comparable ones.
    """

    first: Answers
    second: Answers
    first_probe_ns: npt.NDArray[np.int64]
    second_probe_ns: npt.NDArray[np.int64]
