"""What a candidate loses: the figures, and how sure they are."""

import numpy as np
import pytest

from lobsmith.evaluation.fidelity import Fidelity, fidelity
from lobsmith.evaluation.metrics import confusion, log_losses, mcc
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.market.simulator import simulate
from lobsmith.models.split import usable_rows
from tests.small import small_params

WEIGHTS = (1.0, 0.5)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return build_dataset(simulate(seed=5, seconds=120), small_params())


@pytest.fixture(scope="module")
def rows(dataset: Dataset) -> np.ndarray:
    return usable_rows(dataset)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (grown / grown.sum(axis=2, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def logits(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Of a predictor with a little skill."""
    noise = np.random.default_rng(1).normal(size=(len(rows), 2, 3))
    return noise + 0.8 * np.eye(3)[dataset.labels[rows]]


def measured(dataset: Dataset, rows: np.ndarray, candidate: np.ndarray, reference: np.ndarray) -> Fidelity:
    return fidelity(dataset, rows, candidate, reference, WEIGHTS)


def test_the_network_itself_loses_nothing(dataset: Dataset, rows: np.ndarray, logits: np.ndarray) -> None:
    result = measured(dataset, rows, softmax(logits), softmax(logits))
    for figure in (result.delta_log_loss, result.delta_mcc):
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)
    assert (result.agreement.value, result.agreement.low, result.rows) == (1, 1, len(rows))


def test_the_figures_are_those_counted_by_hand(dataset: Dataset, rows: np.ndarray, logits: np.ndarray) -> None:
    reference = softmax(logits)
    candidate = softmax(logits + np.random.default_rng(2).normal(size=logits.shape) * 0.3)
    result = measured(dataset, rows, candidate, reference)
    labels = dataset.labels[rows]
    share = np.array(WEIGHTS) / sum(WEIGHTS)

    def loss(p: np.ndarray) -> float:
        return sum(share[h] * log_losses(p[:, h], labels[:, h]).mean() for h in range(2))

    def correlation(p: np.ndarray) -> float:
        return sum(share[h] * float(mcc(confusion(p[:, h], labels[:, h]))) for h in range(2))

    assert result.delta_log_loss.value == pytest.approx(loss(candidate) / loss(reference) - 1)
    assert result.delta_mcc.value == pytest.approx(correlation(candidate) - correlation(reference))
    assert result.agreement.value == pytest.approx((candidate.argmax(axis=2) == reference.argmax(axis=2)).mean())
    for figure in (result.delta_log_loss, result.delta_mcc, result.agreement):
        assert figure.low < figure.value < figure.high


def test_noise_costs_and_the_more_the_worse(dataset: Dataset, rows: np.ndarray, logits: np.ndarray) -> None:
    reference, noise = softmax(logits), np.random.default_rng(3).normal(size=logits.shape)
    slight, strong = (measured(dataset, rows, softmax(logits + size * noise), reference) for size in (0.1, 1.0))
    assert strong.delta_log_loss.low > 0
    assert strong.delta_log_loss.value > slight.delta_log_loss.value
    assert strong.delta_mcc.high < 0
    assert strong.agreement.high < slight.agreement.low


def test_a_horizon_without_weight_does_not_count(dataset: Dataset, rows: np.ndarray, logits: np.ndarray) -> None:
    reference = softmax(logits)
    candidate = reference.copy()
    candidate[:, 1] = candidate[:, 1, ::-1]
    result = fidelity(dataset, rows, candidate, reference, (1.0, 0.0))
    assert (result.delta_log_loss.value, result.delta_mcc.value) == (0, 0)
    # Agreement counts the directions of all horizons.
    assert result.agreement.value < 0.9
