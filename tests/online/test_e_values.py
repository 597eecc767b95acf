import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.online.e_values import STAKES, log_capital, predictable_bounds, weigh

NOTHING = np.empty(0)


def test_the_capital_of_a_scripted_game() -> None:
    bets = [1.0, -0.5, 0.0]
    expected = [
        math.log(np.mean([np.prod([1 + stake * x for x in bets[: k + 1]]) for stake in STAKES])) for k in range(3)
    ]
    assert log_capital(bets) == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_no_fair_game_is_expected_to_win(sizes: list[float]) -> None:
    # All games of fair coins with these stakes: the mean capital is that of the beginning, exactly.
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(sizes))).reshape(len(sizes), -1).T
    assert np.exp(log_capital(signs * sizes)[:, -1]).mean() == pytest.approx(1.0)


@pytest.mark.parametrize("law", ["gaussian", "heavy", "drifting scale"])
def test_equal_versions_differ_no_more_often_than_alpha(law: str) -> None:
    runs, blocks, alpha = 2000, 300, 0.05
    generator = np.random.default_rng(3)
    draws = generator.normal(size=(runs, blocks + 20))
    if law == "heavy":
        draws = generator.standard_t(2.5, size=draws.shape)
    if law == "drifting scale":
        draws *= np.exp(np.cumsum(0.1 * generator.normal(size=draws.shape), axis=1))
    # A bound by the mean size of all before is as predictable as that by the median, and is had at once for all runs.
    bounds = 6 * np.cumsum(np.abs(draws), axis=1)[:, 19:-1] / np.arange(20, blocks + 20)
    capital = log_capital(np.clip(draws[:, 20:] / bounds, -1, 1))
    ever = (capital.max(axis=1) >= -math.log(alpha)).mean()
    assert ever <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_bounds_depend_on_earlier_blocks_only() -> None:
    generator = np.random.default_rng(4)
    measured, differences = generator.normal(size=10), generator.normal(size=30)
    changed = differences.copy()
    changed[17:] *= 1000
    before, after = (predictable_bounds(series, measured, 6.0) for series in (differences, changed))
    assert np.array_equal(before[:18], after[:18])
    assert not np.array_equal(before[18:], after[18:])


def test_the_interval_leaves_out_zero_just_where_the_evidence_suffices() -> None:
    generator = np.random.default_rng(5)
    outcomes = set()
    for effect in (-0.5, -0.1, 0.0, 0.1, 0.5):
        differences = effect + generator.normal(size=120)
        evidence = weigh(differences, np.full(120, 6.0), 0.05)
        assert evidence.low is not None
        assert evidence.high is not None
        assert (evidence.low > 0) == (evidence.better >= 20)
        assert (evidence.high < 0) == (evidence.worse >= 20)
        assert evidence.low < evidence.location < evidence.high
        outcomes.add((evidence.better >= 20, evidence.worse >= 20))
    assert outcomes == {(True, False), (False, False), (False, True)}


def test_the_interval_holds_the_mean_at_all_times_at_once() -> None:
    runs, held = 40, 0
    for seed in range(runs):
        differences = 0.3 + np.random.default_rng(seed).normal(size=80)
        bounds = np.full(80, 6.0)
        checks = [weigh(differences[:k], bounds[:k], 0.05) for k in (10, 20, 40, 80)]
        held += all((evidence.low or -9) <= 0.3 <= (evidence.high or 9) for evidence in checks)
    assert held / runs >= 0.9 - 3 * math.sqrt(0.09 / runs)


def test_one_wild_block_decides_nothing() -> None:
    differences = np.random.default_rng(6).normal(size=60)
    bounds = predictable_bounds(differences, differences[:20], 6.0)
    calm = weigh(differences, bounds, 0.05)
    differences[40] = 1e6
    wild = weigh(differences, bounds, 0.05)
    assert wild.better <= 2 * calm.better
    assert wild.mean > 1e4


def test_nothing_to_bet_on() -> None:
    assert weigh(NOTHING, NOTHING, 0.05).better == 1.0
    same = np.zeros(50)
    evidence = weigh(same, predictable_bounds(same, same, 6.0), 0.05)
    assert (evidence.better, evidence.worse, evidence.mean, evidence.location) == (1.0, 1.0, 0.0, None)


def test_a_difference_that_never_varies_is_evidence() -> None:
    steady = np.full(20, 1e-3)
    evidence = weigh(steady, predictable_bounds(steady, steady[:5], 6.0), 0.05)
    assert evidence.better > 1e3
    assert evidence.worse < 1
