import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from lobsmith.features.dataset import build_dataset
from lobsmith.features.labels import UNKNOWN, direction_labels
from lobsmith.market.simulator import simulate
from lobsmith.monitoring.log.outcomes import OutcomeJoin
from lobsmith.params import load_params
from tests.small import params_file

MS = 1_000_000


@pytest.fixture(scope="module")
def dataset():
    params = load_params(params_file())
    return build_dataset(simulate(seed=5, seconds=60), params)


def joined(horizons, cuts, time, mid, segment):
    """Return the row numbers, their labels and the most rows that were held, when rows are pushed in pieces."""
    join = OutcomeJoin(horizons)
    parts, held = [], 0
    for piece in np.split(np.arange(len(time)), cuts):
        parts.append(join.push(1000 + piece, time[piece], mid[piece], segment[piece]))
        held = max(held, len(join))
    parts.append(join.finish())
    assert len(join) == 0
    row, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, labels, held


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_outcomes_are_the_labels_of_training(dataset, data) -> None:
    rows = dataset.rows
    count = len(rows.time)
    gaps = np.sort(data.draw(st.lists(st.integers(1, count - 1), max_size=4)))
    segment = rows.segment * 10 + np.searchsorted(gaps, np.arange(count), side="right")
    size = data.draw(st.sampled_from([20, 300, 5000]))
    cuts = np.cumsum(np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, size, 2 * count // size + 1))
    row, labels, _ = joined(dataset.horizons_ms, cuts[cuts < count], rows.time, rows.mid, segment)
    assert_array_equal(row, 1000 + np.arange(count))
    assert_array_equal(labels, direction_labels(rows.time, rows.mid, segment, dataset.horizons_ms))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 49, 50, 51, 100]), st.integers(-1, 1), st.sampled_from([0, 0, 0, 1])),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.integers(0, 30)),
)
def test_equal_times_and_exact_horizons(steps, cuts) -> None:
    time, mid, segment = np.cumsum(np.array(steps, np.int64), axis=0).T
    row, labels, _ = joined((50, 100), sorted(cuts), time * MS, mid, segment)
    assert_array_equal(row, 1000 + np.arange(len(steps)))
    assert_array_equal(labels, direction_labels(time * MS, mid, segment, (50, 100)))


def test_holds_no_more_than_the_longest_horizon() -> None:
    time = np.arange(5000) * 10 * MS
    *_, held = joined((100, 1000), np.arange(0, 5000, 7), time, time % 3, np.zeros(5000, np.int64))
    assert held <= 1000 // 10 + 1


def test_an_outcome_waits_until_no_row_can_change_it() -> None:
    join = OutcomeJoin((100,))
    assert len(join.push([0, 1], [0, 100 * MS], [10, 11], [0, 0]).row) == 0
    assert len(join.push([2], [100 * MS], [9], [0]).row) == 0
    row, labels = join.push([3], [101 * MS], [12], [0])
    assert (row.tolist(), labels.tolist()) == ([0], [[0]])
    row, labels = join.push([4], [500 * MS], [12], [1])
    assert (row.tolist(), labels.tolist()) == ([1, 2, 3], [[UNKNOWN]] * 3)
