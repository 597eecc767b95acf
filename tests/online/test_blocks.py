import numpy as np
import pytest

from lobsmith.online.blocks import BlockRule, paired_blocks
from lobsmith.params import PairedParams
from tests.online.live_traffic import S, params, times

PAIRED = params().paired
PATIENT = params(paired__measure_s=600).paired
LONG_HORIZONS = params(paired__measure_s=600, paired__horizons_per_block=45).paired
RULE = BlockRule(30.0, 1.0, np.ones(3))


def blocks_of(values, time_ns, segment=None, known=None, paired: PairedParams = PAIRED, rule=None):
    count = len(time_ns)
    return paired_blocks(
        np.asarray(values, np.float64),
        np.ones(count, bool) if known is None else known,
        np.asarray(time_ns, np.int64),
        np.zeros(count, np.int64) if segment is None else np.asarray(segment, np.int64),
        horizon_ms=1000,
        params=paired,
        rule=rule,
    )


def slow_noise(seconds: float, memory_s: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An autoregression of memory tau, ten rows a second."""
    generator, keep = np.random.default_rng(seed), np.exp(-0.1 / memory_s)
    noise = generator.normal(size=round(seconds * 10)) * np.sqrt(1 - keep**2)
    values = np.empty_like(noise)
    last = 0.0
    for i, step in enumerate(noise):
        values[i] = last = keep * last + step
    return values, (np.arange(len(noise)) * S) // 10


def test_means_are_of_complete_blocks_of_one_segment() -> None:
    # Two segments of 75 s: each has two blocks and a piece, which is left out.
    time_ns = np.concatenate([np.arange(0, 75), np.arange(100, 175)]) * S
    segment = np.repeat([4, 9], 75)
    values = np.repeat([1.0, 2.0, 70.0, 3.0, 4.0, 80.0], [30, 30, 15, 30, 30, 15])
    blocks = blocks_of(values, time_ns, segment, rule=RULE)
    assert blocks.differences.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert blocks.watched_s == 148.0


def test_rows_that_are_not_known_do_not_count_and_thin_blocks_are_left_out() -> None:
    time_ns, known = np.arange(0, 121) * S, np.ones(121, bool)
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], [30, 30, 30, 30, 1])
    known[30:45] = False
    values[0], known[0] = np.nan, False
    blocks = blocks_of(values, time_ns, known=known, rule=RULE)
    assert blocks.differences.tolist() == [1.0, 3.0, 4.0]
    assert blocks.left_out == 1


def test_later_rows_leave_earlier_blocks_as_they_are() -> None:
    values, time_ns = slow_noise(1500, 2.0)
    segment = np.repeat([0, 1, 2], [5100, 4900, 5000])
    everything = blocks_of(values, time_ns, segment)
    assert len(everything.differences) >= 10
    for rows in (3500, 5099, 5101, 7777, 12345):
        # The newest rows have no labels yet.
        known = np.arange(rows) < rows - 11
        part = blocks_of(values[:rows], time_ns[:rows], segment[:rows], known=known)
        assert part.differences.tolist() == everything.differences[: len(part.differences)].tolist()
        assert part.rule.length_s == everything.rule.length_s


def test_blocks_are_as_long_as_the_longest_of_three() -> None:
    def length(memory_s: float, paired: PairedParams = PATIENT) -> float:
        return float(
            np.median([blocks_of(*slow_noise(700, memory_s, s), paired=paired).rule.length_s for s in range(5)])
        )

    assert length(0.02) == pytest.approx(30.0)
    assert length(8.0) > 50
    assert length(0.02, LONG_HORIZONS) == pytest.approx(45.0)


def test_a_drift_under_fast_noise_is_seen() -> None:
    slow, time_ns = slow_noise(900, 30.0)
    noise = np.random.default_rng(1).normal(size=len(slow))
    assert blocks_of(0.4 * slow + noise, time_ns).rule.length_s > 50


def test_the_stretch_that_is_measured_is_not_judged() -> None:
    time_ns = times(900, 10.0)
    values = np.where(time_ns - time_ns[0] < 300 * S, 100.0, 1.0) + np.random.default_rng(0).normal(size=len(time_ns))
    blocks = blocks_of(values, time_ns)
    assert np.abs(blocks.differences).max() < 2
    assert blocks.rule.measured.min() > 90


@pytest.mark.parametrize("count", [0, 1, 2])
def test_next_to_nothing(count: int) -> None:
    blocks = blocks_of(np.zeros(count), np.arange(count) * S)
    assert (len(blocks.differences), blocks.rule) == (0, None)
    assert len(blocks_of(np.zeros(count), np.arange(count) * S, known=np.zeros(count, bool)).differences) == 0


def test_clocks_that_stand_still_or_leap() -> None:
    assert len(blocks_of(np.zeros(100), np.zeros(100), rule=RULE).differences) == 0
    leap = np.append(np.arange(100), 10**9) * S
    assert blocks_of(np.ones(101), leap, rule=RULE).differences.tolist() == [1.0, 1.0, 1.0]
