import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from lobsmith.drift.shifts import feature_shifts

COLUMN = st.integers(1, 60).flatmap(lambda n: arrays(np.float32, (n, 1), elements=st.integers(-3, 3).map(float)))


@settings(max_examples=50, deadline=None)
@given(COLUMN, COLUMN)
def test_histograms_hold_all_rows_in_rising_bins(old: np.ndarray, new: np.ndarray) -> None:
    (shift,) = feature_shifts(["x"], old, new)
    assert len(shift.edges) == len(shift.reference) + 1 == len(shift.recent) + 1
    assert (np.diff(shift.edges) > 0).all()
    assert sum(shift.reference) == pytest.approx(1)
    assert sum(shift.recent) == pytest.approx(1)
    assert shift.psi >= 0
    assert np.isfinite([shift.psi, shift.wasserstein]).all()


@settings(max_examples=50, deadline=None)
@given(COLUMN)
def test_what_has_not_changed_has_not_moved(rows: np.ndarray) -> None:
    (shift,) = feature_shifts(["x"], rows, rows)
    assert (shift.psi, shift.wasserstein) == (0.0, 0.0)


def test_the_distance_is_that_of_scipy_in_deviations_of_the_reference() -> None:
    generator = np.random.default_rng(0)
    old, new = generator.gamma(2.0, size=(5000, 1)), 3 * generator.normal(size=(3000, 1))
    (shift,) = feature_shifts(["x"], old, new)
    assert shift.wasserstein == pytest.approx(wasserstein_distance(old[:, 0], new[:, 0]) / old.std(), rel=0.01)


def test_a_constant_that_changes_has_moved() -> None:
    (shift,) = feature_shifts(["x"], np.full((100, 1), 7.0), np.full((100, 1), 8.0))
    assert shift.psi > 1
    assert shift.wasserstein == pytest.approx(2.0)


def test_a_value_that_many_rows_share_has_a_bin_of_its_own() -> None:
    old = np.concatenate([np.zeros(500), np.random.default_rng(0).uniform(0.5, 1, 500)])[:, None]
    (shift,) = feature_shifts(["x"], old, np.where(old == 0, 0.25, old))
    assert max(shift.reference) == 0.5
    assert shift.recent[shift.reference.index(0.5)] == 0
    assert shift.psi > 1
