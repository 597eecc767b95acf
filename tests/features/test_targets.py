"""The targets against a search row by row, and against rows they must not depend on."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.features.definitions import COUNT, LEVELS, NAMES
from lobsmith.features.labels import UNKNOWN, Targets, direction_labels, targets
from lobsmith.params import LabelParams

MS = 1_000_000
HORIZONS = (3, 10, 40)
# Odd enough that no move and no depth of whole numbers lies on them.
PARAMS = LabelParams(horizons_ms=HORIZONS, significant_bps=10.371, withdrawal=0.2137)
SIZES = {side: [NAMES.index(f"{side}_size_{level}") for level in range(1, LEVELS + 1)] for side in ("bid", "ask")}


class Market(NamedTuple):
    time: np.ndarray
    mid: np.ndarray
    segment: np.ndarray
    raw: np.ndarray


def market(steps_ms: list[int], mids: list[int], breaks: list[bool], seed: int) -> Market:
    """Rows at given times; a segment ends before each row that has a break; sizes at random, often none."""
    count = len(steps_ms)
    random = np.random.default_rng(seed)
    lots = random.integers(0, 40, (count, 2 * LEVELS)) * (random.random((count, 2 * LEVELS)) < 0.3)
    raw = random.normal(size=(count, COUNT)).astype(np.float32)
    raw[:, SIZES["bid"] + SIZES["ask"]] = np.log1p(lots)
    return Market(
        np.cumsum(steps_ms).astype(np.int64) * MS,
        np.asarray(mids, np.int64),
        np.cumsum(breaks).astype(np.int64),
        raw,
    )


@st.composite
def markets(draw: st.DrawFn) -> Market:
    count = draw(st.integers(1, 60))
    steps = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    mids = draw(st.lists(st.integers(1990, 2010), min_size=count, max_size=count))
    breaks = draw(st.lists(st.sampled_from([False] * 7 + [True]), min_size=count, max_size=count))
    return market(steps, mids, breaks, draw(st.integers(0, 2**31)))


def computed(given_market: Market) -> Targets:
    return targets(given_market.time, given_market.mid, given_market.segment, given_market.raw, PARAMS)


def rows_within(sample: Market, row: int, horizon_ms: int) -> list[int] | None:
    """The rows of the same segment from this one to its horizon; None where the segment ends before."""
    same = [other for other in range(len(sample.time)) if sample.segment[other] == sample.segment[row]]
    until = sample.time[row] + horizon_ms * MS
    if sample.time[same[-1]] < until:
        return None
    return [other for other in same if other >= row and sample.time[other] <= until]


def depth(sample: Market, row: int, side: str) -> float:
    return sum(math.expm1(sample.raw[row, column]) for column in SIZES[side])


@settings(max_examples=150, deadline=None)
@given(sample=markets())
def test_they_equal_a_search_row_by_row(sample: Market) -> None:
    got = computed(sample)
    for row in range(len(sample.time)):
        for h, horizon in enumerate(HORIZONS):
            within = rows_within(sample, row, horizon)
            if within is None:
                assert got.significant[row, h] == UNKNOWN
                assert (got.withdrawal[row, h] == UNKNOWN).all()
                assert np.isnan(got.move[row, h])
                assert np.isnan(got.volatility[row, h])
                continue
            levels = [math.log(sample.mid[index]) for index in within]
            move = 1e4 * (levels[-1] - levels[0])
            walked = sum((b - a) ** 2 for a, b in itertools.pairwise(levels))
            assert got.move[row, h] == pytest.approx(move, rel=1e-5, abs=1e-5)
            assert got.volatility[row, h] == pytest.approx(1e4 * math.sqrt(walked), rel=1e-5, abs=1e-3)
            assert got.significant[row, h] == (abs(move) >= PARAMS.significant_bps)
            for s, side in enumerate(("bid", "ask")):
                least = min(depth(sample, index, side) for index in within)
                assert got.withdrawal[row, h, s] == (least <= (1 - PARAMS.withdrawal) * depth(sample, row, side))


@settings(max_examples=100, deadline=None)
@given(sample=markets())
def test_they_are_unknown_exactly_where_the_direction_is(sample: Market) -> None:
    unknown = direction_labels(sample.time, sample.mid, sample.segment, HORIZONS) == UNKNOWN
    got = computed(sample)
    np.testing.assert_array_equal(got.significant == UNKNOWN, unknown)
    np.testing.assert_array_equal((got.withdrawal == UNKNOWN).all(axis=2), unknown)
    np.testing.assert_array_equal((got.withdrawal == UNKNOWN).any(axis=2), unknown)
    np.testing.assert_array_equal(np.isnan(got.move), unknown)
    np.testing.assert_array_equal(np.isnan(got.volatility), unknown)


@settings(max_examples=100, deadline=None)
@given(sample=markets(), seed=st.integers(0, 2**31))
def test_nothing_looks_across_a_segment(sample: Market, seed: int) -> None:
    """F28: whatever the other segments hold, those of one keep their targets."""
    random = np.random.default_rng(seed)
    chosen = sample.segment == random.choice(sample.segment)
    other = sample._replace(
        mid=np.where(chosen, sample.mid, random.integers(1000, 4000, len(sample.mid))),
        raw=np.where(chosen[:, None], sample.raw, random.random(sample.raw.shape).astype(np.float32)),
    )
    before, after = computed(sample), computed(other)
    np.testing.assert_array_equal(after.significant[chosen], before.significant[chosen])
    np.testing.assert_array_equal(after.withdrawal[chosen], before.withdrawal[chosen])
    np.testing.assert_array_equal(after.move[chosen], before.move[chosen])
    np.testing.assert_allclose(after.volatility[chosen], before.volatility[chosen], rtol=1e-4, atol=1e-2)


def test_a_jump_at_a_gap_is_no_move() -> None:
    mids = [2000, 2000, 2000, 3000, 3000, 3000]
    sample = market([2] * 6, mids, [False, False, False, True, False, False], seed=1)
    got = computed(sample)
    assert got.significant[:, 0].tolist() == [0, UNKNOWN, UNKNOWN, 0, UNKNOWN, UNKNOWN]
    np.testing.assert_array_equal(got.volatility[[0, 3], 0], 0.0)
    joined = computed(sample._replace(segment=np.zeros(6, np.int64)))
    assert joined.significant[:, 0].tolist() == [0, 0, 1, 0, UNKNOWN, UNKNOWN]


def test_depth_that_goes_and_comes_back_was_withdrawn() -> None:
    sample = market([1] * 8, [2000] * 8, [False] * 8, seed=1)
    for side, lots in (("bid", [10, 9, 7, 10, 10, 10, 10, 10]), ("ask", [10, 9, 8, 10, 10, 10, 10, 10])):
        sample.raw[:, SIZES[side]] = np.log1p(np.asarray(lots, np.float32))[:, None]
    got = computed(sample)
    # 30 % of the bids' depth goes, 20 % of the asks': less than the threshold of 21.37 %.
    assert got.withdrawal[:, 0, 0].tolist() == [1, 1, 0, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN]
    assert got.withdrawal[:, 0, 1].tolist() == [0, 0, 0, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN]


def test_a_slice_is_the_rows() -> None:
    sample = market([1] * 20, list(range(1990, 2010)), [False] * 20, seed=2)
    got = computed(sample)
    for name, column in vars(got.slice(3, 9)).items():
        np.testing.assert_array_equal(column, getattr(got, name)[3:9])
