import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.evaluation import bootstrap
from lobsmith.evaluation.bootstrap import (
    apart,
    block_length,
    block_sums,
    blocks,
    bootstrap_intervals,
    bootstrap_sums,
    correlation_time,
    grid_spacing,
    widening,
)

MS = 1_000_000
HORIZON = 100 * MS
STEP_S = 0.025


def autoregressive(rows: int, phi: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=rows)
    values = np.empty(rows)
    values[0] = noise[0] / (1 - phi**2) ** 0.5
    for row in range(1, rows):
        values[row] = phi * values[row - 1] + noise[row]
    return values


def regular(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(rows, dtype=np.int64) * 25 * MS, np.zeros(rows, np.int64)


def mean(drawn: np.ndarray) -> np.ndarray:
    return drawn[:, :1] / drawn[:, 1:]


def with_counts(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def test_the_grid_follows_the_horizon() -> None:
    assert grid_spacing(50 * MS) == 25 * MS
    assert grid_spacing(1000 * MS) == 250 * MS


def test_correlation_time_of_an_autoregressive_series() -> None:
    time, segment = regular(100_000)
    # 0.9^29 is the first power below 0.05.
    measured = correlation_time(autoregressive(100_000, 0.9, 1), time, segment, horizon_ns=HORIZON)
    assert measured == pytest.approx(29 * STEP_S, abs=5 * STEP_S)


def test_correlation_time_of_white_noise_is_one_step() -> None:
    time, segment = regular(50_000)
    noise = np.random.default_rng(2).normal(size=50_000)
    assert correlation_time(noise, time, segment, horizon_ns=HORIZON) == STEP_S


def test_a_longer_memory_has_a_longer_correlation_time() -> None:
    time, segment = regular(50_000)
    times = [
        correlation_time(autoregressive(50_000, phi, 3), time, segment, horizon_ns=HORIZON) for phi in (0.5, 0.8, 0.95)
    ]
    assert times == sorted(times)
    assert times[-1] > 5 * times[0]


def test_rows_that_are_missing_or_doubled_change_little() -> None:
    values, (time, segment) = autoregressive(100_000, 0.9, 4), regular(100_000)
    kept = np.repeat(np.flatnonzero(np.random.default_rng(4).random(100_000) < 0.4), 2)
    measured = correlation_time(values[kept], time[kept], segment[kept], horizon_ns=HORIZON)
    assert measured == pytest.approx(29 * STEP_S, abs=6 * STEP_S)


def test_no_pair_of_rows_lies_across_a_gap() -> None:
    values, (time, _) = autoregressive(4_000, 0.9, 5), regular(4_000)
    segment = (np.arange(4_000) // 1_000).astype(np.int64)
    # Each segment at a level of its own: were pairs to reach across, the length of the gaps would matter.
    values = values + 3.0 * np.array([1, -1, -1, 1])[segment]
    measured = {
        correlation_time(values, time + gap * segment, segment, horizon_ns=HORIZON)
        for gap in (0, 25 * MS, 40_000 * MS, 10**13)
    }
    assert len(measured) == 1


def test_correlation_time_is_at_most_a_tenth_of_the_span() -> None:
    time, segment = regular(4_001)
    walk = np.cumsum(np.random.default_rng(6).normal(size=4_001))
    assert correlation_time(walk, time, segment, horizon_ns=HORIZON) == pytest.approx(10.0, abs=STEP_S)


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_too_few_rows_for_any_correlation(rows: int) -> None:
    time, segment = regular(rows)
    assert 0 <= correlation_time(np.arange(rows, dtype=np.float64), time, segment, horizon_ns=HORIZON) <= STEP_S


def test_a_correlation_that_returns_is_not_over() -> None:
    noise, (time, segment) = np.random.default_rng(7).normal(size=50_004), regular(50_000)
    echo = noise[4:] + 0.8 * noise[:-4]
    assert correlation_time(echo, time, segment, horizon_ns=HORIZON) == pytest.approx(5 * STEP_S)


def test_lags_without_rows_are_passed_over() -> None:
    time, segment = regular(20_000)
    series = autoregressive(20_000, 0.5, 8)
    # Rows every 100 ms fill every fourth cell; 0.5^5 is the first power below 0.05.
    assert correlation_time(series, 4 * time, segment, horizon_ns=HORIZON) == pytest.approx(5 * 4 * STEP_S, abs=0.1)


def test_too_few_pairs_of_rows_prove_nothing() -> None:
    time = np.sort(np.random.default_rng(9).integers(0, 400_000, 200)) * MS
    span = (time[-1] - time[0]) / 1e9
    measured = correlation_time(np.sin(time / 3e10), time, np.zeros(200, np.int64), horizon_ns=HORIZON)
    assert measured == pytest.approx(span / 10, abs=STEP_S)


def test_a_constant_series_has_no_memory() -> None:
    time, segment = regular(1_000)
    assert correlation_time(np.full(1_000, 0.7), time, segment, horizon_ns=HORIZON) == STEP_S


def test_blocks_are_longer_than_horizon_and_correlation_and_minimum() -> None:
    assert block_length(0.3, HORIZON, 0.0) > 0.3
    assert block_length(0.02, HORIZON, 0.0) > 0.1
    assert block_length(0.02, HORIZON, 5.0) == 5.0


def test_blocks_by_hand() -> None:
    time = np.array([0, 900, 1000, 2100, 2400, 5000, 5900, 9000], np.int64) * MS
    segment = np.array([0, 0, 0, 0, 0, 1, 1, 2], np.int64)
    # 2.4 s are two blocks of 1.2 s; the others are shorter than one.
    assert blocks(time, segment, 1.0).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert blocks(time, segment, 2.5).tolist() == [0, 0, 0, 0, 0, 1, 1, 2]


def test_blocks_without_rows_leave_no_hole() -> None:
    time = np.array([0, 10, 9990, 10_000], np.int64) * MS
    assert blocks(time, np.zeros(4, np.int64), 1.0).tolist() == [0, 0, 1, 1]


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.booleans()), min_size=1, max_size=80),
    st.sampled_from([0.05, 0.7, 2.0, 30.0]),
)
def test_blocks_are_long_enough_and_end_with_their_segment(steps: list[tuple[int, bool]], length_s: float) -> None:
    time = np.cumsum([step for step, _ in steps]).astype(np.int64) * MS
    segment = np.cumsum([gap for _, gap in steps]).astype(np.int64)
    block = blocks(time, segment, length_s)
    assert set(np.diff(block, prepend=0)) <= {0, 1}
    for number in np.unique(block):
        assert len(set(segment[block == number])) == 1
    for part in np.unique(segment):
        inside = segment == part
        span = (time[inside][-1] - time[inside][0]) / 1e9
        assert len(set(block[inside])) <= max(1, span / length_s)
        for number in np.unique(block[inside]):
            held = time[block == number]
            assert (held[-1] - held[0]) / 1e9 < 2 * length_s


def test_rows_apart_by_hand() -> None:
    time = np.array([0, 99, 100, 150, 199, 200, 210], np.int64)
    assert apart(time, np.zeros(7, np.int64), 100).tolist() == [0, 2, 5]
    assert apart(time, np.array([0, 0, 0, 1, 1, 1, 1], np.int64), 100).tolist() == [0, 2, 3]
    assert apart(time[:0], time[:0], 100).tolist() == []


def test_block_sums_by_hand() -> None:
    columns = np.array([[1.0, 1], [2, 1], [4, 1]])
    assert block_sums(columns, np.array([0, 0, 1])).tolist() == [[3, 2], [4, 1]]


@pytest.mark.parametrize("run", [1, 2, 3, 7])
def test_a_draw_is_made_of_runs_of_consecutive_blocks(run: int) -> None:
    drawn = bootstrap_sums(np.eye(7), draws=4_000, seed=1, run=run)
    assert (drawn.sum(axis=1).round() == 7).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    alone = [(row[k] > 0.5) and row[k - 1] < 0.5 and row[(k + 1) % 7] < 0.5 for row in drawn for k in range(7)]
    # The last run is cut to the number of blocks: only it can be a single block.
    assert (np.reshape(alone, (-1, 7)).sum(axis=1).max() > 1) == (run == 1)
    if run == 7:
        assert drawn == pytest.approx(np.ones((4_000, 7)))


def test_draws_follow_the_seed() -> None:
    sums = np.random.default_rng(0).normal(size=(30, 2))
    assert (bootstrap_sums(sums, seed=4) == bootstrap_sums(sums, seed=4)).all()
    assert (bootstrap_sums(sums, seed=4) != bootstrap_sums(sums, seed=5)).any()


def test_many_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).normal(size=(30, 2))
    whole = bootstrap_sums(sums, draws=50, seed=4)
    monkeypatch.setattr(bootstrap, "_GATHERED", 100)
    assert bootstrap_sums(sums, draws=50, seed=4) == pytest.approx(whole)


def test_a_mean_is_a_ratio_of_sums() -> None:
    sums = np.array([[10.0, 1], [0.0, 9]])
    (interval,) = bootstrap_intervals(sums, mean, run=1)
    # Half of the draws hold one block twice.
    wider = widening(2, 1)
    assert interval.value == 1.0
    assert (interval.low, interval.high) == pytest.approx((1.0 - wider, 1.0 + 9.0 * wider))


def test_few_runs_widen_an_interval_as_students_t_does() -> None:
    student = pytest.importorskip("scipy.stats").t
    for count, run in ((6, 1), (40, 4), (41, 4), (200, 10), (10_000, 70)):
        runs = count / run
        expected = student.ppf(0.975, runs - 1) / 1.959964 * (runs / (runs - 1)) ** 0.5
        assert widening(count, run) == pytest.approx(expected, rel=1e-3)
    assert widening(10**7, 1) == pytest.approx(1.0, abs=1e-6)
    assert widening(1, 1) == widening(3, 5) == 1.0


def test_an_interval_holds_95_percent_of_the_draws() -> None:
    sums = with_counts(np.random.default_rng(6).gamma(0.5, size=300))
    (interval,) = bootstrap_intervals(sums, mean, draws=1_001, seed=3)
    drawn = np.sort(mean(bootstrap_sums(sums, draws=1_001, seed=3))[:, 0])
    wider = widening(300, 12)
    assert interval.low == pytest.approx(interval.value + wider * (drawn[25] - interval.value))
    assert interval.high == pytest.approx(interval.value + wider * (drawn[975] - interval.value))


def test_independent_rows_have_the_interval_of_the_textbook() -> None:
    values = np.random.default_rng(7).normal(size=5_000)
    (interval,) = bootstrap_intervals(with_counts(values), mean)
    half = 1.96 * values.std() / 5_000**0.5
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.value == pytest.approx(half, rel=0.12)
    assert interval.value - interval.low == pytest.approx(half, rel=0.12)


def test_statistics_of_one_call_are_paired() -> None:
    values = np.random.default_rng(8).normal(size=(500, 1))
    sums = np.concatenate([values + 1.0, values, np.ones((500, 1))], axis=1)
    first, second, difference = bootstrap_intervals(
        sums, lambda drawn: np.stack([drawn[:, 0], drawn[:, 1], drawn[:, 0] - drawn[:, 1]], axis=1) / drawn[:, 2:]
    )
    assert first.high - first.low == pytest.approx(second.high - second.low)
    assert first.high - first.low > 0.1
    assert (difference.value, difference.low, difference.high) == pytest.approx((1.0, 1.0, 1.0))


def test_intervals_of_dependent_rows_cover_the_truth() -> None:
    rows, times, replications, fewer = 4_000, regular(4_000), 200, 60
    covered = {"blocks": 0, "rows": 0}
    for seed in range(replications):
        values = autoregressive(rows, 0.9, 1_000 + seed)
        length = block_length(correlation_time(values, *times, horizon_ns=HORIZON), HORIZON, 0.0)
        by_block = block_sums(with_counts(values), blocks(*times, length))
        assert 20 < len(by_block) < 400
        for name, sums, run in (("blocks", by_block, None), ("rows", with_counts(values), 1)):
            if name == "rows" and seed >= fewer:
                continue
            (interval,) = bootstrap_intervals(sums, mean, draws=400, seed=seed, run=run)
            covered[name] += interval.low <= 0.0 <= interval.high
    assert 0.88 <= covered["blocks"] / replications <= 0.99
    assert covered["rows"] / fewer < 0.6


def test_one_block_gives_an_interval_of_no_width() -> None:
    (interval,) = bootstrap_intervals(np.array([[3.0, 2.0]]), mean)
    assert (interval.value, interval.low, interval.high) == (1.5, 1.5, 1.5)


def test_consecutive_blocks_are_drawn_together_the_more_there_are() -> None:
    neighbours = [
        float(np.mean([(a > 0.5) == (b > 0.5) for row in drawn for a, b in itertools.pairwise(row)]))
        for drawn in (bootstrap_sums(np.eye(count), draws=300, seed=2) for count in (5, 64, 343))
    ]
    assert neighbours == sorted(neighbours)
    assert neighbours[-1] > neighbours[0] + 0.2
