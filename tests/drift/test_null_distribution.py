from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from lobsmith.drift.null_distribution import (
    DriftedWindow,
    MeasuredPair,
    PastStore,
    effective_count,
    p_value,
    past_key,
    shift_test,
)
from lobsmith.drift.reference import RawRows, Scaling
from lobsmith.drift.windows import Lengths, past_pairs, rounded_gap
from tests.drift.drift_rows import S, drift_params, market

LENGTHS = Lengths(1000 * S, 250 * S, 20)


def measured(at: int) -> MeasuredPair:
    return MeasuredPair(key="k", gap=0, from_ns=at, auc=0.5 + at / 1000, distances=(0.25, 0.5))


def test_a_torn_file_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "past.jsonl"
    PastStore(path).add([measured(at) for at in range(5)])
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert PastStore(path).measured("k", 0) == {at: measured(at) for at in range(4)}
    path.write_bytes(b"\xff\x00 no json\n" + content + b'{"type": "pair"}\n')
    assert PastStore(path).measured("k", 0) == {at: measured(at) for at in range(5)}


def test_a_store_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    store = PastStore(tmp_path / "past.jsonl")
    store.add(measured(at) for at in range(5000))
    assert len(store.measured("k", 0)) == 4000
    assert min(PastStore(tmp_path / "past.jsonl").measured("k", 0)) == 1000


def test_drift_marks_all_windows_that_it_touches(tmp_path: Path) -> None:
    store = PastStore(tmp_path / "past.jsonl")
    store.add([DriftedWindow(from_ns=100, until_ns=200)])
    assert [store.drifted(at, at + 50) for at in (49, 50, 51, 150, 199, 200)] == [False, False, True, True, True, False]


def test_what_is_measured_under_other_constants_does_not_count() -> None:
    scaling = Scaling(np.zeros(2, np.float32), np.ones(2, np.float32))
    key = past_key(scaling, drift_params())
    assert key == past_key(scaling, drift_params(minimum_rows=30))
    assert key != past_key(scaling._replace(scale=np.float32([1, 2])), drift_params())
    assert key != past_key(scaling, drift_params(recent_s=251.0))


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e6))
def test_gaps_are_rounded_up_by_less_than_half(seconds: float) -> None:
    windows = seconds / 250
    rounded = rounded_gap(round(seconds * S), LENGTHS)
    assert windows - 0.11 <= rounded <= max(windows + 1, 1.5 * windows + 0.5)
    assert rounded_gap(rounded * LENGTHS.recent, LENGTHS) == rounded


def test_past_pairs_lie_on_a_grid_before_the_present_and_none_spans_a_gap() -> None:
    rows = market(5000)
    kept = (rows.time_ns < 2500 * S) | (rows.time_ns >= 2600 * S)
    broken = RawRows(rows.time_ns[kept], (rows.time_ns[kept] >= 2600 * S).astype(np.int64), rows.raw[kept])
    pairs = list(past_pairs(broken, LENGTHS, 1, 4600 * S))
    assert [pair.from_ns // S for pair in pairs] == [at for at in range(4250, 1000, -250) if at != 2500]
    for pair in pairs:
        assert int(pair.reference.time_ns[-1]) < pair.from_ns - 250 * S
        assert int(pair.recent.time_ns[-1]) < 4600 * S


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3))
def test_a_p_value_is_no_smaller_than_the_rank_and_goes_on_beyond_it(seed: int, observed: float) -> None:
    null = np.random.default_rng(seed).normal(size=40)
    p, rank = p_value(observed, null), (1 + (null >= observed).sum()) / 41
    assert 0 < p <= 1
    assert p >= rank - 1e-12 or observed > null.max()
    assert p_value(observed + 1, null) <= p
    assert p_value(9.0, null) < 0.001


def test_p_values_are_no_smaller_than_even_where_nothing_is_wrong() -> None:
    generator = np.random.default_rng(0)
    slow = lfilter([np.sqrt(1 - 0.8**2)], [1.0, -0.8], generator.normal(size=(2000, 80)), axis=1)[:, -41:]
    for runs in (generator.normal(size=(2000, 41)), slow):
        p_values = np.array([p_value(run[-1], run[:-1]) for run in runs])
        for level in (0.001, 0.01, 0.05, 0.25):
            assert (p_values <= level).mean() <= level + 3 * (level / 2000) ** 0.5
    moves = np.array([shift_test(run[0], run[1:]).p_value for run in generator.lognormal(size=(400, 41, 5))])
    for level in (0.001, 0.01, 0.05, 0.25):
        assert (moves <= level).mean() <= level + 3 * (level / 400) ** 0.5


def test_values_that_depend_on_each_other_count_as_fewer() -> None:
    generator = np.random.default_rng(0)
    walk = np.cumsum(generator.normal(size=40))
    assert effective_count(walk) < 10
    assert effective_count(generator.normal(size=40)) > 15
    assert p_value(walk.max() + 1, walk) > p_value(walk.max() + 1, generator.permutation(walk))


def test_the_feature_that_left_its_own_past_stands_out() -> None:
    past = np.random.default_rng(0).lognormal(np.log([0.05, 2.0, 0.3]), 0.3, (40, 3))
    shifts = shift_test(np.array([0.4, 2.0, 0.3]), past)
    assert int(shifts.deviations.argmax()) == 0
    assert shifts.p_value < 0.01
    assert shift_test(np.array([0.05, 2.0, 0.3]), past).p_value > 0.1


def test_a_disk_that_refuses_past_pairs_stops_no_check(tmp_path, capsys):
    store = PastStore(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").mkdir()
    store.add([DriftedWindow(from_ns=1, until_ns=2)])
    assert store.drifted(0, 3)
    assert "free the disk" in capsys.readouterr().err
