"""Walk-forward validation: a network is trained before each of several test spans, purged and embargoed.

After López de Prado, "Advances in Financial Machine Learning", 2018, chapters 7 and 12. Rows of all folds are grouped
by regime (calm, trending, volatile) and UTC day; the finished model is tested on other instruments. The worst group
decides.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from lobsmith.evaluation.baselines import base_rate
from lobsmith.evaluation.metrics import log_losses
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNKNOWN
from lobsmith.models.networks.network import Network
from lobsmith.models.split import Split, cut, split_beside, usable_rows
from lobsmith.models.train import predict, train
from lobsmith.models.training_data import Part
from lobsmith.params import Params
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict

_CALM, _TRENDING, _VOLATILE = "calm", "trending", "volatile"
_TREND = 0.5
"""Net move of a span as a share of the path of its one-second returns, from which on it is a trend."""


class Fold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test span: its rows and the log-loss over weighted horizons of the model and of the base rate, nats."""

    fold: int
    train_rows: int
    test_rows: int
    start_ns: int
    log_loss: float
    base: float


class Regime(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows of one regime, day or instrument, over all folds; `judged` where there are enough of them."""

    regime: str = field(name="epoch")
    rows: int
    log_loss: float
    base: float
    judged: bool


def folds(dataset: Dataset, params: Params) -> list[Split]:
    """Cut the newest half of the usable rows into consecutive test spans, each with all rows before to train on.

    Raises:
        TrainingError: the rows are too few for so many folds.
    """
    usable = usable_rows(dataset)
    edges = np.linspace(len(usable) / 2, len(usable), params.walk_forward.folds + 1).astype(int)
    splits = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        validation = int(start * (1 - params.split.validation))
        splits.append(cut(dataset, usable, validation, start, stop, params.split.embargo_ms))
    return splits


def regime_names(dataset: Dataset, rows: npt.NDArray[np.int64], span_s: float) -> npt.NDArray[np.str_]:
    """Return the regime of each of `rows` (int64 [N], rising), by spans of `span_s` seconds.

    A span trends where the mid's net move is at least half of the path of its one-second returns. Of the others, the
    half with the greater realised variance is volatile, the rest calm.
    """
    time, mid = dataset.rows.time[rows], dataset.rows.mid[rows].astype(np.float64)
    second = ((time - time[0]) // NS_PER_S).astype(np.int64)
    span = ((time - time[0]) // int(span_s * NS_PER_S)).astype(np.int64)
    names = np.empty(len(rows), "<U8")
    variance: dict[int, float] = {}
    for number in np.unique(span):
        inside = span == number
        last_of_second = np.flatnonzero(np.diff(second[inside], append=-1) != 0)
        returns = np.diff(np.log(mid[inside][last_of_second]))
        path = np.abs(returns).sum()
        variance[int(number)] = float(np.square(returns).sum())
        if path > 0 and abs(returns.sum()) >= _TREND * path:
            names[inside] = _TRENDING
    others = [number for number in variance if names[span == number][0] == ""]
    middle = float(np.median([variance[number] for number in others])) if others else 0.0
    for number in others:
        names[span == number] = _VOLATILE if variance[number] > middle else _CALM
    return names


def walk_forward(
    parts: Sequence[Part],
    trained: Network,
    params: Params,
    others: Sequence[Dataset] = (),
    *,
    on_fold: Callable[[str], None] | None = None,
) -> Verdict:
    """Train and test over the folds of the first part's dataset; the verdict is on the worst regime.

    Args:
        parts: training data of the model; the first is the instrument that it is for.
        trained: the finished model, tested on other instruments.
        params: all of `params.yaml`.
        others: datasets of the run that the model was not trained on.
        on_fold: called with what is trained next.
    """
    settings = params.walk_forward
    changed = msgspec.structs.replace(params, train=msgspec.structs.replace(params.train, epochs=settings.epochs))
    dataset = parts[0].dataset
    tested_folds, losses, bases, rows = [], [], [], []
    for number, fold in enumerate(folds(dataset, params), start=1):
        if on_fold:
            on_fold(f"fold {number} of {settings.folds}")
        part = Part(dataset, fold)
        network = train([part], changed).network
        loss, base = _losses(network, [part], dataset, fold.test, params)
        tested_folds.append(
            Fold(
                fold=number,
                train_rows=len(fold.train),
                test_rows=len(fold.test),
                start_ns=int(dataset.rows.time[fold.test[0]]),
                log_loss=float(loss.mean()),
                base=float(base.mean()),
            )
        )
        losses.append(loss)
        bases.append(base)
        rows.append(fold.test)
    tested, loss, base = np.concatenate(rows), np.concatenate(losses), np.concatenate(bases)
    groups = regime_names(dataset, tested, settings.epoch_s)
    days = np.array(
        [datetime.fromtimestamp(t // NS_PER_S, UTC).strftime("%Y-%m-%d") for t in dataset.rows.time[tested]]
    )
    regimes = [_regime(name, groups == name, loss, base, settings.minimum_rows) for name in np.unique(groups).tolist()]
    if len(np.unique(days)) > 1:
        regimes += [
            _regime(f"day {day}", days == day, loss, base, settings.minimum_rows) for day in np.unique(days).tolist()
        ]
    for other in others:
        # Minutes that the model was trained on are no test: instruments move together.
        held_out = split_beside(other, dataset, parts[0].split, params.split.embargo_ms)
        if held_out is None or len(held_out.test) == 0:
            continue
        loss, base = _losses(trained, [Part(other, held_out)], other, held_out.test, params)
        all_rows = np.ones(len(loss), np.bool_)
        regimes.append(_regime(f"instrument {other.instrument}", all_rows, loss, base, settings.minimum_rows))
    return _verdict(tested_folds, regimes, params.gates.walk_forward)


def _losses(
    network: Network, parts: Sequence[Part], dataset: Dataset, rows: npt.NDArray[np.int64], params: Params
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each row's log-loss over weighted horizons, of the network and of a base rate.

    The base rate is that of the training or of the validation rows (which a calibration has used), whichever loses
    less.
    """
    weights = np.asarray(params.train.horizon_weights, np.float64)
    rates = [base_rate(parts, len(rows), recent=recent) for recent in (False, True)]
    predictions = [predict(network, dataset, rows)[0], *rates]
    labels = dataset.labels[rows]
    known = (labels != UNKNOWN).all(axis=1)
    total = [np.zeros(int(known.sum())) for _ in predictions]
    for h, weight in enumerate(weights / weights.sum()):
        for sums, p in zip(total, predictions, strict=True):
            sums += weight * log_losses(p[known, h], labels[known, h])
    return total[0], min(total[1:], key=lambda losses: float(losses.mean()))


def _regime(
    name: str,
    chosen: npt.NDArray[np.bool_],
    loss: npt.NDArray[np.float64],
    base: npt.NDArray[np.float64],
    minimum: int,
) -> Regime:
    rows = int(chosen.sum())
    return Regime(
        regime=name,
        rows=rows,
        log_loss=float(loss[chosen].mean()),
        base=float(base[chosen].mean()),
        judged=rows >= minimum,
    )


def _verdict(tested: list[Fold], regimes: list[Regime], threshold: float) -> Verdict:
    shares = {regime.regime: regime.log_loss / regime.base for regime in regimes if regime.judged}
    worst = max(shares, key=lambda name: shares[name]) if shares else None
    # Without a judged regime the gate does not pass.
    value = shares[worst] if worst else None
    return Verdict(
        gate="walk_forward",
        passed=value is not None and bool(value < threshold),
        value=value,
        threshold=threshold,
        evidence={
            "worst": worst or "no regime has enough rows",
            "folds": [msgspec.to_builtins(fold) for fold in tested],
            "epochs": [msgspec.to_builtins(regime) for regime in regimes],
        },
    )
