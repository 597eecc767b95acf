import numpy as np
import pytest
import torch

from lobsmith.evaluation.calibration import Floor, calibration_floor
from lobsmith.evaluation.metrics import expected_calibration_error

MS = 1_000_000
HORIZON = 100 * MS


def probabilities(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([0.7, 1.0, 0.7], rows).astype(np.float32)


def spaced(rows: int, step_ms: float) -> np.ndarray:
    return (np.arange(rows) * step_ms * MS).astype(np.int64)


def floor(p: np.ndarray, step_ms: float, **options: int) -> Floor:
    (only,) = calibration_floor([p], spaced(len(p), step_ms), HORIZON, **options)
    return only


def test_the_floor_of_labels_that_do_not_overlap_shrinks_with_the_rows() -> None:
    few, many = floor(probabilities(1_000), 100), floor(probabilities(16_000), 100)
    assert few.median / many.median == pytest.approx(4.0, rel=0.2)
    assert few.high / many.high == pytest.approx(4.0, rel=0.25)
    assert few.high > few.median > 0


def test_the_floor_without_overlap_is_that_of_independent_draws() -> None:
    p, generator = probabilities(1_500), np.random.default_rng(1)
    cumulated = p.astype(np.float64).cumsum(axis=1)
    errors = [
        expected_calibration_error(p, (cumulated[:, :2] < generator.random((len(p), 1))).sum(axis=1))
        for _ in range(600)
    ]
    result = floor(p, 150, draws=600)
    assert result.median == pytest.approx(np.median(errors), rel=0.06)
    assert result.high == pytest.approx(np.percentile(errors, 95), rel=0.08)


def test_overlap_raises_the_floor() -> None:
    p = probabilities(4_000)
    # With 16 rows in a horizon there are about 16 times fewer independent labels in a bin of equal probabilities.
    same = np.tile(p[:1], (4_000, 1))
    alone, overlapping = floor(same, 100), floor(same, 100 / 16)
    assert overlapping.median > 2.5 * alone.median
    assert floor(p, 100 / 64).median > 1.2 * floor(p, 100).median


def test_the_correlation_is_the_share_of_the_horizon_in_common() -> None:
    # One bin, two rows: the error is |0.5 − hits / 2|, zero where the two labels differ. For an even class that has
    # probability 1/2 − arcsin(ρ) / π.
    p = np.array([[0.5, 0.0, 0.5]] * 2)
    for share in (0.0, 0.25, 0.75, 1.0):
        time = np.array([0, (1 - share) * HORIZON], np.int64)
        differ = 0.5 - np.arcsin(share) / np.pi
        zero = 0
        for seed in range(400):
            (result,) = calibration_floor([p], time, HORIZON, draws=1, seed=seed)
            zero += result.median == 0.0
        assert zero / 400 == pytest.approx(differ, abs=0.08)


def test_perfect_probabilities_stay_below_their_floor_as_often_as_promised() -> None:
    """Labels come from a moving average on a grid of 1 ms, made without the code under test."""
    generator = np.random.default_rng(9)
    rows, replications = 3_000, 300
    at = np.sort(generator.integers(0, 20_000, rows))
    # Probabilities that stay similar for a while, as those of a network do.
    p = torch.softmax(torch.from_numpy(np.repeat(generator.normal(size=(rows // 50, 3)), 50, axis=0)), 1).numpy()
    (dependent,) = calibration_floor([p], at * MS, HORIZON)
    (independent,) = calibration_floor([p], spaced(rows, 200), HORIZON)
    cumulated = p.cumsum(axis=1)
    errors = []
    for _ in range(replications):
        noise = generator.normal(size=20_100)
        z = np.convolve(noise, np.ones(100), "valid")[at + 1] / 10.0
        u = torch.special.ndtr(torch.from_numpy(z)).numpy()
        errors.append(expected_calibration_error(p, (cumulated[:, :2] < u[:, None]).sum(axis=1)))
    assert 0.89 <= np.mean(np.array(errors) <= dependent.high) <= 0.99
    assert 0.38 <= np.mean(np.array(errors) <= dependent.median) <= 0.62
    assert np.mean(np.array(errors) <= independent.high) < 0.5


def test_certainties_have_no_floor() -> None:
    assert floor(np.tile([[0.0, 1.0, 0.0]], (500, 1)), 3) == Floor(0.0, 0.0)


def test_each_predictor_has_the_floor_that_it_has_alone() -> None:
    first, second, time = probabilities(800, 1), probabilities(800, 2), spaced(800, 10)
    together = calibration_floor([first, second], time, HORIZON, seed=5)
    assert together == [calibration_floor([p], time, HORIZON, seed=5)[0] for p in (first, second)]
    assert together[0] != together[1]
    assert together != calibration_floor([first, second], time, HORIZON, seed=6)
