import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.drift.reference import thinned
from lobsmith.errors import RequestError
from lobsmith.trading.guard.drift_score import RawBlock

MS = 1_000_000


def row(value: float) -> np.ndarray:
    return np.full(2, value, np.float32)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=300))
def test_a_block_holds_the_rows_that_drift_checks_use(gaps_ms: list[int]) -> None:
    times = np.cumsum(gaps_ms) * MS + 1_772_000_000_000_000_000
    block = RawBlock(2, 8, every_ms=100, shortest=3)
    for index, time_ns in enumerate(times):
        assert block.append(row(index), int(time_ns))
    kept = thinned(times, 100)
    count, rows = block.last()
    assert count == len(kept)
    if count < 3:
        assert rows is None
    else:
        np.testing.assert_array_equal(rows[:, 0], kept[-8:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_reported_and_left_out(value: float) -> None:
    block = RawBlock(2, 2, every_ms=100, shortest=2)
    assert not block.append(np.array([1, value], np.float32), 0)
    assert block.append(row(1), 50 * MS)
    assert block.append(row(2), 100 * MS)
    count, rows = block.last()
    assert count == 2
    np.testing.assert_array_equal(rows, [row(1), row(2)])


def test_a_clock_that_is_set_back_stops_no_rows() -> None:
    block = RawBlock(2, 2, every_ms=100, shortest=2)
    for time_ms in (1000, 0, 100):
        block.append(row(time_ms), time_ms * MS)
    assert block.count == 3


@pytest.mark.parametrize("raw", [np.zeros(3, np.float32), np.zeros(2), np.zeros((1, 2), np.float32)])
def test_a_row_of_another_kind_is_refused(raw: np.ndarray) -> None:
    with pytest.raises(RequestError, match="raw: expected float32"):
        RawBlock(2, 2, every_ms=100, shortest=2).append(raw, 0)
