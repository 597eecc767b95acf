"""What a version answers and what its answers cost: the statistics of prediction drift and of concept drift.

Both are compared with what they have been in windows before: one window by itself says nothing of what is usual.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lobsmith.features.labels import UNKNOWN
from lobsmith.gates.answers import Answers
from lobsmith.gates.drift.moved import moved
from lobsmith.gates.drift.verdict import Moved
from lobsmith.gates.live_rows import answered, judged_horizons, losses

_DOWN, _UNCHANGED, _UP = range(3)
_PRIOR = 1.0
"""Rows that each direction is taken to have come once more than it did."""


def between(answers: Answers, from_ns: int, until_ns: int) -> Answers:
    """Return the rows received from `from_ns` on and before `until_ns`, in the order of time; reasons are left out."""
    chosen = np.flatnonzero((answers.time_ns >= from_ns) & (answers.time_ns < until_ns))
    chosen = chosen[np.argsort(answers.time_ns[chosen], kind="stable")]
    names = ("time_ns", "segment", "labels", "probabilities", "latency_ns")
    return replace(answers, reasons={}, **{name: getattr(answers, name)[chosen] for name in names})


def said(answers: Answers) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the quantities of answered rows that prediction drift is looked for in: their names, and float32 [M, 2 H].

    For every horizon these are the probability of no change, and how much more probable up is than down.
    """
    p = answers.probabilities[answered(answers)]
    names = [
        f"{what} at {horizon} ms" for what in ("P(unchanged)", "P(up) - P(down)") for horizon in answers.horizons_ms
    ]
    return names, np.concatenate([p[..., _UNCHANGED], p[..., _UP] - p[..., _DOWN]], axis=1)


def shift_of_answers(reference: Answers, recent: Answers) -> tuple[float, tuple[Moved, ...]]:
    """Return how far the answers have moved, and each quantity of theirs, the one that moved most first.

    Args:
        reference: answers of a version, at least one.
        recent: later answers of the same version, at least one.

    Returns:
        The mean of the quantities' earth mover's distances, in standard deviations of the reference.
    """
    names, before = said(reference)
    quantities = moved(names, before, said(recent)[1])
    ordered = sorted(quantities, key=lambda one: one.wasserstein, reverse=True)
    return float(np.mean([one.wasserstein for one in ordered])), tuple(ordered)


def excess_loss(reference: Answers, recent: Answers, longest_ms: int) -> tuple[float, int] | None:
    """Return what a row costs more than always saying how often each direction came in the reference, nats; and rows.

    The same rows are scored twice, so that a market in which everything has become harder to foresee weighs on both.
    None where no row of either has an answer and a known outcome.

    Args:
        reference: earlier rows.
        recent: of these the losses are.
        longest_ms: horizons up to this one count.
    """
    horizons = judged_horizons(recent.horizons_ms, longest_ms)
    loss, known = losses(recent, horizons)
    shares = [share for h in horizons if (share := _shares(reference.labels[:, h])) is not None]
    if not known.any() or len(shares) < len(horizons):
        return None
    labels = recent.labels[known]
    base = np.mean([-np.log(share[labels[:, h]]) for h, share in zip(horizons, shares, strict=True)], axis=0)
    return float((loss[known] - base).mean()), int(known.sum())


def _shares(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.float64] | None:
    known = labels[labels != UNKNOWN]
    if not len(known):
        return None
    counts = np.bincount(known, minlength=3) + _PRIOR
    return np.asarray(counts / counts.sum(), np.float64)
