import numba
import numpy as np
import pytest

from lobsmith.features.normaliser import CLIP, normalise, normaliser_dtype, reset
from tests.features.reference import z_scores


def stream(values: np.ndarray, window: int) -> np.ndarray:
    state = np.zeros(1, normaliser_dtype(values.shape[1], window))
    out = np.empty_like(values)
    for row in range(len(values)):
        normalise(state, values[row], out[row])
    return out


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, -1e5])
def test_equals_z_scores_computed_from_scratch(offset: float) -> None:
    values = (np.random.default_rng(1).normal(size=(500, 4)) + offset).astype(np.float32)
    np.testing.assert_allclose(stream(values, 60), z_scores(values, 60, CLIP)[0], atol=2e-5)


def test_a_column_that_stands_still_scores_zero() -> None:
    values = np.full((300, 1), 12345.678, np.float32)
    assert not stream(values, 50).any()


def test_an_outlier_that_left_the_window_leaves_no_trace() -> None:
    values = np.random.default_rng(2).normal(size=(1000, 1)).astype(np.float32)
    values[100] = 1e4
    np.testing.assert_allclose(stream(values, 60)[300:], z_scores(values, 60, CLIP)[0][300:], atol=1e-5)


def test_reset_forgets() -> None:
    values = np.random.default_rng(3).normal(size=(90, 2)).astype(np.float32)
    state = np.zeros(1, normaliser_dtype(2, 40))
    out = np.empty(2, np.float32)
    for row in values:
        normalise(state, row, out)
    reset(state)
    again = np.empty_like(values)
    for row in range(len(values)):
        normalise(state, values[row], again[row])
    np.testing.assert_array_equal(again, stream(values, 40))


@numba.njit
def _run_long(state, count: int, seed: int, tail, out) -> None:
    """Feed `count` values near one million; keep the last ones."""
    np.random.seed(seed)
    value = np.empty(1, np.float32)
    for n in range(count):
        value[0] = np.float32(1e6 + 100.0 * np.random.normal())
        normalise(state, value, out)
        if n >= count - tail.shape[0]:
            tail[n - count + tail.shape[0]] = value[0]


@pytest.mark.slow
def test_stays_exact_over_a_hundred_million_rows() -> None:
    state = np.zeros(1, normaliser_dtype(1, 1000))
    tail, out = np.empty(1000, np.float32), np.empty(1, np.float32)
    _run_long(state, 100_000_000, 7, tail, out)
    exact = tail.astype(np.float64)
    assert out[0] == pytest.approx((exact[-1] - exact.mean()) / exact.std(), abs=1e-6)
