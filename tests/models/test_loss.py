"""Each term of the loss against what is worked out by hand."""

import math
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from lobsmith.models.loss import Loss, mass
from lobsmith.models.networks.outputs import COLUMNS, MOVE, VOLATILITY
from lobsmith.params import LossParams

NONE = LossParams(direction=0, significant=0, withdrawal=0, move=0, volatility=0, hinge=0, false_alarm=0)
ALL = LossParams(direction=1, significant=0.1, withdrawal=0.05, move=0.05, volatility=0.05, hinge=0.02, false_alarm=3)
SIGNIFICANT = 2.0
Targets = dict[str, Tensor]


def only(**weights: float) -> LossParams:
    return msgspec.structs.replace(NONE, **weights)


def a_row(**changes: Any) -> Targets:
    """One row, one horizon: it went up, nothing else happened."""
    row: Targets = {
        "direction": torch.tensor([[[2]]]),
        "binary": torch.zeros(1, 1, 1, 3),
        "move": torch.zeros(1, 1, 1),
        "volatility": torch.zeros(1, 1, 1),
        "weight": torch.ones(1),
    }
    row |= {name: torch.as_tensor(value).reshape(row[name].shape) for name, value in changes.items()}
    if abs(float(row["move"])) >= SIGNIFICANT:
        row["binary"][..., 0] = 1.0
    return row


def outputs(**columns: float) -> Tensor:
    """One row's outputs: zero, but for the named columns c0 to c7."""
    row = torch.zeros(1, 1, 1, COLUMNS)
    for name, value in columns.items():
        row[..., int(name[1:])] = value
    return row


def cost(params: LossParams, predicted: Tensor, targets: Targets) -> float:
    horizons = targets["direction"].shape[2]
    return Loss(params, torch.ones(horizons), torch.full((horizons,), SIGNIFICANT))(predicted, **targets).item()


def many(rows: int = 5, horizons: int = 2, sequences: int = 3) -> tuple[Tensor, Targets]:
    generator = torch.Generator().manual_seed(4)
    shape = (sequences, rows, horizons)
    targets = {
        "direction": torch.randint(0, 3, shape, generator=generator),
        "binary": torch.randint(0, 2, (*shape, 3), generator=generator).float(),
        "move": 3 * torch.randn(shape, generator=generator),
        "volatility": torch.rand(shape, generator=generator),
        "weight": torch.rand(sequences, generator=generator) + 0.1,
    }
    return torch.randn((*shape, COLUMNS), generator=generator), targets


@pytest.mark.parametrize(
    ("params", "predicted", "targets", "expected"),
    [
        pytest.param(only(direction=1), outputs(), a_row(), math.log(3), id="direction: knows nothing"),
        pytest.param(
            only(direction=2),
            outputs(c0=1.0, c2=3.0),
            a_row(direction=0),
            2 * (math.log(math.e + 1 + math.e**3) - 1),
            id="direction: wrong",
        ),
        pytest.param(only(significant=1), outputs(), a_row(), math.log(2), id="significant: knows nothing"),
        pytest.param(
            only(significant=0.5),
            outputs(c3=2.0),
            a_row(binary=[1.0, 0.0, 0.0]),
            0.5 * math.log(1 + math.exp(-2)),
            id="significant: it occurred",
        ),
        pytest.param(
            only(withdrawal=1),
            outputs(c3=50.0, c4=2.0, c5=1.0),
            a_row(binary=[0.0, 1.0, 0.0]),
            math.log(1 + math.exp(-2)) + math.log(1 + math.e),
            id="withdrawal: the sum of both sides",
        ),
        pytest.param(only(move=1), outputs(c6=0.5), a_row(move=-1.5), 4.0, id="move: squared error"),
        pytest.param(only(move=1), outputs(), a_row(move=-1000.0), 100.0, id="move: an outlier is clipped"),
        pytest.param(
            only(volatility=1),
            outputs(c7=0.0),
            a_row(volatility=2.0),
            (2 - math.log(2)) ** 2,
            id="volatility: squared error after softplus",
        ),
        pytest.param(only(volatility=1), outputs(c7=20.0), a_row(volatility=1e4), 100.0, id="volatility: clipped"),
        # Half a significant move is 1.
        pytest.param(only(hinge=1, false_alarm=3), outputs(c6=1.0), a_row(), 0.0, id="hinge: at the margin"),
        pytest.param(only(hinge=1, false_alarm=3), outputs(c6=-1.5), a_row(), 1.5, id="hinge: false alarm"),
        pytest.param(
            only(hinge=1, false_alarm=3), outputs(c6=0.5), a_row(move=2.0), 0.5, id="hinge: missed, exactly significant"
        ),
        pytest.param(only(hinge=1, false_alarm=3), outputs(c6=-1.0), a_row(move=2.5), 2.0, id="hinge: wrong side"),
        pytest.param(only(hinge=1, false_alarm=3), outputs(c6=-7.0), a_row(move=-2.5), 0.0, id="hinge: seen"),
        pytest.param(only(hinge=0.5, false_alarm=3), outputs(c6=2.0), a_row(), 1.5, id="hinge: weighted"),
    ],
)
def test_terms(params: LossParams, predicted: Tensor, targets: Targets, expected: float) -> None:
    assert cost(params, predicted, targets) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("times", [1.0, 3.0, 7.5])
@pytest.mark.parametrize("excess", [0.1, 1.0, 4.0])
def test_a_false_alarm_costs_so_many_times_a_miss_of_the_same_size(times: float, excess: float) -> None:
    params = only(hinge=0.02, false_alarm=times)
    margin = SIGNIFICANT / 2
    false_alarm = cost(params, outputs(c6=margin + excess), a_row(move=0.0))
    missed = cost(params, outputs(c6=margin - excess), a_row(move=SIGNIFICANT))
    assert missed == pytest.approx(0.02 * excess, rel=1e-4)
    assert false_alarm == pytest.approx(times * missed, rel=1e-4)


def test_the_whole_is_the_sum_of_its_terms() -> None:
    predicted, targets = many()
    parts = [
        only(**{name: getattr(ALL, name)}, **({"false_alarm": 3.0} if name == "hinge" else {}))
        for name in ("direction", "significant", "withdrawal", "move", "volatility", "hinge")
    ]
    terms = [cost(params, predicted, targets) for params in parts]
    assert all(term > 0.01 for term in terms)
    assert cost(ALL, predicted, targets) == pytest.approx(sum(terms), rel=1e-5)


def test_unknown_labels_contribute_nothing() -> None:
    predicted, targets = many()
    unknown = torch.zeros_like(targets["direction"], dtype=torch.bool)
    unknown[0, 2:], unknown[2, 1, 1] = True, True
    hidden = dict(targets)
    hidden["direction"] = targets["direction"].masked_fill(unknown, -1)
    hidden["binary"] = targets["binary"].masked_fill(unknown.unsqueeze(3), -1.0)
    hidden["move"] = targets["move"].masked_fill(unknown, math.nan)
    hidden["volatility"] = targets["volatility"].masked_fill(unknown, math.nan)
    predicted.requires_grad_()
    value = Loss(ALL, torch.ones(2), torch.full((2,), SIGNIFICANT))(predicted, **hidden)
    value.backward()
    assert predicted.grad is not None
    assert not predicted.grad[unknown].any()
    assert predicted.grad[~unknown].any(dim=1).all()
    alone = 0.0
    for b, t, h in (~unknown).nonzero().tolist():
        row = {name: column[b : b + 1, t : t + 1, h : h + 1] for name, column in targets.items() if name != "weight"}
        alone += cost(
            ALL, predicted.detach()[b : b + 1, t : t + 1, h : h + 1], {**row, "weight": targets["weight"][b : b + 1]}
        )
    assert value.item() == pytest.approx(alone, rel=1e-5)


def test_where_all_is_unknown_there_is_no_loss_and_no_gradient() -> None:
    predicted, targets = many()
    for name in ("direction", "binary", "move", "volatility"):
        targets[name] = torch.full_like(targets[name], -1 if name in ("direction", "binary") else math.nan)
    predicted.requires_grad_()
    value = Loss(ALL, torch.ones(2), torch.full((2,), SIGNIFICANT))(predicted, **targets)
    value.backward()
    assert predicted.grad is not None
    assert value.item() == 0.0
    assert not predicted.grad.any()
    assert mass(targets["direction"], targets["weight"]).item() == 1.0  # a divisor


def test_a_sequence_counts_with_its_weight() -> None:
    predicted, targets = many()
    plain = targets | {"weight": torch.ones(3)}
    alone = [
        cost(ALL, predicted[b : b + 1], {name: column[b : b + 1] for name, column in plain.items()}) for b in range(3)
    ]
    expected = sum(loss * weight for loss, weight in zip(alone, targets["weight"].tolist(), strict=True))
    assert cost(ALL, predicted, targets) == pytest.approx(expected, rel=1e-5)
    assert cost(ALL, predicted, targets | {"weight": 2 * targets["weight"]}) == pytest.approx(2 * expected, rel=1e-5)


def test_a_horizon_counts_with_its_weight() -> None:
    predicted, targets = many()
    significant = torch.full((2,), SIGNIFICANT)
    first, second = (Loss(ALL, torch.eye(2)[h], significant)(predicted, **targets).item() for h in range(2))
    assert first > 0
    assert second > 0
    # Weights are relative: their mean is 1, so that the loss is a mean over horizons whatever their scale.
    for scale in (1.0, 10.0):
        both = Loss(ALL, scale * torch.tensor([3.0, 1.0]), significant)(predicted, **targets).item()
        assert both == pytest.approx(0.75 * first + 0.25 * second, rel=1e-5)


def test_each_horizon_has_its_own_significant_move() -> None:
    predicted = torch.zeros(1, 1, 2, COLUMNS)
    predicted[..., MOVE] = 3.0
    targets = {
        "direction": torch.ones(1, 1, 2, dtype=torch.int64),
        "binary": torch.zeros(1, 1, 2, 3),
        "move": torch.zeros(1, 1, 2),
        "volatility": torch.zeros(1, 1, 2),
        "weight": torch.ones(1),
    }
    loss = Loss(only(hinge=1, false_alarm=1), torch.ones(2), torch.tensor([2.0, 8.0]))
    assert loss(predicted, **targets).item() == pytest.approx(2.0)


def test_mass_counts_known_rows_with_their_weights() -> None:
    direction = torch.tensor([[[0, 1], [-1, 2]], [[-1, -1], [-1, 0]]])
    assert mass(direction, torch.tensor([2.0, 0.5])).item() == pytest.approx(2.0 * 3 + 0.5 * 1)


def test_columns_do_not_leak_into_each_other() -> None:
    predicted, targets = many()
    other = predicted.clone()
    other[..., VOLATILITY] += 1
    for name in ("direction", "significant", "withdrawal", "move", "hinge"):
        params = only(**{name: 1.0})
        assert cost(params, predicted, targets) == cost(params, other, targets)
    assert cost(only(volatility=1.0), predicted, targets) != cost(only(volatility=1.0), other, targets)
