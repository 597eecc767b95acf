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
    whole: Targets = {
        "direction": torch.tensor([[[2]]]),
        "binary": torch.zeros(1, 1, 1, 3),
        "move": torch.zeros(1, 1, 1),
        "volatility": torch.zeros(1, 1, 1),
        "weight": torch.ones(1),
    }
    whole |= {name: torch.as_tensor(value).reshape(whole[name].shape) for name, value in changes.items()}
    if abs(float(whole["move"])) >= SIGNIFICANT:
        whole["binary"][..., 0] = 1.0
    return whole


def outputs(**columns: float) -> Tensor:
    """One row's outputs: zero, but for the named columns c0 to c7."""
    row = torch.zeros(1, 1, 1, COLUMNS)
    for name, value in columns.items():
        row[..., int(name[1:])] = value
    return row


def cost(params: LossParams, said: Tensor, came: Targets) -> float:
    horizons = came["direction"].shape[2]
    return Loss(params, torch.ones(horizons), torch.full((horizons,), SIGNIFICANT))(said, **came).item()


def many(rows: int = 5, horizons: int = 2, sequences: int = 3) -> tuple[Tensor, Targets]:
    generator = torch.Generator().manual_seed(4)
    shape = (sequences, rows, horizons)
    came = {
        "direction": torch.randint(0, 3, shape, generator=generator),
        "binary": torch.randint(0, 2, (*shape, 3), generator=generator).float(),
        "move": 3 * torch.randn(shape, generator=generator),
        "volatility": torch.rand(shape, generator=generator),
        "weight": torch.rand(sequences, generator=generator) + 0.1,
    }
    return torch.randn((*shape, COLUMNS), generator=generator), came


@pytest.mark.parametrize(
    ("params", "said", "came", "expected"),
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
            id="significant: it came",
        ),
        pytest.param(
            only(withdrawal=1),
            outputs(c3=50.0, c4=2.0, c5=1.0),
            a_row(binary=[0.0, 1.0, 0.0]),
            math.log(1 + math.exp(-2)) + math.log(1 + math.e),
            id="withdrawal: the sum of both sides",
        ),
        pytest.param(only(move=1), outputs(c6=0.5), a_row(move=-1.5), 4.0, id="move: squared error"),
        pytest.param(only(move=1), outputs(), a_row(move=-1000.0), 100.0, id="move: a freak is clipped"),
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
def test_terms(params: LossParams, said: Tensor, came: Targets, expected: float) -> None:
    assert cost(params, said, came) == pytest.approx(expected, rel=1e-5, abs=1e-7)


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
    said, came = many()
    parts = [
        only(**{name: getattr(ALL, name)}, **({"false_alarm": 3.0} if name == "hinge" else {}))
        for name in ("direction", "significant", "withdrawal", "move", "volatility", "hinge")
    ]
    terms = [cost(one, said, came) for one in parts]
    assert all(term > 0.01 for term in terms)
    assert cost(ALL, said, came) == pytest.approx(sum(terms), rel=1e-5)


def test_unknown_labels_contribute_nothing() -> None:
    said, came = many()
    unknown = torch.zeros_like(came["direction"], dtype=torch.bool)
    unknown[0, 2:], unknown[2, 1, 1] = True, True
    hidden = dict(came)
    hidden["direction"] = came["direction"].masked_fill(unknown, -1)
    hidden["binary"] = came["binary"].masked_fill(unknown.unsqueeze(3), -1.0)
    hidden["move"] = came["move"].masked_fill(unknown, math.nan)
    hidden["volatility"] = came["volatility"].masked_fill(unknown, math.nan)
    said.requires_grad_()
    value = Loss(ALL, torch.ones(2), torch.full((2,), SIGNIFICANT))(said, **hidden)
    value.backward()
    assert said.grad is not None
    assert not said.grad[unknown].any()
    assert said.grad[~unknown].any(dim=1).all()
    alone = 0.0
    for b, t, h in (~unknown).nonzero().tolist():
        one = {name: column[b : b + 1, t : t + 1, h : h + 1] for name, column in came.items() if name != "weight"}
        alone += cost(ALL, said.detach()[b : b + 1, t : t + 1, h : h + 1], {**one, "weight": came["weight"][b : b + 1]})
    assert value.item() == pytest.approx(alone, rel=1e-5)


def test_where_all_is_unknown_there_is_no_loss_and_no_gradient() -> None:
    said, came = many()
    for name in ("direction", "binary", "move", "volatility"):
        came[name] = torch.full_like(came[name], -1 if name in ("direction", "binary") else math.nan)
    said.requires_grad_()
    value = Loss(ALL, torch.ones(2), torch.full((2,), SIGNIFICANT))(said, **came)
    value.backward()
    assert said.grad is not None
    assert value.item() == 0.0
    assert not said.grad.any()
    assert mass(came["direction"], came["weight"]).item() == 1.0  # a divisor


def test_a_sequence_counts_with_its_weight() -> None:
    said, came = many()
    plain = came | {"weight": torch.ones(3)}
    alone = [cost(ALL, said[b : b + 1], {name: column[b : b + 1] for name, column in plain.items()}) for b in range(3)]
    expected = sum(one * weight for one, weight in zip(alone, came["weight"].tolist(), strict=True))
    assert cost(ALL, said, came) == pytest.approx(expected, rel=1e-5)
    assert cost(ALL, said, came | {"weight": 2 * came["weight"]}) == pytest.approx(2 * expected, rel=1e-5)


def test_a_horizon_counts_with_its_weight() -> None:
    said, came = many()
    significant = torch.full((2,), SIGNIFICANT)
    first, second = (Loss(ALL, torch.eye(2)[h], significant)(said, **came).item() for h in range(2))
    assert first > 0
    assert second > 0
    # Weights are relative: their mean is 1, so that the loss is a mean over horizons whatever their scale.
    for scale in (1.0, 10.0):
        both = Loss(ALL, scale * torch.tensor([3.0, 1.0]), significant)(said, **came).item()
        assert both == pytest.approx(0.75 * first + 0.25 * second, rel=1e-5)


def test_each_horizon_has_its_own_significant_move() -> None:
    said = torch.zeros(1, 1, 2, COLUMNS)
    said[..., MOVE] = 3.0
    came = {
        "direction": torch.ones(1, 1, 2, dtype=torch.int64),
        "binary": torch.zeros(1, 1, 2, 3),
        "move": torch.zeros(1, 1, 2),
        "volatility": torch.zeros(1, 1, 2),
        "weight": torch.ones(1),
    }
    loss = Loss(only(hinge=1, false_alarm=1), torch.ones(2), torch.tensor([2.0, 8.0]))
    assert loss(said, **came).item() == pytest.approx(2.0)


def test_mass_counts_known_rows_with_their_weights() -> None:
    direction = torch.tensor([[[0, 1], [-1, 2]], [[-1, -1], [-1, 0]]])
    assert mass(direction, torch.tensor([2.0, 0.5])).item() == pytest.approx(2.0 * 3 + 0.5 * 1)


def test_columns_do_not_leak_into_each_other() -> None:
    said, came = many()
    other = said.clone()
    other[..., VOLATILITY] += 1
    for name in ("direction", "significant", "withdrawal", "move", "hinge"):
        params = only(**{name: 1.0})
        assert cost(params, said, came) == cost(params, other, came)
    assert cost(only(volatility=1.0), said, came) != cost(only(volatility=1.0), other, came)
