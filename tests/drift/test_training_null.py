"""The null distribution of a training window, and the first checks, which are ranked in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from lobsmith.drift.covariate import TrainingWindow, check_covariate_drift
from lobsmith.drift.null_distribution import LEFT_OUT, PastStore, measured_in_training, past_key
from lobsmith.drift.reference import RawRows, Reference, Scaling
from lobsmith.drift.training_null import StreamNull, TrainingNull, load_null, save_null, training_null
from lobsmith.drift.verdict import DriftVerdict, Finding
from lobsmith.drift.windows import Lengths, fitted, left_out_pairs
from lobsmith.errors import DataError
from tests.drift.drift_rows import FEATURES, NAMES, S, drift_params, market
from tests.online.live_traffic import answers, times

SCALING = Scaling(np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32))
TRAINED_S, NEW_S = 1600, 100
PARAMS = fitted(drift_params(), TRAINED_S * S)


def shifted(rows: RawRows, from_s: int, shift: float) -> RawRows:
    raw = rows.raw.copy()
    raw[from_s:, 3] += shift
    return RawRows(rows.time_ns, rows.segment, raw)


def check(rows: RawRows, now_s: int, store: PastStore, training: TrainingWindow, level: float = 0.01) -> DriftVerdict:
    return check_covariate_drift(
        training.rows.newest(Lengths.of(PARAMS).reference),
        rows.between((now_s - NEW_S) * S, now_s * S),
        rows.between(0, (now_s - NEW_S) * S),
        SCALING,
        store,
        PARAMS,
        level=level,
        training_window=training,
        names=NAMES,
    )


@pytest.fixture(scope="module")
def training() -> TrainingWindow:
    rows = market(TRAINED_S)
    return TrainingWindow(rows, measured_in_training(rows, SCALING, PARAMS))


def test_windows_of_short_data_are_shorter_and_of_too_short_data_are_not() -> None:
    long = drift_params()
    assert fitted(long, 16 * 250 * S) == long
    assert (PARAMS.reference_s, PARAMS.recent_s) == (1000.0, NEW_S)
    half = fitted(long, 800 * S)
    assert (half.reference_s, half.recent_s, half.minimum_rows) == (800.0, 50.0, 20)
    assert fitted(long, 300 * S) == long


def test_a_left_out_window_and_its_neighbours_are_no_part_of_the_rest() -> None:
    rows, lengths = market(TRAINED_S), Lengths.of(PARAMS)
    pairs = list(left_out_pairs(rows, lengths))
    assert [pair.from_ns // S for pair in pairs] == list(range(0, TRAINED_S - NEW_S, NEW_S // 2))
    for pair in pairs:
        near = np.abs(pair.reference.time_ns - (pair.from_ns + NEW_S * S // 2)) < NEW_S * S
        assert not near.any()
        inside = pair.from_ns >= (TRAINED_S - 1000 + NEW_S) * S and pair.from_ns < (TRAINED_S - 2 * NEW_S) * S
        assert len(pair.recent) == NEW_S
        assert len(pair.reference) == (1000 - 2 * NEW_S if inside else len(pair.reference))
        # What lies before the hole and after it is not one run.
        assert not inside or len(np.unique(pair.reference.segment)) == 2


def test_the_first_full_window_has_a_verdict_and_its_evidence(tmp_path: Path, training: TrainingWindow) -> None:
    rows, store = market(TRAINED_S + 400), PastStore(tmp_path / "past.jsonl")
    first = check(rows, TRAINED_S + NEW_S, store, training)
    assert first.finding is Finding.NO_DRIFT
    assert first.reason.endswith("among 30 windows of 100 s of the training data and 0 checks")
    # The windows were measured at publication, this check is all that is new.
    assert list(store.measured(past_key(SCALING, PARAMS), LEFT_OUT)) == [TRAINED_S * S]
    second = check(rows, TRAINED_S + 2 * NEW_S, store, training)
    assert (second.finding, second.past) == (Finding.NO_DRIFT, 31)
    assert "and 1 check" in second.reason
    # A check that shares half of its rows with the one before does not count again.
    overlapping = check(rows, TRAINED_S + 2 * NEW_S + NEW_S // 2, store, training)
    assert overlapping.past == 31


def test_a_large_change_is_drift_at_the_first_check_and_stays_out_of_the_null_distribution(
    tmp_path: Path, training: TrainingWindow
) -> None:
    rows, store = shifted(market(TRAINED_S + 400), TRAINED_S, 3.0), PastStore(tmp_path / "past.jsonl")
    for number in (1, 2, 3):
        verdict = check(rows, TRAINED_S + number * NEW_S, store, training, level=0.0012)
        assert (verdict.finding, verdict.past, verdict.moved[0].name) == (Finding.DRIFT, 30, "feature_3"), (
            verdict.reason
        )


def test_a_version_without_measured_windows_measures_them_once(tmp_path: Path, training: TrainingWindow) -> None:
    rows, store = market(TRAINED_S + 400), PastStore(tmp_path / "past.jsonl")
    late = check(rows, TRAINED_S + NEW_S, store, TrainingWindow(training.rows))
    assert late == check(rows, TRAINED_S + NEW_S, PastStore(tmp_path / "other.jsonl"), training)
    again = check(rows, TRAINED_S + 2 * NEW_S, PastStore(tmp_path / "past.jsonl"), TrainingWindow(training.rows))
    assert again.past == 31


def test_windows_with_constant_answers_are_too_few_for_no_drift(tmp_path: Path, training: TrainingWindow) -> None:
    slow = [structs.replace(pair, auc=0.6 + 0.3 * at / 30) for at, pair in enumerate(training.measured)]
    verdict = check(
        market(TRAINED_S + 400),
        TRAINED_S + NEW_S,
        PastStore(tmp_path / "past.jsonl"),
        TrainingWindow(training.rows, slow),
    )
    assert verdict.finding is Finding.INSUFFICIENT
    assert "independent ones, fewer than 6" in verdict.reason


SHOWN = answers(times(3200, seed=1), 0.5, seed=1)
FIRST = SHOWN.time_ns < SHOWN.time_ns[0] + 1600 * S


@pytest.fixture(scope="module")
def null() -> TrainingNull:
    """The null distribution of half an hour of answers, and of rows that are too few for any window."""
    few = market(200)
    reference = Reference({"a:A": few, "b:B": few}, SCALING, 1000)
    return training_null(reference, {"a:A": cut(SHOWN, FIRST)}, drift_params(), 1000)


def test_a_null_is_kept_as_it_is_and_a_corrupt_one_is_named(tmp_path: Path, null: TrainingNull) -> None:
    assert null.streams["b:B"] == StreamNull(rows=(), answers=None)
    path = tmp_path / "null.json"
    save_null(null, path)
    assert load_null(path) == null
    content = path.read_bytes()
    save_null(load_null(path), path)
    assert path.read_bytes() == content
    path.write_bytes(content[:-10])
    with pytest.raises(DataError, match=r"null\.json: not the null of a training window"):
        load_null(path)


def test_answers_that_go_on_as_before_are_no_drift_and_worse_ones_are(null: TrainingNull) -> None:
    held_out = null.streams["a:A"].answers
    assert held_out is not None
    assert held_out.recent_s == pytest.approx(100, rel=0.01)
    end_ns = int(SHOWN.time_ns[-1]) + 1
    shifts, losses = ([getattr(window, name) for window in held_out.windows] for name in ("shift", "loss"))
    later = held_out.newest(cut(SHOWN, ~FIRST), end_ns)
    assert held_out.shift(later)[0] < 1.5 * max(shifts)
    worse = held_out.newest(answers(SHOWN.time_ns, 1.5, seed=1), end_ns)
    assert held_out.shift(worse)[0] > 2 * max(shifts)
    assert held_out.loss(worse)[0] > max(losses) + 0.5


def cut(shown, chosen):
    names = ("time_ns", "segment", "labels", "probabilities", "latency_ns")
    return replace(shown, **{name: getattr(shown, name)[chosen] for name in names})
