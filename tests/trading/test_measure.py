import math

import numpy as np
import pytest

from lobsmith.trading.measure import score


def test_log_loss_and_accuracy_by_hand() -> None:
    p = np.array([[[0.5, 0.25, 0.25]], [[0.1, 0.8, 0.1]], [[math.nan] * 3], [[0.2, 0.2, 0.6]]], np.float32)
    labels = np.array([[0], [2], [1], [-1]], np.int8)
    (only,) = score(p, labels, (100,))
    assert (only.horizon_ms, only.rows, only.accuracy) == (100, 2, 0.5)
    assert only.log_loss == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_a_certainty_that_was_wrong_is_costly_but_finite() -> None:
    (only,) = score(np.array([[[1.0, 0.0, 0.0]]], np.float32), np.array([[2]], np.int8), (100,))
    assert 10 < only.log_loss < 20


def test_no_answer_at_all_is_no_number() -> None:
    (only,) = score(np.full((2, 1, 3), np.nan, np.float32), np.array([[2], [0]], np.int8), (100,))
    assert only.rows == 0
    assert math.isnan(only.accuracy)
    assert math.isnan(only.log_loss)
