"""Win rates by confidence, and what conservative mode acts on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lobsmith.monitoring.mode.hit_rates import ActTable, HitRates, hit_rates
from lobsmith.online.answers import Answers
from lobsmith.params import load_params
from tests.small import params_file

PARAMS = replace(load_params(params_file()).modes, win_rate=0.8, minimum_count=10)
MS = 1_000_000
HORIZONS = (100, 1000)


def answers(probabilities, labels, time_ms, horizons_ms=HORIZONS) -> Answers:
    rows = len(time_ms)
    return Answers(
        model="lob",
        version=3,
        time_ns=np.asarray(time_ms, np.int64) * MS,
        segment=np.zeros(rows, np.int64),
        labels=np.asarray(labels, np.int8).reshape(rows, len(horizons_ms)),
        probabilities=np.asarray(probabilities, np.float32).reshape(rows, len(horizons_ms), 3),
        latency_ns=np.zeros(rows, np.int64),
        reasons={},
        horizons_ms=horizons_ms,
    )


def drawn(rows: int, seed: int, step_ms: int = 1000) -> Answers:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([0.5, 0.5, 0.5], (rows, 2))
    p[generator.random((rows, 2)) < 0.1] = np.nan
    return answers(p, generator.integers(-1, 3, (rows, 2)), np.arange(rows) * step_ms)


def test_only_directions_with_a_known_outcome_count() -> None:
    probabilities = [
        [0.9, 0, 0.1],
        [0.1, 0.8, 0.1],
        [0, 0.1, 0.9],
        [0.45, 0.1, 0.45],
        [np.nan] * 3,
        [0.1, 0, 0.9],
        [0.4, 0.3, 0.3],
    ]
    rates = hit_rates(answers(probabilities, [0, 1, 0, 0, 0, -1, 2], np.arange(7) * 100, (100,)), 4)
    assert rates.counts == ((1, 0, 0, 2),)
    assert rates.wins == ((0, 0, 0, 1),)
    assert rates.edges == pytest.approx((1 / 3, 1 / 2, 2 / 3, 5 / 6, 1))


def test_rows_that_share_an_outcome_count_once_in_each_bucket() -> None:
    probabilities = [[0.9, 0, 0.1], [0.95, 0, 0.05], [0.4, 0.3, 0.3], [0.9, 0, 0.1]]
    rates = hit_rates(answers(probabilities, [2, 0, 0, 0], [1000, 1400, 1999, 2000], (1000,)), 2)
    assert (rates.counts, rates.wins) == (((1, 2),), ((1, 1),))


def test_sessions_of_two_clients_with_the_same_rows_count_once() -> None:
    once = drawn(500, 0)
    twice = answers(
        np.concatenate([once.probabilities] * 2), np.concatenate([once.labels] * 2), np.tile(once.time_ns, 2) // MS
    )
    assert hit_rates(twice, 20) == hit_rates(once, 20)


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_the_table_knows_the_bucket_that_an_answer_was_counted_in(seed: int, buckets: int) -> None:
    counted = drawn(60, seed)
    for row in range(60):
        answer = answers(counted.probabilities[row], np.zeros(2), [0])
        counts = hit_rates(answer, buckets).counts
        table = ActTable([[count > 0 for count in horizon] for horizon in counts])
        assert table.actionable(answer.probabilities[0]) == tuple(any(horizon) for horizon in counts)


def test_enough_wins_of_enough_answers_are_acted_on() -> None:
    edges = (1 / 3, 2 / 3, 1.0)
    rates = HitRates(version=3, horizons_ms=HORIZONS, edges=edges, counts=((9, 10), (10, 100)), wins=((9, 9), (8, 81)))
    table = ActTable.of(rates, 3, HORIZONS, PARAMS)

    def act(*likeliest: float) -> tuple[bool, ...]:
        return table.actionable(np.array([[0, 1 - up, up] for up in likeliest], np.float32))

    assert act(0.9, 0.9) == (True, True)
    # Too few; and as often as the threshold is not more often.
    assert act(0.6, 0.6) == (False, False)
    assert table.actionable(np.array([[0.1, 0.9, 0], [np.nan] * 3], np.float32)) == (False, False)
    assert table.actionable(np.array([[np.inf, 0, 0], [1, 0, 0]], np.float32)) == (True, True)
    for none in (
        ActTable.of(None, 3, HORIZONS, PARAMS),
        ActTable.of(rates, 4, HORIZONS, PARAMS),
        ActTable.of(rates, 3, (100, 500), PARAMS),
    ):
        assert none.actionable(np.array([[0, 0, 1], [0, 0, 1]], np.float32)) == (False, False)


def test_two_instruments_add_up_and_other_versions_do_not() -> None:
    first, second = (hit_rates(drawn(300, seed), 5) for seed in (1, 2))
    both = first.plus(second)
    assert np.array_equal(np.array(both.counts), np.array(first.counts) + np.array(second.counts))
    assert np.array_equal(np.array(both.wins), np.array(first.wins) + np.array(second.wins))
    with pytest.raises(ValueError, match="other versions"):
        first.plus(replace(second, version=4))


@pytest.mark.parametrize("counts", [(), ((1,),), ((1, 2), (1,)), ((1, 2, 3), (1, 2, 3))])
def test_a_table_of_another_shape_is_refused(counts) -> None:
    with pytest.raises(ValueError, match="2 horizons of 2 buckets"):
        HitRates(version=1, horizons_ms=HORIZONS, edges=(0.3, 0.6, 1.0), counts=counts, wins=((0, 0), (0, 0)))


def test_no_answers_make_empty_tables() -> None:
    rates = hit_rates(drawn(0, 0), 3)
    assert rates.counts == rates.wins == ((0, 0, 0),) * 2
