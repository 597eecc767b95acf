import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lobsmith.evaluation.metrics import (
    average_precision,
    confusion,
    expected_calibration_error,
    log_losses,
    macro_f1,
    mcc,
    reliability,
)
from lobsmith.evaluation.results import ReliabilityPoint

COUNTS = arrays(np.int64, (3, 3), elements=st.integers(0, 10**6))


def predictions(rows: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), rows).astype(np.float32)
    y = (p.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1).clip(max=classes - 1).astype(np.int8)
    return p, y


def test_log_losses_by_hand() -> None:
    p = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])
    assert log_losses(p, np.array([0, 2, 1], np.int8)).tolist() == pytest.approx(
        [math.log(2), math.log(10), 7 * math.log(10)]
    )


def test_confusion_by_hand() -> None:
    p = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    assert confusion(p, np.array([0, 1, 0, 2], np.int8)).tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_macro_f1_and_mcc_by_hand() -> None:
    # F1: 2·4 / (5 + 6), 2·3 / (6 + 5), 2·5 / (6 + 6); R_K: (12·17 − 96) / √((289 − 97)(289 − 97)).
    table = np.array([[4, 1, 0], [1, 3, 2], [1, 1, 4]])
    true, predicted, hits = [5, 6, 6], [6, 5, 6], [4, 3, 4]
    f1 = [2 * h / (t + p) for h, t, p in zip(hits, true, predicted, strict=True)]
    assert macro_f1(table) == pytest.approx(sum(f1) / 3)
    assert mcc(table) == pytest.approx((11 * 17 - (30 + 30 + 36)) / (17**2 - 97))


def test_what_says_nothing_scores_nothing() -> None:
    always_first = np.array([[5, 0, 0], [3, 0, 0], [2, 0, 0]])
    assert mcc(always_first) == 0.0
    assert mcc(np.zeros((3, 3))) == 0.0
    assert macro_f1(np.zeros((3, 3))) == 0.0
    assert mcc(np.diag([3, 4, 5])) == pytest.approx(1.0)
    assert macro_f1(np.diag([3, 4, 5])) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed: int) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    p, y = predictions(700, seed)
    predicted = p.argmax(axis=1)
    table = confusion(p, y)
    assert table.tolist() == reference.confusion_matrix(y, predicted, labels=[0, 1, 2]).tolist()
    assert macro_f1(table) == pytest.approx(reference.f1_score(y, predicted, average="macro"), abs=1e-12)
    assert mcc(table) == pytest.approx(reference.matthews_corrcoef(y, predicted), abs=1e-12)
    wide = p.astype(np.float64) / p.sum(axis=1, keepdims=True, dtype=np.float64)
    assert log_losses(wide, y).mean() == pytest.approx(reference.log_loss(y, wide, labels=[0, 1, 2]), abs=1e-9)
    for c in range(3):
        rounded = p[:, c].round(1)  # many rows of equal score
        for score in (p[:, c], rounded):
            expected = reference.average_precision_score(y == c, score)
            assert average_precision(score, y == c) == pytest.approx(expected, abs=1e-12)


def test_many_matrices_at_once_are_each_alone() -> None:
    tables = np.random.default_rng(3).integers(0, 50, (4, 6, 3, 3))
    for measure in (macro_f1, mcc):
        together = measure(tables)
        assert together.shape == (4, 6)
        assert together[2, 5] == measure(tables[2, 5])
        assert len(np.unique(together)) > 20


@given(COUNTS)
def test_mcc_is_a_correlation(table: np.ndarray) -> None:
    assert -1.0 <= mcc(table) <= 1.0
    assert mcc(table) == pytest.approx(mcc(table.T), abs=1e-9)


@given(COUNTS, st.permutations(range(3)))
def test_names_of_classes_do_not_matter(table: np.ndarray, order: list[int]) -> None:
    renamed = table[np.ix_(order, order)]
    assert macro_f1(renamed) == pytest.approx(macro_f1(table), abs=1e-12)
    assert mcc(renamed) == pytest.approx(mcc(table), abs=1e-9)


def test_average_precision_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.8, 0.1])
    hit = np.array([True, False, True, True])
    assert average_precision(score, hit) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 4)
    assert average_precision(score, np.zeros(4, bool)) == 0.0
    assert average_precision(score[:0], hit[:0]) == 0.0


def test_reliability_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.0, 0.0, 1.0]])
    y = np.array([0, 1, 2, 0], np.int8)
    assert reliability(p, y, 5) == [ReliabilityPoint(0.5, 0.5, 2), ReliabilityPoint(0.9, 0.5, 2)]
    assert expected_calibration_error(p, y, 5) == pytest.approx(0.2)
    assert expected_calibration_error(p, y, 10) == pytest.approx((0 + 1 * 0.2 + 1 * 1.0) / 4)


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not() -> None:
    p, y = predictions(200_000, 1)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(p, y) < 0.005
    assert expected_calibration_error(sharp, y) > 0.1
