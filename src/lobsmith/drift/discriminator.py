"""A small network trained to separate the rows of two windows: adversarial validation.

Each row is scored by a network that has seen neither its block of time nor the rows next to that block, since
neighbouring rows are alike. Two short windows of one market still give an AUC above 1/2: `null_distribution` ranks it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from lobsmith.drift.reference import Scaling
from lobsmith.drift.shifts import earth_movers
from lobsmith.params import DiscriminatorParams

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

CLIP = 8.0
"""Scaled features are clipped here, against outliers."""
_EMBARGO = 0.1
"""Share of a block's rows, on each side of a held-out block, that the network does not see."""
_STEPS = 120
_BATCH = 256
_RATE = 0.01
_DECAY = 0.01


@dataclass(frozen=True)
class Discriminator:
    """Fitted networks, one a block of time, and their held-out scores.

    Attributes:
        auc: mean over the blocks of P(recent row scores higher than a reference row); ties count 1/2.
        finished: False where time ran out before all optimizer steps.
        rows: float32 [N, F], scaled, clipped and standardised, reference before recent, each in the order of time.
        recent: bool [N].
        block: int64 [N], the held-out block of each row.
        scores: float32 [N], held-out log-odds of being recent.
        distances: float64 [F], earth mover's, of each feature alone, in deviations of the scaling.
    """

    auc: float
    finished: bool
    rows: Float32
    recent: npt.NDArray[np.bool_]
    block: npt.NDArray[np.int64]
    log_odds: Float32
    distances: Float64
    _networks: "_Networks"

    def importance(self, seed: int) -> Float64:
        """Return the AUC lost where each feature's held-out values are permuted, float64 [F].

        The networks are not refitted (Breiman 2001): features with the same information share their importance.
        """
        return self._networks.importance(self, np.random.default_rng(seed))


def rank_auc(log_odds: Float32, positive: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve by ranks; ties count 1/2 (Mann & Whitney 1947)."""
    count = int(positive.sum())
    ranks = rankdata(log_odds)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(log_odds) - count)))


def fit_discriminator(
    reference: Float32,
    recent: Float32,
    scaling: Scaling,
    params: DiscriminatorParams,
    *,
    seconds: float | None = None,
) -> Discriminator:
    """Fit one network for each block of time, batched, on one thread; deterministic.

    Args:
        reference: float32 [N, F], own units, in the order of time; thinned evenly to `params.rows`.
        recent: float32 [M, F].
        seconds: training time at most, monotonic clock; None takes `params.seconds`.
    """
    end = time.monotonic() + (params.seconds if seconds is None else seconds)
    old, new = (_scaled(_evenly(rows, params.rows), scaling) for rows in (reference, recent))
    rows = _standardised(np.concatenate([old, new]))
    is_recent = np.arange(len(rows)) >= len(old)
    block = np.concatenate([_blocks(len(old), params.folds), _blocks(len(new), params.folds)])
    with _one_thread():
        networks = _Networks(rows.shape[1], params)
        finished = networks.fit(rows, len(old), end)
        log_odds = networks.held_out(rows, block)
    auc, distances = _mean_auc(log_odds, is_recent, block), earth_movers(np.sort(old, axis=0), np.sort(new, axis=0))
    return Discriminator(auc, finished, rows, is_recent, block, log_odds, distances, networks)


class _Networks:
    """One network with one hidden layer for each fold, batched."""

    def __init__(self, features: int, params: DiscriminatorParams) -> None:
        self._params = params
        generator = torch.Generator().manual_seed(params.seed)
        shape = (params.folds, features, params.hidden)
        self._into = nn.Parameter(torch.randn(shape, generator=generator) * (2 / features) ** 0.5)
        self._bias = nn.Parameter(torch.zeros(params.folds, 1, params.hidden))
        outward = torch.randn((params.folds, params.hidden, 1), generator=generator)
        self._out = nn.Parameter(outward / params.hidden**0.5)

    def fit(self, rows: Float32, old: int, end: float) -> bool:
        """Train on batches of half reference and half recent rows; return whether time sufficed."""
        folds = self._params.folds
        drawn = torch.from_numpy(_batches(old, len(rows) - old, self._params))
        x = torch.from_numpy(rows)
        target = torch.arange(_BATCH).ge(_BATCH // 2).float().expand(folds, -1)
        parameters = [self._into, self._bias, self._out]
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY, fused=True)
        for step in range(_STEPS):
            if time.monotonic() > end:
                return False
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / _STEPS)
            loss = nn.functional.binary_cross_entropy_with_logits(self._logits(x[drawn[step]]), target)
            optimizer.zero_grad()
            (loss * folds).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return True

    def _logits(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.baddbmm(self._bias, x, self._into))
        return torch.bmm(hidden, self._out).squeeze(-1)

    @torch.no_grad()
    def held_out(self, rows: Float32, block: npt.NDArray[np.int64]) -> Float32:
        log_odds = np.empty(len(rows), np.float32)
        for fold in range(self._params.folds):
            held = block == fold
            hidden = torch.from_numpy(rows[held]) @ self._into[fold] + self._bias[fold]
            log_odds[held] = (torch.relu(hidden) @ self._out[fold]).squeeze(-1).numpy()
        return log_odds

    @torch.no_grad()
    def importance(self, fitted: Discriminator, generator: np.random.Generator) -> Float64:
        lost = np.zeros(fitted.rows.shape[1])
        with _one_thread():
            for fold in range(self._params.folds):
                held = fitted.block == fold
                rows, recent = torch.from_numpy(fitted.rows[held]), fitted.recent[held]
                whole = rank_auc(fitted.log_odds[held], recent)
                into, out = self._into[fold], self._out[fold]
                hidden = rows @ into + self._bias[fold]
                order = torch.from_numpy(generator.permutation(len(rows)))
                for feature in range(rows.shape[1]):
                    # One input changes: the hidden layer is updated, not recomputed.
                    change = (rows[order, feature] - rows[:, feature])[:, None] * into[feature]
                    log_odds = (torch.relu(hidden + change) @ out).squeeze(-1).numpy()
                    lost[feature] += (whole - rank_auc(log_odds, recent)) / self._params.folds
        return lost


def _evenly(rows: Float32, most: int) -> Float32:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(np.intp)]


def _scaled(raw: Float32, scaling: Scaling) -> Float32:
    return np.asarray(np.clip(scaling.apply(raw), -CLIP, CLIP), np.float32)


def _standardised(rows: Float32) -> Float32:
    """Give each feature mean 0 and variance 1 over both windows together."""
    deviation = rows.std(axis=0)
    return np.asarray((rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1), np.float32)


def _blocks(count: int, folds: int) -> npt.NDArray[np.int64]:
    """Return each row's block number: contiguous, of equal length."""
    return np.asarray(np.arange(count) * folds // count, np.int64)


def _batches(old: int, new: int, params: DiscriminatorParams) -> Indices:
    """Draw the rows of all batches, [steps, folds, batch], half from either window."""
    generator = np.random.default_rng(params.seed)
    drawn = np.empty((_STEPS, params.folds, _BATCH), np.intp)
    for fold in range(params.folds):
        for first, places in (
            (0, _trained_rows(old, fold, params.folds)),
            (_BATCH // 2, old + _trained_rows(new, fold, params.folds)),
        ):
            drawn[:, fold, first : first + _BATCH // 2] = generator.choice(places, (_STEPS, _BATCH // 2))
    return drawn


def _trained_rows(count: int, fold: int, folds: int) -> Indices:
    """Return the rows of one window that a fold's network is trained on."""
    start, stop, apart = fold * count // folds, (fold + 1) * count // folds, int(_EMBARGO * count / folds)
    at = np.arange(count)
    return np.asarray(np.flatnonzero((at < start - apart) | (at >= stop + apart)), np.intp)


def _mean_auc(log_odds: Float32, recent: npt.NDArray[np.bool_], block: npt.NDArray[np.int64]) -> float:
    """Return the mean over blocks: log-odds of two networks share no scale."""
    return float(np.mean([rank_auc(log_odds[block == fold], recent[block == fold]) for fold in np.unique(block)]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, for repeatable sums, and restore the setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
