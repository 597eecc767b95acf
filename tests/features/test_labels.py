import numpy as np
import pytest

from lobsmith.features.labels import DOWN, UNCHANGED, UNKNOWN, UP, direction_labels

MS = 1_000_000


def label(times_ms, mids, segments=None, horizon=100):
    time = np.asarray(times_ms, np.int64) * MS
    segment = np.zeros(len(time), np.int64) if segments is None else np.asarray(segments, np.int64)
    return direction_labels(time, np.asarray(mids, np.int64), segment, (horizon,))[:, 0].tolist()


@pytest.mark.parametrize(
    ("times", "mids", "expected"),
    [
        pytest.param([0, 50, 100, 200], [10, 11, 12, 12], [UP, UP, UNCHANGED, UNKNOWN], id="last row by then"),
        pytest.param([0, 100, 100, 200], [10, 9, 8, 8], [DOWN, DOWN, UNCHANGED, UNKNOWN], id="ties: last counts"),
        pytest.param([0, 99], [10, 9], [UNKNOWN, UNKNOWN], id="session ends before the horizon"),
        pytest.param([0, 100], [10, 10], [UNCHANGED, UNKNOWN], id="session ends at the horizon"),
        pytest.param([0, 101, 250], [10, 11, 11], [UNCHANGED, UNCHANGED, UNKNOWN], id="a later row does not count"),
        pytest.param([], [], [], id="no rows"),
    ],
)
def test_direction(times, mids, expected) -> None:
    assert label(times, mids) == expected


def test_no_label_looks_across_a_gap() -> None:
    times, mids, segments = [0, 60, 120, 180, 240, 300], [1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1]
    assert label(times, mids, segments) == [UP, UNKNOWN, UNKNOWN, UP, UNKNOWN, UNKNOWN]


def test_equals_a_search_row_by_row() -> None:
    generator = np.random.default_rng(5)
    time = np.cumsum(generator.integers(0, 40, 2000)).astype(np.int64) * MS
    mid = np.cumsum(generator.integers(-1, 2, 2000))
    segment = (np.arange(2000) // 700).astype(np.int64)
    labels = direction_labels(time, mid, segment, (100, 1000))
    for h, horizon in enumerate((100, 1000)):
        for row in range(2000):
            inside = np.flatnonzero(segment == segment[row])
            target = time[row] + horizon * MS
            if time[inside[-1]] < target:
                assert labels[row, h] == UNKNOWN
            else:
                ahead = inside[time[inside] <= target][-1]
                assert labels[row, h] == 1 + np.sign(mid[ahead] - mid[row])
