import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.compress.quantise.ranges import WARM_UP, calibration_streams
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import UNCHANGED, UNKNOWN, Targets
from lobsmith.features.stream import Rows
from lobsmith.market.instrument import Instrument

INSTRUMENT = Instrument(venue="venue", symbol="symbol", tick_size=0.1, lot_size=0.001)


def dataset_of(
    count: int,
    *,
    segment_rows: int,
    significant: list[int],
    moving: list[int],
    horizons: tuple[int, ...] = (100, 10_000),
) -> Dataset:
    """Each row's first feature is its own number; what matters happens at the first horizon only."""
    numbers = np.arange(count)
    features = np.repeat(numbers[:, None], 3, axis=1).astype(np.float32)
    flags = np.zeros((count, len(horizons)), np.int8)
    flags[significant, 0] = 1
    labels = np.full((count, len(horizons)), UNCHANGED, np.int8)
    labels[moving, 0] = 2
    unknown = np.full((count, len(horizons)), np.nan, np.float32)
    return Dataset(
        INSTRUMENT,
        Rows(features, features, numbers, numbers, numbers // segment_rows, np.ones(count, bool)),
        labels,
        Targets(flags, np.zeros((count, len(horizons), 2), np.int8), unknown, unknown),
        horizons,
        "0" * 64,
        "1" * 64,
    )


def numbers_of(streams: list[np.ndarray]) -> list[np.ndarray]:
    return [stream[:, 0].astype(int) for stream in streams]


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(0, 3000),
    segment_rows=st.integers(1, 1500),
    wanted=st.integers(64, 2000),
    hole=st.tuples(st.integers(0, 3000), st.integers(0, 500)),
    seed=st.integers(0, 9),
)
def test_streams_are_gap_free_training_rows_and_measure_none_twice(
    count: int, segment_rows: int, wanted: int, hole: tuple[int, int], seed: int
) -> None:
    dataset = dataset_of(count, segment_rows=segment_rows, significant=list(range(0, count, 300)), moving=[])
    rows = np.setdiff1d(np.arange(count), np.arange(hole[0], hole[0] + hole[1]))
    streams = numbers_of(calibration_streams(dataset, rows, wanted, seed))
    for stream in streams:
        assert (np.diff(stream) == 1).all()
        assert np.isin(stream, rows).all()
        assert len(np.unique(dataset.rows.segment[stream])) == 1
    assert bool(streams) == bool(len(rows))
    if any(len(stream) > WARM_UP for stream in streams):
        measured = np.concatenate([stream[WARM_UP:] for stream in streams])
        assert len(np.unique(measured)) == len(measured) <= wanted + 128


@pytest.mark.parametrize("kind", ["significant", "moving"])
def test_half_of_the_streams_lie_around_moves_that_matter(kind: str) -> None:
    at = list(range(10_000, 12_000, 100))
    dataset = dataset_of(100_000, segment_rows=100_000, **{"significant": [], "moving": [], kind: at})
    streams = numbers_of(calibration_streams(dataset, np.arange(100_000), 1280, 3))
    assert len(streams) == 10
    assert sum(np.isin(stream[WARM_UP:], at).any() for stream in streams) >= 5
    assert sum(not np.isin(stream[WARM_UP:], at).any() for stream in streams) >= 3


def test_significant_moves_come_before_mere_changes() -> None:
    significant, moving = list(range(1000, 2000, 100)), list(range(0, 100_000, 50))
    dataset = dataset_of(100_000, segment_rows=100_000, significant=significant, moving=moving)
    streams = numbers_of(calibration_streams(dataset, np.arange(100_000), 1280, 3))
    assert sum(np.isin(stream[WARM_UP:], significant).any() for stream in streams) >= 5


def test_moves_beyond_a_second_do_not_count() -> None:
    dataset = dataset_of(
        50_000, segment_rows=50_000, significant=list(range(1000, 1500)), moving=[], horizons=(10_000, 100)
    )
    streams = numbers_of(calibration_streams(dataset, np.arange(50_000), 1280, 3))
    assert sum(np.isin(stream, np.arange(1000, 1500)).any() for stream in streams) < 4


def test_the_draw_depends_on_the_seed_alone() -> None:
    dataset = dataset_of(20_000, segment_rows=7000, significant=list(range(0, 20_000, 500)), moving=[])
    first, again, other = (
        numbers_of(calibration_streams(dataset, np.arange(20_000), 1000, seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_unknown_labels_are_no_moves() -> None:
    dataset = dataset_of(20_000, segment_rows=20_000, significant=[], moving=list(range(0, 20_000, 1000)))
    dataset.labels[15_000:] = UNKNOWN
    dataset.targets.significant[15_000:] = UNKNOWN
    streams = numbers_of(calibration_streams(dataset, np.arange(20_000), 2560, 3))
    assert sum((stream[WARM_UP:] % 1000 == 0).any() and stream[-1] < 15_000 for stream in streams) >= 10
